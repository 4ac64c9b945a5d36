"""What two modules of one model both retain, beside what two random masks would.

Measured by the Jaccard index: of what either retains, the share that both do. Two small masks share
little by chance and two large ones much, so every index stands beside its law for random masks of
the same sizes. Learned masks retain more of some layers than of others, and share that alone if
nothing else: the second law is of masks that have the same sizes in every layer.

Source: Jaccard, "The distribution of the flora in the alpine zone", New Phytologist 11, 1912.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from aim_plugins.modulation.retained import MaskPoint

_TAIL = 0.025
"""Of the law at either end, left out of its range."""

_REACH = 15
"""Standard deviations from the mean behind which a law has nothing left."""

_NOTHING = 1e-14
"""Of the most likely number: what is less likely counts for nothing."""


@dataclass(frozen=True)
class Counts:
    """Elements of two masks on the same parameters.

    Attributes:
        size: How many there are.
        first: Of them, how many the first mask retains.
        second: How many the second does.
        both: How many both do.
    """

    size: int
    first: int
    second: int
    both: int

    @property
    def jaccard(self) -> float:
        """Share of what either retains that both do; NaN where neither retains anything.

        >>> Counts(10, 4, 3, 2).jaccard
        0.4
        """
        either = self.first + self.second - self.both
        return self.both / either if either else math.nan


@dataclass(frozen=True)
class Chance:
    """The Jaccard index of random masks.

    Attributes:
        expected: Its expectation; NaN where neither mask retains anything.
        low: Below it lie 2.5 % of pairs of masks at most.
        high: Above it lie 2.5 % at most.
    """

    expected: float
    low: float
    high: float


@dataclass(frozen=True)
class Overlap:
    """What two modules share.

    Attributes:
        first: Place of the first module.
        second: Place of the second.
        layers: By layer, the elements that they retain.
    """

    first: int
    second: int
    layers: Mapping[str, Counts]

    @property
    def total(self) -> Counts:
        """Of all layers together."""
        every = self.layers.values()
        return Counts(
            sum(one.size for one in every),
            sum(one.first for one in every),
            sum(one.second for one in every),
            sum(one.both for one in every),
        )


def retained_parts(point: MaskPoint) -> dict[str, Bool[Tensor, " elements"]]:
    """What a module retains of each layer: its weights and biases, or the channels it makes.

    >>> masks = {"fc.weight": torch.eye(2).bool(), "fc.bias": torch.tensor([True, False])}
    >>> retained_parts(MaskPoint(masks))["fc"].int().tolist()
    [1, 0, 0, 1, 1, 0]
    """
    parts: dict[str, list[Tensor]] = {}
    if point.channels:
        parts = {name: [mask] for name, mask in point.channels.items()}
    else:
        for name, mask in point.masks.items():
            parts.setdefault(name.rpartition(".")[0] or name, []).append(mask)
    return {name: torch.cat([one.flatten().cpu() for one in each]) for name, each in parts.items()}


def find_overlaps(points: Sequence[MaskPoint]) -> list[Overlap]:
    """What each pair of modules shares.

    Args:
        points: Masks of the same granularity on the same model.

    Returns:
        Of each pair once, in the order of the modules.
    """
    parts = [retained_parts(one) for one in points]
    return [
        Overlap(
            first,
            second,
            {name: _count(mask, parts[second][name]) for name, mask in parts[first].items()},
        )
        for first in range(len(parts))
        for second in range(first + 1, len(parts))
    ]


def _count(one: Bool[Tensor, " elements"], other: Bool[Tensor, " elements"]) -> Counts:
    return Counts(len(one), int(one.sum()), int(other.sum()), int((one & other).sum()))


def jaccard_by_chance(parts: Sequence[Counts]) -> Chance:
    """The law of the Jaccard index of two random masks.

    Of each part the masks retain as many elements as they do, any of them alike; then those that
    both retain are hypergeometric, and of several parts the sum of such numbers.

    Args:
        parts: Of all elements together, or of each layer; what both retain of them is not looked
            at.
    """
    from scipy.signal import convolve

    sizes = sum(one.first + one.second for one in parts)
    if not sizes:
        return Chance(math.nan, math.nan, math.nan)
    start, law = 0, np.ones(1)
    for one in parts:
        low, own = _law_of_both(one)
        law = convolve(law, own)
        # Sums spread less than their parts do together; and Fourier transforms leave traces there.
        reached = np.flatnonzero(law > _NOTHING * law.max())
        start, law = start + low + int(reached[0]), law[reached[0] : reached[-1] + 1].clip(0)
    both = start + np.arange(len(law))
    law = law / law.sum()
    index = both / (sizes - both)
    below = np.cumsum(law)
    low_end, high_end = np.searchsorted(below, [_TAIL, 1 - _TAIL])
    return Chance(float(law @ index), float(index[low_end]), float(index[high_end]))


def _law_of_both(part: Counts) -> tuple[int, Float[ndarray, " numbers"]]:
    """How many elements two random masks both retain: the least number, and the law from there."""
    from scipy.special import gammaln

    size, first, second = part.size, part.first, part.second
    if not first or not second:
        return 0, np.ones(1)
    mean = first * second / size
    variance = mean * (1 - first / size) * (size - second) / max(size - 1, 1)
    # Of millions of weights most numbers never come: only the middle is computed.
    reach = _REACH * math.sqrt(variance) + 1
    least = max(0, first + second - size, math.floor(mean - reach))
    most = min(first, second, math.ceil(mean + reach))
    both = np.arange(least, most + 1, dtype=np.float64)
    cells = (both, first - both, second - both, size - first - second + both)
    # Up to a factor; scipy's own law factorises its numbers, which takes a hundred times as long.
    law = -sum(gammaln(one + 1) for one in cells)
    law = np.exp(law - law.max())
    return least, law / law.sum()
