"""k-means and silhouette of numbers on a line, both exact.

Clusters of sorted numbers are stretches of them, so that the best ones are found by dynamic
programming (Wang and Song, "Ckmeans.1d.dp", The R Journal 3/2, 2011) and not by a search that
depends on where it starts. The last cluster of the first i numbers starts no earlier as i grows,
which lets each row of the programme halve its intervals: O(k n log n) for n distinct numbers. The
silhouette (Rousseeuw 1987) needs sums of distances, which on a line are differences of prefix sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Clusters:
    """Clusters of numbers on a line.

    Attributes:
        centres: Their means, ascending.
        silhouette: Mean silhouette of the numbers, from -1 to 1; NaN of a single cluster.
        asked: The number of clusters asked for, the largest of several; fewer distinct numbers make
            fewer clusters.
    """

    centres: tuple[float, ...]
    silhouette: float
    asked: int

    def __len__(self) -> int:
        return len(self.centres)


@dataclass(frozen=True)
class _Line:
    """Distinct numbers, ascending around zero, with how often each occurs, and prefix sums."""

    values: Float[np.ndarray, " distinct"]
    weights: Float[np.ndarray, " prefixes"]
    sums: Float[np.ndarray, " prefixes"]
    squares: Float[np.ndarray, " prefixes"]

    @classmethod
    def of(cls, values: Float[np.ndarray, " distinct"], counts: Int[np.ndarray, " distinct"]):
        def prefix(terms: np.ndarray) -> np.ndarray:
            return np.concatenate([[0.0], np.cumsum(terms)])

        return cls(values, prefix(counts), prefix(counts * values), prefix(counts * values**2))

    def cost(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Sum of squared distances from the mean, of the stretches from `first` to `last`."""
        end = last + 1
        total = self.sums[end] - self.sums[first]
        squares = self.squares[end] - self.squares[first]
        return np.maximum(squares - total**2 / (self.weights[end] - self.weights[first]), 0.0)


def cluster(values: ArrayLike, k: int | Sequence[int]) -> Clusters:
    """Clusters numbers such that their squared distances from the centres are least.

    Args:
        values: The numbers; those that are not finite are left out.
        k: How many clusters, or several numbers of them, of which the one with the best silhouette
            is taken, the smallest of equal ones.

    Returns:
        The clusters. Fewer distinct numbers than k make a cluster each; equal ones make one.

    Raises:
        ValueError: If k is less than 1, or there are fewer numbers than clusters.

    >>> cluster([0, 0.25, 5, 5.5, 9], 3).centres, cluster([1, 1, 1], 3).centres
    ((0.125, 5.25, 9.0), (1.0,))
    """
    choices = sorted({k} if isinstance(k, int) else set(k))
    if not choices or choices[0] < 1:
        raise ValueError(f"n_clusters={k}: choose one cluster or more")
    numbers = np.asarray(values, dtype=np.float64).ravel()
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers) < choices[0]:
        raise ValueError(
            f"n_clusters={choices[0]}: {len(numbers)} inputs cannot make that many clusters; give "
            "more training inputs, or fewer clusters"
        )
    distinct, counts = np.unique(numbers, return_counts=True)
    # Far from zero the squares would swallow the distances.
    middle = float(distinct[len(distinct) // 2])
    line = _Line.of(distinct - middle, counts)
    possible = sorted({min(one, len(distinct)) for one in choices})
    starts = _best_starts(line, possible[-1])
    found = [(_silhouette(line, starts[one]), one) for one in possible]
    score, best = max(found, key=lambda pair: (pair[0], -pair[1])) if len(found) > 1 else found[0]
    return Clusters(tuple((_means(line, starts[best]) + middle).tolist()), score, choices[-1])


def silhouette(values: ArrayLike, centres: Sequence[float]) -> float:
    """Mean silhouette of numbers that belong to their nearest centre each.

    Args:
        values: The numbers; those that are not finite are left out.
        centres: The centres, ascending.

    Returns:
        From -1 to 1, a number alone in its cluster counting 0; NaN where all numbers are in one.
    """
    numbers = np.asarray(values, dtype=np.float64).ravel()
    distinct, counts = np.unique(numbers[np.isfinite(numbers)], return_counts=True)
    middles = (np.asarray(centres[:-1], np.float64) + np.asarray(centres[1:], np.float64)) / 2
    labels = np.asarray(np.searchsorted(middles, distinct, side="left"))
    starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
    middle = float(distinct[len(distinct) // 2]) if len(distinct) else 0.0
    return _silhouette(_Line.of(distinct - middle, counts), starts)


def _best_starts(line: _Line, most: int) -> dict[int, Int[np.ndarray, " clusters"]]:
    """Where the clusters of the best division begin, for every number of them up to `most`."""
    ends = np.arange(len(line.values))
    costs = line.cost(np.zeros_like(ends), ends)
    rows: list[np.ndarray] = []
    for clusters in range(2, most + 1):
        costs, begins = _row(line, costs, clusters)
        rows.append(begins)
    found = {}
    for clusters in range(1, most + 1):
        starts, end = [0], len(line.values) - 1
        for begins in reversed(rows[: clusters - 1]):
            starts.append(int(begins[end]))
            end = int(begins[end]) - 1
        found[clusters] = np.array(sorted(starts))
    return found


def _row(
    line: _Line, before: Float[np.ndarray, " distinct"], clusters: int
) -> tuple[Float[np.ndarray, " distinct"], Int[np.ndarray, " distinct"]]:
    """The least costs of the first numbers, up to each, in so many clusters, and the last's begin.

    All intervals of a level are searched at once: together they are little longer than the line.
    """
    size, least = len(before), clusters - 1
    costs, begins = np.full(size, np.inf), np.zeros(size, dtype=np.int64)
    low, high = np.array([least]), np.array([size - 1])
    first, last = np.array([least]), np.array([size - 1])
    while len(low):
        middle = (low + high) // 2
        stop = np.minimum(middle, last)
        lengths = stop - first + 1
        offsets = np.cumsum(lengths) - lengths
        candidates = np.arange(lengths.sum()) - np.repeat(offsets - first, lengths)
        total = before[candidates - 1] + line.cost(candidates, np.repeat(middle, lengths))
        best = np.minimum.reduceat(total, offsets)
        hits = np.flatnonzero(total == np.repeat(best, lengths))
        owners = np.searchsorted(offsets, hits, side="right") - 1
        chosen = candidates[hits[np.unique(owners, return_index=True)[1]]]
        costs[middle], begins[middle] = best, chosen
        low, high = np.r_[low, middle + 1], np.r_[middle - 1, high]
        first, last = np.r_[first, chosen], np.r_[chosen, last]
        kept = low <= high
        low, high, first, last = low[kept], high[kept], first[kept], last[kept]
    return costs, begins


def _means(line: _Line, starts: Int[np.ndarray, " clusters"]) -> Float[np.ndarray, " clusters"]:
    bounds = np.r_[starts, len(line.values)]
    return np.diff(line.sums[bounds]) / np.diff(line.weights[bounds])


def _silhouette(line: _Line, starts: Int[np.ndarray, " clusters"]) -> float:
    if len(starts) < 2:
        return float("nan")
    bounds = np.r_[starts, len(line.values)]
    own = np.repeat(np.arange(len(starts)), np.diff(bounds))
    first, end, here = bounds[own], bounds[own + 1], np.arange(len(own))
    weights, sums, x = line.weights, line.sums, line.values
    left = x * (weights[here] - weights[first]) - (sums[here] - sums[first])
    right = (sums[end] - sums[here]) - x * (weights[end] - weights[here])
    sizes = weights[end] - weights[first]
    within = (left + right) / np.maximum(sizes - 1, 1)
    # Every other cluster lies on one side, so its mean distance is the distance from its mean.
    means = np.r_[-np.inf, _means(line, starts), np.inf]
    nearest = np.minimum(x - means[own], means[own + 2] - x)
    scores = np.where(sizes > 1, (nearest - within) / np.maximum(nearest, within), 0.0)
    counts = np.diff(weights)
    return float((scores * counts).sum() / counts.sum())
