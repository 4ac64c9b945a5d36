"""What an edit is for: which images are to change, what is to stay, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from aim_plugins.core.errors import did_you_mean
from vision_bench.attribution.editing.goal import Examined, Goal
from vision_bench.attribution.editing.settings import EditSettings
from vision_bench.attribution.editing.split import without
from vision_bench.data.classes import class_index
from vision_bench.data.classification import ClassificationData
from vision_bench.data.drawing import draw
from vision_bench.data.marks import JoinedImages

Answering = Callable[[ClassificationData], Int[Tensor, " images"]]
"""The classes that the model as it is answers images with; -1 of unreadable ones."""


@dataclass(frozen=True)
class Problem:
    """What an edit is for.

    Attributes:
        words: What it is to do.
        targets: Images whose margins are to change.
        references: What they are told from.
        goal: What it is judged by.
        selection: Images that select; none is attributed but those of `seen`.
        test: Images that are tested, and those of `seen`.
        attack: What it is called that a mark on an image has its way; empty without marks.
        seen: Parts that say nothing of the model as it is, and why: their images made the edit, or
            are chosen by what the model answers.
        note: What else there is to know of the parts; empty where there is nothing.
    """

    words: str
    targets: ClassificationData
    references: ClassificationData
    goal: Goal
    selection: Examined
    test: Examined
    attack: str = ""
    seen: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Sources:
    """What a problem is made of.

    Attributes:
        settings: What is asked.
        data: Images that are attributed and select.
        test: Images that are tested.
        answering: What the model answers.
    """

    settings: EditSettings
    data: ClassificationData
    test: ClassificationData
    answering: Answering

    def drawn(self, members: Sequence[int], count: int, *words: object) -> list[int]:
        """Some positions of `data`."""
        return draw(members, count, self.settings.seed, *words).tolist()

    def chosen(self, positions: Sequence[int], name: str) -> ClassificationData:
        """Images that are attributed.

        Args:
            positions: Where they stand in `data`.
            name: "targets" or "references".

        Raises:
            ValueError: If there are none.
        """
        if not positions:
            raise ValueError(
                f"{name}: none of the {len(self.data)} images that are attributed and select are "
                f"such, with targets={self.settings.words!r}: give more images (limit), or others"
            )
        return self.data.subset(positions)

    def rest(self, attributed: Sequence[int]) -> list[int]:
        """Positions of the images that select: those that are not attributed.

        Raises:
            ValueError: If there are none.
        """
        found = without(range(len(self.data)), attributed)
        if not found:
            raise ValueError(
                f"all {len(self.data)} images are attributed, and none is left to select by: lower "
                "target_count or reference_count, or give more images (limit)"
            )
        return found

    def references(self, allowed: Sequence[int]) -> list[int]:
        """Positions of the references.

        Args:
            allowed: Positions that are no targets.
        """
        settings = self.settings
        if settings.reference_file is not None:
            places = named_images(settings.reference_file, self.data, "references")
            own = set(allowed)
            return [one for one in places if one in own]
        if settings.references:
            chosen = members_of(self.data, settings.references, "references")
            allowed = [one for one in allowed if chosen[one]]
        return self.drawn(allowed, settings.reference_count, "references")


def members_of(
    data: ClassificationData, classes: Sequence[str | int], argument: str
) -> Bool[Tensor, " images"]:
    """Which images are of some classes.

    Raises:
        ValueError: If one is no class.
    """
    chosen = [class_index(one, data.classes, argument) for one in classes]
    return torch.isin(data.labels, torch.tensor(chosen))


def named_images(path: Path, data: ClassificationData, argument: str) -> list[int]:
    """Positions of the images that a file names, a line each.

    Args:
        path: The file.
        data: The images.
        argument: The setting, for errors.

    Raises:
        ValueError: If it names none, or one that is not there.
    """
    names = read_names(path)
    if not names:
        raise ValueError(f"{argument}={str(path)!r} names no image: give a name on each line")
    places = {name: place for place, name in enumerate(data.names)}
    if absent := [name for name in names if name not in places]:
        raise ValueError(
            f"{argument}={str(path)!r} names {absent[0]!r}, which is none of the {len(places)} "
            f"images that are attributed and select: {did_you_mean(absent[0], places)}"
        )
    return [places[name] for name in dict.fromkeys(names)]


def read_names(path: Path) -> list[str]:
    """The names in a file, a line each; empty lines and those behind a # are left out."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def joined(first: ClassificationData, second: ClassificationData) -> ClassificationData:
    """Images of two data sets with the same classes, those of the first before the others."""
    found = ClassificationData(
        first.name,
        JoinedImages([first.images, second.images]),
        [*first.labels.tolist(), *second.labels.tolist()],
        first.classes,
        preprocessing=first.preprocessing,
        on_error=first.on_error,
    )
    found.title = first.title
    return found
