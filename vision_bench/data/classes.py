"""Classes of a data set by name or index, as users name them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from aim_plugins.core.errors import did_you_mean

FEW_CLASSES = 10
"""A classifier of at most so many classes shows each of them in the report."""


def chosen_classes(
    chosen: Iterable[str | int],
    names: Sequence[str],
    targets: Iterable[int] | None,
    *,
    few: int = FEW_CLASSES,
) -> dict[int, str]:
    """The classes that get curves of their own.

    Args:
        chosen: Names or indices.
        names: Names of all classes.
        targets: Targets of focus modulation, which come first.
        few: Where none is chosen and there are no targets, all of so many classes are.

    Returns:
        Names by index. Of classes that share a name, each has its index behind it.

    Raises:
        ValueError: If one is no class.
    """
    indices = list(targets or ())
    indices += [class_index(entry, names, "report_classes") for entry in chosen]
    if not indices and len(names) <= few:
        indices = list(range(len(names)))
    unique = unique_names(names)
    return {index: unique[index] for index in indices}


def unique_names(names: Sequence[str]) -> list[str]:
    """Names of classes, with the index behind those that several share.

    >>> unique_names(["crane", "owl", "crane"])
    ['crane 0', 'owl', 'crane 2']
    """
    several = Counter(names)
    return [f"{name} {index}" if several[name] > 1 else name for index, name in enumerate(names)]


def class_index(entry: str | int, names: Sequence[str], argument: str) -> int:
    """The index of a class given by name or index.

    Args:
        entry: The name, or of several that share it "NAME INDEX"; or the index. A number as text
            is an index unless a class has that name.
        names: Names of all classes.
        argument: Name of the argument, for the error.

    Raises:
        ValueError: If there is no such class, or several have this name.
    """
    if isinstance(entry, str) and entry in (unique := unique_names(names)):
        return unique.index(entry)
    if isinstance(entry, str) and entry in names:
        shared = [name for name, plain in zip(unique, names, strict=True) if plain == entry]
        raise ValueError(
            f"{argument} holds {entry!r}, which {len(shared)} classes are called: give "
            f"{' or '.join(map(repr, shared))}"
        )
    if isinstance(entry, str) and entry.strip().lstrip("-").isdigit():
        entry = int(entry)
    if isinstance(entry, bool) or not isinstance(entry, str | int):
        raise ValueError(f"{argument} holds {entry!r}: give a class's name or index")
    if isinstance(entry, str):
        few = len(names) <= 2 * FEW_CLASSES
        otherwise = "" if few else "give an index"
        hint = did_you_mean(entry, names, count=3, cutoff=0.5, otherwise=otherwise)
        raise ValueError(f"{argument} holds {entry!r}, which is no class; {hint}")
    if not 0 <= entry < len(names):
        raise ValueError(
            f"{argument} holds {entry}, outside the {len(names)} classes [0, {len(names)}): count "
            "from 0"
        )
    return entry
