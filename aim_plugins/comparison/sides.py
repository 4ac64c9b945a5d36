"""What two finished sweeps keep of their documents, and whether these are the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aim_plugins.comparison.settings import Place
from aim_plugins.core.errors import first_few
from aim_plugins.core.strengths import Axis
from aim_plugins.sweep.contrasts import Contrast, contrast, corrected, place_text, span_of
from aim_plugins.sweep.documents import DOCUMENTS, ScoreTable, read_scores, score_tables
from aim_plugins.sweep.manifest import AXES, MANIFEST, read_manifest

_SHOWN = 8


@dataclass(frozen=True)
class Side:
    """A sweep, or one strength of it.

    Attributes:
        place: Where it lies.
        manifest: What it was computed with.
        axes: What varies.
        tables: What its documents score, by task and metric.
    """

    place: Place
    manifest: dict[str, Any]
    axes: tuple[Axis, ...]
    tables: dict[tuple[str, str], ScoreTable]

    def strengths(self, table: ScoreTable) -> list[tuple[float, ...]]:
        """Those of a table that are asked for.

        Raises:
            ValueError: If there is none of them.
        """
        asked = self.place.strengths
        if asked is None:
            return list(table.cells)
        if asked not in table.cells:
            there = [place_text(one) for one in table.cells]
            raise ValueError(
                f"{self.place.text}: {table.metric} of {table.task} was not measured there, but at "
                f"{first_few(there, _SHOWN)}: name one of these"
            )
        return [asked]


def read_side(place: Place) -> Side:
    """Reads what a finished sweep keeps of its documents.

    Raises:
        ValueError: If the folder holds no sweep, or one that keeps nothing of them.
    """
    manifest = place.folder / MANIFEST
    if not manifest.is_file():
        raise ValueError(
            f"{str(place.folder)!r} holds no sweep ({MANIFEST} is missing): name the folder that a "
            "sweep wrote, of OpenCompass summary/sweep/NAME in its folder"
        )
    held = read_manifest(manifest)
    if not (place.folder / DOCUMENTS).is_file():
        raise ValueError(
            f"{str(place.folder)!r} keeps no scores of single documents ({DOCUMENTS} is missing): "
            "finish the sweep, or run it anew into another folder if an older version wrote it"
        )
    tables = score_tables(read_scores(place.folder / DOCUMENTS))
    axes = tuple(Axis(**fields) for fields in held[AXES])
    return Side(place, held, axes, {(one.task, one.metric): one for one in tables})


def compare_sides(first: Side, second: Side, metrics: Sequence[str] = ()) -> list[Contrast]:
    """Holds the second against the first, in every metric that both keep, in pairs.

    A strength of either is held against every one of the other, two sweeps against each other at
    the strengths that both have.

    Args:
        first: What counts as plain.
        second: What is compared with it.
        metrics: Those that are compared; none are all.

    Raises:
        ValueError: If they have no task, metric or strength in common, or documents differ.
    """
    shared = [key for key in first.tables if key in second.tables]
    _refuse_unshared(first, second, shared)
    if unknown := [one for one in metrics if one not in {metric for _, metric in shared}]:
        there = ", ".join(dict.fromkeys(metric for _, metric in shared))
        raise ValueError(f"metrics={unknown[0]!r} is not kept of both: choose among {there}")
    if metrics:
        shared = [key for key in shared if key[1] in metrics]
    crossed = any(axis.shared_draws for axis in (*first.axes, *second.axes))
    found = []
    for key in shared:
        one, other = first.tables[key], second.tables[key]
        _refuse_other_documents(first, second, one, other)
        span = span_of(one, other)
        found += [
            contrast(other, strengths, one, reference, shared_draws=crossed, span=span)
            for reference, strengths in _pairs(first, second, one, other)
        ]
    return corrected(found)


def _pairs(
    first: Side, second: Side, one: ScoreTable, other: ScoreTable
) -> Iterator[tuple[tuple[float, ...], tuple[float, ...]]]:
    own, others = first.strengths(one), second.strengths(other)
    if first.place.strengths is None and second.place.strengths is None:
        names = [[axis.name for axis in side.axes] for side in (first, second)]
        if names[0] != names[1]:
            raise ValueError(
                f"{first.place.text} varies {' and '.join(names[0])}, and {second.place.text} "
                f"{' and '.join(names[1])}: name a strength of one of them, such as "
                f"{first.place.text}:{'/'.join('0' for _ in names[0])}"
            )
        both = [strengths for strengths in own if strengths in other.cells]
        if not both:
            raise ValueError(
                f"{one.metric} of {one.task}: {first.place.text} and {second.place.text} share no "
                "strength: name one of each, such as FOLDER:0.5"
            )
        yield from zip(both, both, strict=True)
        return
    same = first.place.folder.resolve() == second.place.folder.resolve()
    yield from (
        (reference, strengths)
        for reference in own
        for strengths in others
        if not same or reference != strengths
    )


def _refuse_unshared(first: Side, second: Side, shared: Sequence[tuple[str, str]]) -> None:
    if not shared:
        kept = [
            f"{side.place.text} has "
            + first_few([f"{metric} of {task}" for task, metric in side.tables], _SHOWN)
            for side in (first, second)
        ]
        raise ValueError(
            f"the sweeps keep no task and metric in common ({'; '.join(kept)}): evaluate the same "
            "tasks"
        )


def _refuse_other_documents(first: Side, second: Side, one: ScoreTable, other: ScoreTable) -> None:
    if one.documents == other.documents:
        return
    counts = [len(one.documents), len(other.documents)]
    names = [side.place.text for side in (first, second)]
    what = f"{names[0]} has {counts[0]} and {names[1]} {counts[1]}"
    if counts[0] == counts[1]:
        places = [
            place
            for place, (here, there) in enumerate(zip(one.documents, other.documents, strict=True))
            if here != there
        ]
        what = f"{len(places)} of {counts[0]} differ, the first at place {places[0]}"
    raise ValueError(
        f"the documents of {one.task} are not the same in {names[0]} and {names[1]} ({what}): "
        "evaluate both on the same ones, with the same limit and version of the task"
    )
