"""Learned masks as a change of the weights, whose strength is the ratio that is retained.

A training path passes through masks of many ratios, from all weights to few. The artifact keeps
some of them, each with the head that was trained along, so that one folder answers what a module of
any of its sizes is worth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from aim_plugins.core import artifact
from aim_plugins.core.artifact import ArtifactMetadata, file_states
from aim_plugins.core.files import existing_folder
from aim_plugins.core.identity import fingerprint
from aim_plugins.core.strengths import Axis, format_strength
from aim_plugins.modulation.changes import Change

if TYPE_CHECKING:
    from torch import Tensor

PATH = "path"
"""Stands for all ratios along a training path."""
_NEAR = 5e-4
"""How far a ratio may be rounded where it is named."""


@dataclass(frozen=True)
class MaskMetadata(ArtifactMetadata):
    """What masks were learned on, and how.

    Attributes:
        method: "weight" or "channel": what has a mask of its own.
        sites: The masked parameters.
        shapes: The shapes of their masks, which spread over the parameters'.
        classes: Names of the classes that the module tells apart, in the order of its outputs.
        class_indices: For each of them, the classes of the model that it stands for; empty where
            the model's own outputs stay.
        ratios: Of each mask, the share of weights and biases of convolutions and linear layers that
            is retained.
        selected: Which of them was chosen on the validation split.
        notes: Of each of them, what was measured while training.
        settings: How it was learned.
    """

    KIND: ClassVar[str] = "mask"
    MADE_BY: ClassVar[str] = "`vision-bench reengineer run` or `aim-plugins reengineer`"

    shapes: Sequence[Sequence[int]] = ()
    classes: Sequence[str] = ()
    class_indices: Sequence[Sequence[int]] = ()
    ratios: Sequence[float] = ()
    selected: int = 0
    notes: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MaskPoint:
    """One of the masks of a path.

    Attributes:
        masks: By parameter, true where it is retained, in a shape that spreads over the
            parameter's.
        head: Tensors of the module's head; empty where it has none.
        channels: Of gates on channels, for each group which are open; empty of masks on weights.
    """

    masks: Mapping[str, Tensor]
    head: Mapping[str, Tensor] = field(default_factory=dict)
    channels: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class LearnedMasks:
    """Masks along a training path, with what they were learned on.

    Attributes:
        points: In the order of the ratios.
        metadata: What is known of them.
    """

    points: Sequence[MaskPoint]
    metadata: MaskMetadata

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the masks."""
        from hashlib import sha256

        digest = sha256(
            fingerprint([list(self.metadata.sites), list(self.metadata.ratios)]).encode()
        )
        for name, tensor in sorted(_tensors(self).items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()

    @property
    def selected(self) -> MaskPoint:
        """The one that was chosen on the validation split."""
        return self.points[self.metadata.selected]

    def at(self, ratio: float) -> MaskPoint | None:
        """The masks of a ratio; None of 1, the whole model.

        Raises:
            ValueError: If the path has no such ratio.
        """
        place = self.place_of(ratio)
        return None if place is None else self.points[place]

    def place_of(self, ratio: float) -> int | None:
        """Which point of the path has a ratio; None of 1.

        Raises:
            ValueError: If none has.
        """
        known = self.metadata.ratios
        if ratio == 1.0 and 1.0 not in known:
            return None
        near = [place for place, one in enumerate(known) if abs(one - ratio) <= _NEAR]
        if near:
            return min(near, key=lambda place: abs(known[place] - ratio))
        listed = ", ".join(f"{one:.4g}" for one in known)
        raise ValueError(
            f"retained_ratio={format_strength(ratio)} is none of the ratios of these masks: "
            f"{listed}; name some of them, 1 for the whole model, or 'path' for all"
        )

    def save(self, folder: str | Path) -> Path:
        """Writes them into a folder, and returns it.

        Raises:
            OSError: If a file cannot be written.
        """
        return artifact.save(folder, _tensors(self), self.metadata)

    @classmethod
    def load(cls, folder: str | Path) -> LearnedMasks:
        """Reads the masks of a folder.

        Raises:
            ValueError: If a file is missing, damaged, or of another kind.
        """
        tensors, metadata = artifact.load(folder, MaskMetadata)
        points = []
        for place in range(len(metadata.ratios)):
            own = {
                name.removeprefix(f"{place}."): tensor
                for name, tensor in tensors.items()
                if name.startswith(f"{place}.")
            }
            masks = {
                name: _unpack(own[f"mask.{name}"], shape)
                for name, shape in zip(metadata.sites, metadata.shapes, strict=True)
            }
            points.append(MaskPoint(masks, below(own, "head"), below(own, "channels")))
        return cls(points, metadata)

    def check_model(self, model: Any, *, force: bool = False) -> None:
        """Checks that a model is the one they were learned on.

        Raises:
            ValueError: If it is another one, unless forced.
        """
        self.metadata.check_model(model, force=force)


@dataclass(frozen=True)
class RetainedWeights(Change):
    """A model of which only the weights that a mask retains are left.

    Attributes:
        strength: The retained ratio, one of those along the training path; 1 is the whole model.
        fingerprint: Fingerprint of the masks.
        learned: The masks.
        folder: Where they were read from.
        force: Whether they may act on another model than they were learned on.
    """

    name = "mask"
    axis = Axis("retained_ratio", "r", "retained ratio", low=0.0, high=1.0)
    acts_on = "weights"
    arguments = {
        "retained_ratio": "ratios along a mask's training path, or 'path' for all of them and 1; "
        "by default the one that was selected",
        "mask": "folder of masks that `aim-plugins reengineer` wrote (those of `vision-bench "
        "reengineer run` have a head of their own, and are loaded by `vision-bench reengineer`)",
        "force_mask": "let the masks act on other weights than they were learned on",
    }
    words = (PATH,)
    neutral = 1.0

    strength: float
    fingerprint: str = ""
    learned: LearnedMasks | None = field(default=None, compare=False, repr=False)
    folder: str = field(default="", compare=False)
    force: bool = field(default=False, compare=False)

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> tuple[RetainedWeights, ...]:
        force = str(given.get("force_mask", False))
        if force not in ("True", "False"):
            raise ValueError(f"force_mask={force!r} is neither True nor False: write one")
        named = given.get("mask")
        if not named:
            raise ValueError(
                "mask= is missing: name the folder that `aim-plugins reengineer` wrote, as in "
                "mask=DIR"
            )
        learned, folder = (
            (named, "") if isinstance(named, LearnedMasks) else (read_masks(named), str(named))
        )
        _check_outputs(learned, folder)
        known, asked = learned.metadata, given.get("retained_ratio")
        if asked is None or asked == "":
            ratios: Sequence[float] = (known.ratios[known.selected],)
        elif asked == PATH:
            ratios = [one for one in (1.0, *known.ratios) if one < 1] + [1.0]
        else:
            ratios = cls.axis.parse(asked, "retained_ratio")
        exact = [
            1.0 if (place := learned.place_of(one)) is None else known.ratios[place]
            for one in ratios
        ]
        return tuple(
            cls(one, learned.fingerprint, learned, folder, force == "True")
            for one in dict.fromkeys(exact)
        )

    @property
    def settings(self) -> dict[str, Any]:
        return {"retained_ratio": self.strength, "mask": self.folder}

    def check_model(self, model: Any, tokenizer: Any) -> None:
        if self.learned is not None:
            self.learned.check_model(model, force=self.force)

    @classmethod
    @contextlib.contextmanager
    def applied(
        cls, model: Any, changes: Sequence[RetainedWeights | None], layout: Any = None
    ) -> Iterator[None]:
        from aim_plugins.modulation.masks import masked

        (change,) = changes
        point = None
        if change is not None and change.learned is not None:
            point = change.learned.at(change.strength)
        with contextlib.nullcontext() if point is None else masked(model, point.masks):
            yield


def read_masks(folder: str | Path) -> LearnedMasks:
    """Reads masks, once for each state of their files.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a file is missing, damaged, or of another kind.
    """
    place = existing_folder(folder, "mask")
    return _read(place, file_states(place, MaskMetadata))


def _check_outputs(learned: LearnedMasks, folder: str) -> None:
    """Refuses masks under which the model's own outputs are not those that were trained."""
    if learned.metadata.class_indices or any(point.head for point in learned.points):
        raise ValueError(
            f"mask={folder!r} is of a module with a head of its own, for "
            f"{len(learned.metadata.classes)} classes: use `vision-bench reengineer`, or masks "
            "that `aim-plugins reengineer` wrote"
        )


@lru_cache(maxsize=16)
def _read(folder: Path, _states: tuple[tuple[int, int], ...]) -> LearnedMasks:
    return LearnedMasks.load(folder)


def _tensors(learned: LearnedMasks) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for place, point in enumerate(learned.points):
        for name, mask in point.masks.items():
            found[f"{place}.mask.{name}"] = _pack(mask)
        for name, tensor in point.head.items():
            found[f"{place}.head.{name}"] = tensor.detach().cpu().contiguous()
        for name, channels in point.channels.items():
            found[f"{place}.channels.{name}"] = channels.detach().cpu().contiguous()
    return found


def _pack(mask: Tensor) -> Tensor:
    import numpy as np
    import torch

    return torch.from_numpy(np.packbits(mask.detach().cpu().numpy().reshape(-1)))


def _unpack(bits: Tensor, shape: Sequence[int]) -> Tensor:
    import numpy as np
    import torch

    count = int(np.prod(shape))
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(bool)).view(*shape)


def below(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Those tensors whose names begin with a word and a dot, by the rest of their names."""
    prefix = f"{kind}."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
