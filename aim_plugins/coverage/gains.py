"""What each input adds to what is covered, and which inputs to take first.

A test suite has covered some units of a criterion, and labels cost money: `prioritize` orders
candidates so that each adds as many new units as any that is left. This is the greedy algorithm of
maximum coverage, within 1 − 1/e of the best set of every size, and no polynomial algorithm promises
more. Gains only shrink while coverage grows, so an old gain bounds a new one, and most are never
computed again (lazy greedy).

Once nothing is left to gain, coverage starts anew from what the suite covers: the next inputs cover
everything a second time, as in additional prioritisation. Inputs that add nothing at any time come
last. Equal gains are ordered by position.

Source: Nemhauser, Wolsey and Fisher 1978 (the bound); Minoux 1978 (lazy greedy); Rothermel et al.,
"Prioritizing test cases for regression testing", 2001 (additional coverage, and starting anew);
Weiss and Tonella, "Simple techniques work surprisingly well for neural network test
prioritization", ISSTA 2022 (CAM, the same of a network's coverage).
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from aim_plugins.coverage.criteria.criterion import Criterion, FixedUnits, UnitCriterion

Units = Int[Tensor, "candidates marks"]
Parts = Units | Iterable[Units]

_ELEMENTS = 1 << 22
"""Marks looked at together: 32 MiB of whole numbers."""


@dataclass(frozen=True)
class FreshUnits:
    """The units that candidates reach and nothing has covered, each once for a candidate.

    Attributes:
        starts: Where the units of each candidate start in `ids`, and the end of the last.
        ids: The units, candidate after candidate, numbered from 0.
        total: Number of units that the numbers tell apart.
    """

    starts: np.ndarray
    ids: np.ndarray
    total: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def counts(self) -> np.ndarray:
        """Number of units of each candidate."""
        return np.diff(self.starts)

    def row(self, candidate: int) -> np.ndarray:
        """The units of a candidate."""
        return self.ids[self.starts[candidate] : self.starts[candidate + 1]]


@dataclass(frozen=True)
class Ranking:
    """Candidates in the order in which to take them.

    Attributes:
        order: Their positions.
        gains: How many units each adds to what was covered and to those before it; 0 from where
            nothing is left to gain.
    """

    order: Int[Tensor, " ranked"]
    gains: Int[Tensor, " ranked"]

    def __len__(self) -> int:
        return len(self.order)

    @property
    def useful(self) -> int:
        """How many of the first candidates add something."""
        return int((self.gains > 0).sum())


def choose_criterion(criteria: Mapping[str, Criterion], wanted: str | None) -> UnitCriterion:
    """The criterion that says what an input adds.

    Args:
        criteria: Those that are measured, by label.
        wanted: The one that is asked for; None for KMNC, or else the first that counts units.

    Raises:
        ValueError: If the one that is asked for counts no units, or none does.
    """
    names = [wanted] if wanted else [name for name in ("KMNC", *criteria) if name in criteria]
    for name in names:
        found = criteria[name]
        if isinstance(found, UnitCriterion):
            return found
    raise ValueError(
        f"prioritize_by={wanted!r} counts no units that an input could add: name another, such as "
        "KMNC or IDC"
    )


def fresh_units(criterion: UnitCriterion, units: Parts) -> FreshUnits:
    """The units that each candidate would add, were it the only one.

    Args:
        criterion: What is covered already.
        units: What `criterion.units` gives for the candidates, whole or in parts, one after
            another; −1 fills places. Of parts, no more than one is held, and a fresh unit takes
            four bytes.

    Returns:
        Their units, whose numbers are those of the criterion where it has fixed ones.
    """
    if isinstance(units, Tensor):
        units = units.split(max(1, _ELEMENTS // max(1, units.shape[1])))
    if isinstance(criterion, FixedUnits):
        return _fixed(criterion, units)
    return _open(criterion, units)


def prioritize(
    criterion: UnitCriterion, units: Parts | FreshUnits, count: int | None = None
) -> Ranking:
    """Orders candidates by what each adds to coverage.

    Args:
        criterion: What is covered already; it is not changed.
        units: As in `fresh_units`, or what that returned.
        count: How many to rank; None, or more than there are, ranks all.

    Returns:
        The first `count` of the order.

    Raises:
        ValueError: If `count` is negative.
    """
    if count is not None and count < 0:
        raise ValueError(f"count={count}: give a number of inputs from 0 upwards, or None for all")
    fresh = units if isinstance(units, FreshUnits) else fresh_units(criterion, units)
    wanted = len(fresh) if count is None else min(count, len(fresh))
    order, gains = np.zeros(wanted, dtype=np.int64), np.zeros(wanted, dtype=np.int64)
    ranked, left = 0, np.flatnonzero(fresh.counts)
    placed = np.zeros(len(fresh), dtype=bool)
    while ranked < wanted and len(left):
        first = ranked == 0
        for candidate, gain in _greedy(fresh, left):
            if ranked == wanted:
                break
            order[ranked], gains[ranked] = candidate, gain if first else 0
            placed[candidate] = True
            ranked += 1
        left = left[~placed[left]]
    order[ranked:] = np.flatnonzero(~placed)[: wanted - ranked]
    return Ranking(torch.from_numpy(order), torch.from_numpy(gains))


def _greedy(fresh: FreshUnits, candidates: np.ndarray) -> Iterator[tuple[int, int]]:
    """Candidates and their gains, from nothing covered until nothing is left to gain."""
    covered = np.zeros(fresh.total, dtype=bool)
    rows: dict[int, np.ndarray] = {}
    # The least entry has the largest bound, and of equal ones the first position. A gain is at most
    # its bound, so what stays least after being counted anew is the first of the largest.
    counts = fresh.counts[candidates]
    heap = list(zip((-counts).tolist(), candidates.tolist(), strict=True))
    heapq.heapify(heap)
    while heap:
        candidate = heap[0][1]
        row = rows.pop(candidate) if candidate in rows else fresh.row(candidate)
        row = row[~covered[row]]
        if not len(row):
            heapq.heappop(heap)
            continue
        entry = (-len(row), candidate)
        heapq.heapreplace(heap, entry)
        if heap[0] != entry:
            # What is covered stays so: the next count has less to look at.
            rows[candidate] = row
            continue
        heapq.heappop(heap)
        covered[row] = True
        yield candidate, len(row)


def _fixed(criterion: FixedUnits, parts: Iterable[Units]) -> FreshUnits:
    # An array grows in place, where joining a list of parts at the end would hold all of it twice.
    ids, counts = array("i"), []
    for part in parts:
        fresh = ~criterion.is_covered(part)
        found = part[fresh].to(torch.int32).numpy()
        found, sizes = _without_repeats(found, fresh.sum(1).numpy(), len(criterion.reached))
        ids.frombytes(found.tobytes())
        counts.append(sizes)
    return FreshUnits(_starts(counts), np.frombuffer(ids, dtype=np.int32), len(criterion.reached))


def _without_repeats(
    ids: np.ndarray, counts: np.ndarray, total: int
) -> tuple[np.ndarray, np.ndarray]:
    """Keeps one of each unit of a row."""
    starts = _starts([counts])
    rising = ids[1:] > ids[:-1]
    edges = starts[1:-1]
    rising[edges[(edges > 0) & (edges < len(ids))] - 1] = True
    if rising.all():
        return ids, counts
    places, stamps = np.arange(counts.max(), dtype=np.int32), np.empty(total, dtype=np.int32)
    keep = np.empty(len(ids), dtype=bool)
    for start, end in zip(starts[:-1], starts[1:], strict=True):
        # Of places with the same unit, the last one's number stays.
        row, own = ids[start:end], places[: end - start]
        stamps[row] = own
        keep[start:end] = stamps[row] == own
    rows = np.repeat(np.arange(len(counts)), counts)
    return ids[keep], np.bincount(rows[keep], minlength=len(counts))


def _open(criterion: UnitCriterion, parts: Iterable[Units]) -> FreshUnits:
    pairs = [(part, ~criterion.is_covered(part)) for part in parts]
    if not pairs:
        return FreshUnits(_starts([]), np.empty(0, dtype=np.int32), 0)
    units, fresh = (torch.cat(one) for one in zip(*pairs, strict=True))
    # A number means something in its own column alone.
    numbers, total = np.zeros(units.shape, dtype=np.int32), 0
    for column in range(units.shape[1]):
        chosen = fresh[:, column]
        names, places = torch.unique(units[chosen, column], return_inverse=True)
        numbers[chosen.numpy(), column] = places.numpy() + total
        total += len(names)
    return FreshUnits(_starts([fresh.sum(1).numpy()]), numbers[fresh.numpy()], total)


def _starts(counts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([[0], *counts]).astype(np.int64).cumsum()
