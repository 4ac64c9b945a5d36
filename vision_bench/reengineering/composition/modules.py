"""Modules that lie in folders: read, named, and held against each other and their model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from aim_plugins.core.errors import first_few
from aim_plugins.core.signature import check_signature
from aim_plugins.modulation.retained import LearnedMasks, MaskMetadata, MaskPoint, read_masks
from vision_bench.data.classes import unique_names
from vision_bench.reengineering.choices import MASK
from vision_bench.reengineering.problem import Problem


@dataclass(frozen=True)
class Member:
    """One of the modules that are composed.

    Attributes:
        folder: Where it was read from.
        learned: Its masks, of which the selected ones count.
        name: What it is called, by its classes.
    """

    folder: Path
    learned: LearnedMasks
    name: str = ""

    @property
    def point(self) -> MaskPoint:
        """Its masks and its head."""
        return self.learned.selected

    @property
    def metadata(self) -> MaskMetadata:
        """What is known of it."""
        return self.learned.metadata

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """For each of its outputs, the model's classes that it stands for."""
        return [tuple(group) for group in self.metadata.class_indices]

    @property
    def known(self) -> dict[int, str]:
        """The classes that it knows: those that an output of its own stands for.

        Of a binary problem that is the target, as the other output stands for many.
        """
        return {
            group[0]: name
            for group, name in zip(self.groups, self.metadata.classes, strict=True)
            if len(group) == 1
        }


def mask_folder(folder: str | Path) -> Path:
    """Where the masks of a study's results lie, or of a folder that holds nothing else."""
    place = Path(folder)
    return place / MASK if (place / MASK).is_dir() else place


def read_members(folders: Sequence[str]) -> list[Member]:
    """Reads modules, in an order that does not depend on that of their folders.

    Raises:
        ValueError: If a file is missing or damaged, one is no module of a classifier, two are the
            same, or not all have one granularity.
    """
    members = [Member(Path(one), read_masks(mask_folder(one))) for one in folders]
    for one in members:
        if not one.metadata.class_indices or not one.point.head:
            raise ValueError(
                f"modules={str(one.folder)!r} holds masks without a head for classes: name folders "
                "that `vision-bench reengineer run` wrote"
            )
    _refuse_twins(members)
    first, *others = members
    for one in others:
        if one.metadata.method != first.metadata.method:
            raise ValueError(
                f"modules: {str(first.folder)!r} has granularity={first.metadata.method!r}, "
                f"{str(one.folder)!r} {one.metadata.method!r}: give modules of one granularity"
            )
    members.sort(key=lambda one: (one.groups, one.learned.fingerprint))
    return _named(members)


def check_members(members: Sequence[Member], model: nn.Module, classes: Sequence[str]) -> None:
    """Refuses modules of another model, or whose classes are not those of the data.

    Args:
        members: The modules.
        model: What masks name the parameters of.
        classes: Names of all classes of the data.

    Raises:
        ValueError: If one is.
    """
    names = dict(enumerate(unique_names(classes)))
    for one in members:
        difference = check_signature(model, one.metadata.model_signature)
        if difference is not None and difference.refused:
            raise ValueError(
                f"modules={str(one.folder)!r} was learned on another model "
                f"({one.metadata.learned_on}): {difference.message}; give modules of one model, "
                "and the weights that they were learned on"
            )
        for index, name in one.known.items():
            if names.get(index) != name:
                raise ValueError(
                    f"modules={str(one.folder)!r} calls class {index} {name!r}, the data "
                    f"{names.get(index)!r}: give the data set that it was learned on"
                )
        if not _same_sites(one, members[0]):
            raise ValueError(
                f"modules: {str(members[0].folder)!r} and {str(one.folder)!r} mask different "
                "parameters of the model: learn both with one version"
            )


def union_problem(members: Sequence[Member]) -> Problem:
    """The problem of telling all classes apart that modules know.

    Returns:
        An output for each class, in the model's order, however many modules know it.

    Raises:
        ValueError: If they all know one and the same class.
    """
    known = {index: name for one in members for index, name in sorted(one.known.items())}
    if len(known) < 2:
        raise ValueError(
            f"modules: all of them know {next(iter(known.values()), 'no class')!r} alone, of which "
            "there is nothing to tell apart: give modules of several classes"
        )
    indices = sorted(known)
    return Problem(tuple(known[one] for one in indices), tuple((one,) for one in indices))


def _refuse_twins(members: Sequence[Member]) -> None:
    seen: dict[str, Path] = {}
    for one in members:
        before = seen.setdefault(one.learned.fingerprint, one.folder)
        if before is not one.folder:
            raise ValueError(
                f"modules: {str(before)!r} and {str(one.folder)!r} hold the same masks: name each "
                "module once"
            )


def _named(members: Sequence[Member]) -> list[Member]:
    """Calls each module by its classes, and those of the same classes also by where they lie."""
    named = list(members)
    for place_of in (_nowhere, _name_of_results, str):
        several = Counter(one.name for one in named)
        named = [
            replace(one, name=_title(one, place_of(one.folder)))
            if not one.name or several[one.name] > 1
            else one
            for one in named
        ]
    return named


def _title(member: Member, place: str) -> str:
    classes = first_few(list(member.known.values()))
    title = f"{classes} or not" if len(member.known) == 1 else classes
    return f"{title} ({place})" if place else title


def _nowhere(folder: Path) -> str:
    return ""


def _name_of_results(folder: Path) -> str:
    """What the results are called that a folder of masks belongs to."""
    place = folder.resolve()
    return place.parent.name if place.name == MASK else place.name


def _same_sites(one: Member, other: Member) -> bool:
    mine, theirs = one.metadata, other.metadata
    return (list(mine.sites), [list(shape) for shape in mine.shapes]) == (
        list(theirs.sites),
        [list(shape) for shape in theirs.shapes],
    )
