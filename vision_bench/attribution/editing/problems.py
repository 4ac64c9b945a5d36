"""The problems that edits are for: forget classes, mend mistakes, close a backdoor, help a group.

Source: arXiv:2404.11534, section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from aim_plugins.core.errors import did_you_mean, first_few
from vision_bench.attribution.editing.choices import TRIGGERED, WORST_GROUP, WRONG
from vision_bench.attribution.editing.goal import Examined, Goal
from vision_bench.attribution.editing.settings import EditSettings
from vision_bench.attribution.editing.split import draw, without
from vision_bench.data.classes import class_index
from vision_bench.data.classification import ClassificationData
from vision_bench.data.trigger import JoinedImages, TriggeredImages

EDITED_IMAGES, ALIKE, OTHERS = "edited images", "mistakes alike", "other images"
PATCHED, CLEAN = "with patch", "clean"
ALL = "all images"

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
        selection: Images that select, and are not among these.
        test: Images that are tested.
        attack: The class that a patch stands for; None without one.
        note: What else there is to know of the parts; empty where there is nothing.
    """

    words: str
    targets: ClassificationData
    references: ClassificationData
    goal: Goal
    selection: Examined
    test: Examined
    attack: int | None = None
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
            return [one for one in places if one in set(allowed)]
        if settings.references:
            chosen = members_of(self.data, settings.references, "references")
            allowed = [one for one in allowed if chosen[one]]
        return self.drawn(allowed, settings.reference_count, "references")


def make_problem(
    settings: EditSettings,
    data: ClassificationData,
    test: ClassificationData,
    answering: Answering,
) -> Problem:
    """Makes the problem that the settings ask for.

    Args:
        settings: What is asked.
        data: Images that are attributed and select.
        test: Images that are tested.
        answering: What the model answers.

    Raises:
        ValueError: If there are no such images, or too few.
        FileNotFoundError: If there is no such file.
    """
    found = _MAKERS[settings.kind](Sources(settings, data, test, answering))
    for part in (*found.goal.aims, *found.goal.rest):
        for name, examined in (("select", found.selection), ("are tested", found.test)):
            if not examined.parts[part].any():
                raise ValueError(
                    f"targets={settings.words!r}: none of the images that {name} are of "
                    f"{part!r}: give more images (limit), or another selection_share"
                )
    return found


def _of_classes(sources: Sources) -> Problem:
    """Classes that are forgotten, or told better."""
    settings, data, test = sources.settings, sources.data, sources.test
    own = members_of(data, settings.targets, "targets")
    targets = sources.drawn(own.nonzero().flatten().tolist(), settings.target_count, "targets")
    references = sources.references((~own).nonzero().flatten().tolist())
    labels = sorted(set(test.labels[members_of(test, settings.targets, "targets")].tolist()))
    named = first_few([test.classes[one] for one in labels])
    name, others = f"class {named}" if len(labels) == 1 else f"classes {named}", "other classes"

    def parts(given: ClassificationData) -> dict[str, Bool[Tensor, " images"]]:
        members = members_of(given, settings.targets, "targets")
        return {name: members, others: ~members}

    return _plain(
        sources,
        f"{'forget' if settings.lowers else 'better tell'} {name}",
        targets,
        references,
        Goal([name], [others], lower=settings.lowers),
        parts,
    )


def _of_images(sources: Sources) -> Problem:
    """Images that are named, or some of those that are answered wrongly."""
    settings, data, test = sources.settings, sources.data, sources.test
    answers = sources.answering(data)
    if settings.kind == WRONG:
        wrong = ((answers >= 0) & (answers != data.labels)).nonzero().flatten().tolist()
        targets = sources.drawn(wrong, settings.target_count, "targets")
    else:
        targets = named_images(Path(str(settings.targets[0])), data, "targets")
    references = sources.references(without(range(len(data)), targets))
    rest = sources.rest([*targets, *references])
    kinds = {(int(data.labels[one]), int(answers[one])) for one in targets}
    kinds = {(label, answer) for label, answer in kinds if label != answer}
    own = sources.chosen(targets, "targets")
    tested = sources.answering(test)
    pairs = zip(test.labels.tolist(), tested.tolist(), strict=True)
    alike = torch.tensor([False] * len(own) + [pair in kinds for pair in pairs])
    examined = joined(own, test)
    places = torch.arange(len(examined)) < len(own)
    parts = {EDITED_IMAGES: places, ALIKE: alike, OTHERS: ~places & ~alike}
    if not alike.any() or settings.lowers:
        parts = {EDITED_IMAGES: places, OTHERS: ~places}
    selecting = joined(own, data.subset(rest))
    chosen = torch.arange(len(selecting)) < len(own)
    count = "an image" if len(own) == 1 else f"{len(own)} images"
    return Problem(
        f"{'lower' if settings.lowers else 'raise'} the margin of {count}",
        own,
        sources.chosen(references, "references"),
        Goal([EDITED_IMAGES], [OTHERS], lower=settings.lowers),
        Examined(selecting, {EDITED_IMAGES: chosen, OTHERS: ~chosen}),
        Examined(examined, parts),
        note="The edited images are those that the edit was made of, and not held out; mistakes "
        "alike are test images of the same classes that the model answers with the same wrong "
        "ones. As they are chosen by their wrong answers, any change mends some of them: hold "
        "them against the random edits.",
    )


def _of_backdoor(sources: Sources) -> Problem:
    """Images with a patch that stands for a class, to be answered as without it."""
    settings, data, test = sources.settings, sources.data, sources.test
    assert settings.backdoor_class is not None
    label = class_index(settings.backdoor_class, data.classes, "backdoor_class")
    others = (data.labels != label).nonzero().flatten().tolist()
    chosen = sources.drawn(others, settings.target_count, "targets")
    references = sources.chosen(chosen, "targets")

    def patched(given: ClassificationData, places: Sequence[int]) -> ClassificationData:
        images = given.images.subset(list(places))
        return given.subset(places, TriggeredImages(images, settings.trigger))

    def examined(given: ClassificationData, places: Sequence[int]) -> Examined:
        attacked = [one for one in places if int(given.labels[one]) != label]
        both = joined(patched(given, attacked), given.subset(places))
        first = torch.arange(len(both)) < len(attacked)
        return Examined(both, {PATCHED: first, CLEAN: ~first})

    return Problem(
        f"answer images with the patch as without it, not with {data.classes[label]}",
        patched(data, chosen),
        references,
        Goal([PATCHED], [CLEAN]),
        examined(data, sources.rest(chosen)),
        examined(test, range(len(test))),
        attack=label,
        note=f"With patch: test images of all classes but {data.classes[label]}, with the patch "
        "on them; they are right when they are answered with their own class.",
    )


def _of_groups(sources: Sources) -> Problem:
    """The group that the model is worst at."""
    settings, data, test = sources.settings, sources.data, sources.test
    if data.groups is None or test.groups is None:
        raise ValueError(
            f"targets={WORST_GROUP!r}: {data.title} has no groups: give dataset='waterbirds' or "
            "'celeba'"
        )
    answers = sources.answering(data)
    present = data.groups.unique().tolist()
    shares = {
        one: float((answers == data.labels)[data.groups == one].double().mean()) for one in present
    }
    worst = min(shares, key=lambda one: shares[one])
    own = data.groups == worst
    targets = sources.drawn(own.nonzero().flatten().tolist(), settings.target_count, "targets")
    references = sources.references((~own).nonzero().flatten().tolist())
    names = [data.group_names[one] for one in present]

    def parts(given: ClassificationData) -> dict[str, Bool[Tensor, " images"]]:
        assert given.groups is not None
        found = {data.group_names[one]: given.groups == one for one in present}
        return {**found, ALL: torch.ones(len(given), dtype=torch.bool)}

    return _plain(
        sources,
        f"answer {data.group_names[worst]} better, the group that the model is worst at "
        f"({shares[worst]:.0%} of those that select)",
        targets,
        references,
        Goal(names, [ALL], lower=settings.lowers, worst=True),
        parts,
    )


def _plain(
    sources: Sources,
    words: str,
    targets: Sequence[int],
    references: Sequence[int],
    goal: Goal,
    parts: Callable[[ClassificationData], dict[str, Bool[Tensor, " images"]]],
) -> Problem:
    """A problem whose images are those of the data set, some attributed and the rest selecting."""
    data = sources.data
    rest = data.subset(sources.rest([*targets, *references]))
    return Problem(
        words,
        sources.chosen(targets, "targets"),
        sources.chosen(references, "references"),
        goal,
        Examined(rest, parts(rest)),
        Examined(sources.test, parts(sources.test)),
    )


_MAKERS: dict[str, Callable[[Sources], Problem]] = {
    "classes": _of_classes,
    "images": _of_images,
    WRONG: _of_images,
    TRIGGERED: _of_backdoor,
    WORST_GROUP: _of_groups,
}


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
