"""Strengths held against each other in pairs: differences over the same documents, and how sure.

Each document is its own control, and all strengths scale the same noise, so a difference is known
better than either of its ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from aim_plugins.core.errors import first_few
from aim_plugins.core.strengths import Axis, format_strength
from aim_plugins.sweep.documents import ScoreTable
from aim_plugins.sweep.estimates import mean_of_draws
from aim_plugins.sweep.formats import interval_texts
from aim_plugins.sweep.intervals import value_range
from aim_plugins.sweep.paired import (
    LEVEL,
    PairedDifference,
    documents_needed,
    draws_difference,
    holm,
)
from aim_plugins.sweep.table import Point

_SHOWN_TASKS = 3
_SHOWN_STRENGTHS = 3
MOST_DOCUMENTS = 1_000_000
"""More are not counted: what so many would tell is no difference."""


@dataclass(frozen=True)
class Contrast:
    """A metric at one place less the same at another, over the same documents.

    Attributes:
        task: Name of the task.
        metric: Name of the metric.
        strengths: Where it is measured.
        reference: The strengths that it is held against.
        value: The metric there, over all draws.
        difference: What it is above the reference.
        holm_p: Its p, corrected by Holm for all tasks and strengths of the metric.
        n: Number of documents.
        draws: Number of draws.
        tightness: Standard error in pairs, as a share of that of two samples of documents; NaN
            where neither has one.
        needed: Documents that would tell the difference with a probability of 80 %; None where
            there is none, or draws of their own are what is uncertain.
    """

    task: str
    metric: str
    strengths: tuple[float, ...]
    reference: tuple[float, ...]
    value: float
    difference: PairedDifference
    holm_p: float
    n: int
    draws: int
    tightness: float
    needed: int | None

    @property
    def is_clear(self) -> bool:
        """Whether the corrected p is below 0.05 as it is shown."""
        return float(f"{self.holm_p:.2g}") < LEVEL

    @property
    def verdict(self) -> str:
        """Higher, lower, or that it cannot be told."""
        if not self.is_clear:
            return "not told apart"
        return "higher" if self.difference.value > 0 else "lower"

    @property
    def needed_text(self) -> str:
        """How many documents would tell what cannot be told, for a table; else a dash."""
        if self.is_clear or self.needed is None:
            return "–"
        return str(self.needed) if self.needed <= MOST_DOCUMENTS else f"> {MOST_DOCUMENTS}"


def contrast(
    table: ScoreTable,
    strengths: tuple[float, ...],
    other: ScoreTable,
    reference: tuple[float, ...],
    *,
    shared_draws: bool,
    span: float,
) -> Contrast:
    """Holds one cell against another one of the same documents; its p is not corrected yet.

    Args:
        table: Scores of what is compared.
        strengths: Where.
        other: Scores of what it is compared with.
        reference: Where.
        shared_draws: Whether a draw does the same to every document.
        span: See `span_of`.
    """
    first, second = table.cells[strengths], other.cells[reference]
    found = draws_difference(first, second, shared_draws=shared_draws, span=span)
    draws = min(first.shape[1], second.shape[1])
    crossed = shared_draws and draws > 1
    differences = first.mean(1) - second.mean(1)
    told = len(first) > 1 and abs(found.value) > 1e-12 and not crossed
    paired = (first[:, :draws] - second[:, :draws]) if crossed else differences[:, None]
    return Contrast(
        table.task,
        table.metric,
        strengths,
        reference,
        float(first.mean()),
        found,
        found.p,
        len(first),
        max(first.shape[1], second.shape[1]),
        _tightness(paired, first, second, shared_draws),
        documents_needed(differences.tolist()) if told else None,
    )


def span_of(*tables: ScoreTable) -> float:
    """How far apart two documents may lie, as far as their metric tells; NaN if it does not."""
    points = []
    for table in tables:
        for strengths, values in table.cells.items():
            found = mean_of_draws(values)
            place = (table.task, table.metric, strengths[0], found.value, found.stderr)
            points.append(Point(*place, found.n, values.shape[1]))
    limits = value_range(points)
    return math.nan if limits is None else limits[1] - limits[0]


def corrected(found: Sequence[Contrast]) -> list[Contrast]:
    """Contrasts whose p are corrected by Holm for all tasks and strengths of their metric."""
    places: dict[str, list[int]] = {}
    for place, one in enumerate(found):
        places.setdefault(one.metric, []).append(place)
    result = list(found)
    for members in places.values():
        chances = holm([found[place].difference.p for place in members])
        for place, p in zip(members, chances, strict=True):
            result[place] = replace(found[place], holm_p=p)
    return result


def against_reference(tables: Iterable[ScoreTable], axes: Sequence[Axis]) -> list[Contrast]:
    """Every strength against the one that changes nothing, or where there is none the first.

    Args:
        tables: What the documents score.
        axes: What the strengths are.
    """
    shared = any(axis.shared_draws for axis in axes)
    neutral = tuple(axis.neutral for axis in axes)
    found = []
    for table in tables:
        reference = neutral if neutral in table.cells else next(iter(table.cells))
        span = span_of(table)
        found += [
            contrast(table, strengths, table, reference, shared_draws=shared, span=span)
            for strengths in table.cells
            if strengths != reference
        ]
    return corrected(found)


def describe_contrasts(found: Sequence[Contrast]) -> str:
    """Says of each task's first metric which strengths differ clearly from the reference.

    Returns:
        A sentence for each of the first few tasks; empty where there is no contrast.
    """
    first: dict[str, str] = {}
    for one in found:
        first.setdefault(one.task, one.metric)
    sentences = [
        _describe([one for one in found if (one.task, one.metric) == curve])
        for curve in list(first.items())[:_SHOWN_TASKS]
    ]
    return " ".join(sentences)


def contrast_texts(one: Contrast) -> tuple[str, str]:
    """A difference and its interval, written for readers."""
    found = one.difference
    return interval_texts(found.value, found.low, found.high, "+")


def place_text(strengths: Sequence[float]) -> str:
    """Strengths, written for readers."""
    return ", ".join(map(format_strength, strengths))


def _describe(found: Sequence[Contrast]) -> str:
    clear = [one for one in found if one.is_clear]
    unclear = [one for one in found if not one.is_clear]
    head = f"{found[0].metric} of {found[0].task}"
    against = f"from that at strength {place_text(found[0].reference)}"
    if not unclear:
        where = "at every other strength" if len(found) > 1 else f"at {_places(clear)}"
        return f"{head} differs clearly {against} {where}."
    if not clear:
        return f"{head} differs clearly {against} at no strength{_needed(unclear)}."
    first, *second = clear[0].strengths
    if not second and len(clear) > 1 and list(found[-len(clear) :]) == clear:
        where = f"from {format_strength(first)} upwards"
        return f"{head} differs clearly {against} {where}{_needed(unclear)}."
    return f"{head} differs clearly {against} at {_places(clear)}, not at {_places(unclear)}" + (
        f"{_needed(unclear)}."
    )


def _needed(found: Sequence[Contrast]) -> str:
    """How many documents would tell what is nearest to being told."""
    known = [one for one in found if one.needed is not None and one.needed <= MOST_DOCUMENTS]
    if not known:
        return ""
    nearest = min(known, key=lambda one: one.needed or 0)
    return (
        f" ({nearest.n} documents; at {place_text(nearest.strengths)} about {nearest.needed} would "
        "be needed)"
    )


def _places(found: Sequence[Contrast]) -> str:
    return first_few([place_text(one.strengths) for one in found], _SHOWN_STRENGTHS)


def _tightness(
    paired: Float[np.ndarray, "documents draws"],
    first: Float[np.ndarray, "documents draws"],
    second: Float[np.ndarray, "documents others"],
    shared_draws: bool,
) -> float:
    error, one, other = (
        mean_of_draws(values, shared_draws=shared_draws).stderr
        for values in (paired, first, second)
    )
    apart = math.hypot(one or 0.0, other or 0.0)
    return (error or 0.0) / apart if apart else math.nan
