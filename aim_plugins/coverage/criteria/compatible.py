"""Criteria with the numbers of the library NeuraL-Coverage, to compare with papers that used it.

The library is that of Yuan, Pang and Wang (ICSE 2023, arXiv:2112.01955). Where it departs from the
definitions, the class here departs with it and says how. NC is the same: the library divides by
zero in a layer whose neurons are all equal for an input and covers none of them, as `NC` does.

Two things hold for all of them. Ranges of neurons begin at 10000 and -10000, so that those beyond
are never found; and surprise is by labels: give training traces and batches whose classes are the
labels of the data, not what the model predicts. Criteria that depend on the order do not merge.

What is not repeated: the library's CC asks an approximate search besides an exact one, which adds
nothing; and CC and TKNP fail with an AttributeError as they are published, for want of a first
value, so that here is what their lines say.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from aim_plugins.coverage.criteria.boundary import KMNC, NBC, SNAC
from aim_plugins.coverage.criteria.covariance import NLC
from aim_plugins.coverage.criteria.criterion import Batch, Criterion, OpenUnits, hash_rows
from aim_plugins.coverage.criteria.top import TKNC, TKNP
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.moments import Moments

RANGE_START = 10000.0
"""Where the library's ranges begin, from above and from below."""

PRINTED = 1000
"""Longest row of numbers that PyTorch prints whole."""

EDGE = 3
"""How many numbers PyTorch prints at either end of a longer row."""


def started_range(
    low: Float[Tensor, " neurons"], high: Float[Tensor, " neurons"]
) -> tuple[Float[Tensor, " neurons"], Float[Tensor, " neurons"]]:
    """The range of each neuron as the library finds it."""
    return low.clamp(max=RANGE_START), high.clamp(min=-RANGE_START)


def refuse_merging(name: str, reason: str) -> None:
    """Refuses to merge a criterion that depends on the order of inputs.

    Raises:
        ValueError: Always.
    """
    raise ValueError(
        f"compat='neural-coverage': {name} does not combine, {reason}: run all inputs at once, or "
        "leave compat out"
    )


class CompatibleKMNC(KMNC):
    """KMNC with buckets open below, in float32: an activation at the lower end reaches none.

    Only the lower end differs, and ends of buckets: they belong to the bucket below.
    """

    def __init__(
        self,
        layers: Layers,
        low: Float[Tensor, " neurons"],
        high: Float[Tensor, " neurons"],
        buckets: int = 1000,
    ) -> None:
        super().__init__(layers, *started_range(low, high), buckets)

    def units(self, batch: Batch) -> Int[Tensor, "inputs marks"]:
        neurons = batch.neurons
        inside = (neurons >= self.low) & (neurons <= self.high) & (self.high > self.low)
        span = torch.where(self.high > self.low, self.high - self.low, 1e-6)
        bucket = ((neurons - self.low) / span * self.buckets).ceil()
        reached = inside & (bucket > 0)
        first = torch.arange(neurons.shape[1]) * self.buckets
        return torch.where(reached, first + torch.where(reached, bucket, 1.0).long() - 1, -1)


class CompatibleNBC(NBC):
    """NBC, but for the ranges' beginnings: both count what is strictly beyond."""

    def __init__(
        self, layers: Layers, low: Float[Tensor, " neurons"], high: Float[Tensor, " neurons"]
    ) -> None:
        super().__init__(layers, *started_range(low, high))


class CompatibleSNAC(SNAC):
    """SNAC, but for the ranges' beginnings: both count what is strictly beyond."""

    def __init__(
        self, layers: Layers, low: Float[Tensor, " neurons"], high: Float[Tensor, " neurons"]
    ) -> None:
        super().__init__(layers, *started_range(low, high))


def top_indices(
    neurons: Float[Tensor, "inputs neurons"], layers: Layers, top: int
) -> Int[Tensor, "inputs marks"]:
    """Columns of the most active neurons of each layer, the most active first.

    Of equal activations `torch.topk` chooses, on each machine as it likes.
    """
    chosen = []
    for place in layers.slices:
        size = place.stop - place.start
        chosen.append(neurons[:, place].topk(min(top, size), dim=1).indices + place.start)
    return torch.cat(chosen, 1)


class CompatibleTKNC(TKNC):
    """TKNC, but for equal activations, of which `torch.topk` chooses."""

    def units(self, batch: Batch) -> Int[Tensor, "inputs marks"]:
        return top_indices(batch.neurons, self.layers, self.top)


class CompatibleTKNP(TKNP):
    """TKNP of the last batch alone, telling apart orders of the same neurons.

    The library compares patterns as PyTorch prints them, and of more than 1000 numbers that is the
    first three and the last three: those of the first layer and of the last.
    """

    def units(self, batch: Batch) -> Int[Tensor, "inputs marks"]:
        patterns = top_indices(batch.neurons, self.layers, self.top)
        if patterns.shape[1] > PRINTED:
            patterns = torch.cat([patterns[:, :EDGE], patterns[:, -EDGE:]], 1)
        return hash_rows(patterns)[:, None]

    def see(self, batch: Batch) -> None:
        self.found = [torch.unique(self.units(batch))]

    def merge(self, other: OpenUnits) -> None:
        refuse_merging("TKNP", "since it counts the last batch alone")


class CompatibleCC(Criterion):
    """CC as TensorFuzz has it, which depends on the order, less one for each layer.

    An activation is kept if its squared distance from all that were kept in its layer is over the
    threshold. The library does not count the first one of a layer.

    Args:
        layers: The network's layers.
        threshold: Squared distance up to which an activation is not new.

    Raises:
        ValueError: If the threshold is not positive.
    """

    name = "CC"
    summary = "activations far from all that were kept before, less one for each layer"
    source = "TensorFuzz, arXiv:1807.10875; NeuraL-Coverage"

    def __init__(self, layers: Layers, threshold: float = 10.0) -> None:
        if not threshold > 0:
            raise ValueError(f"threshold={threshold}: give a positive squared distance")
        self.layers, self.threshold = layers, threshold
        self.kept: list[Float32[Tensor, "kept neurons"]] = [
            torch.empty(0, size) for size in layers.sizes
        ]

    def see(self, batch: Batch) -> None:
        for layer, place in enumerate(self.layers.slices):
            rows = batch.neurons[:, place]
            self.kept[layer] = keep_distant(self.kept[layer], rows, self.threshold)

    @property
    def value(self) -> float:
        return sum(self.by_layer().values())

    def ceiling(self, inputs: int) -> float:
        return float(max(0, inputs - 1) * len(self.kept))

    def by_layer(self) -> dict[str, float]:
        counts = (float(max(0, len(kept) - 1)) for kept in self.kept)
        return dict(zip(self.layers.names, counts, strict=True))

    def state(self) -> dict[str, Tensor]:
        return {f"kept.{layer}": kept for layer, kept in enumerate(self.kept)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.kept = [state[f"kept.{layer}"] for layer in range(len(self.kept))]

    def merge(self, other: CompatibleCC) -> None:
        refuse_merging("CC", "since what it keeps depends on the order of inputs")


def keep_distant(
    kept: Float32[Tensor, "kept neurons"], rows: Float32[Tensor, "inputs neurons"], threshold: float
) -> Float32[Tensor, "more neurons"]:
    """Adds those rows, one after another, that are far from all that were kept before.

    Args:
        kept: What was kept.
        rows: What comes next.
        threshold: Squared distance up to which a row is not kept.
    """
    places, count = torch.cat([kept, rows]), len(kept)
    for row in rows:
        # Of rows that are kept, none is written before it is read: `count` never overtakes it.
        if not count or float((places[:count] - row).square().sum(1).min()) > threshold:
            places[count] = row
            count += 1
    return places[:count].clone()


class CompatibleNLC(NLC):
    """NLC of those batches alone that raise it, layer by layer, plus 1.

    A batch enters the covariance of a layer only if the mean |covariance| rises by it. The result
    depends on the order and size of batches. Float64 here, float32 there.
    """

    def see(self, batch: Batch) -> None:
        for layer, place in enumerate(self.layers.slices):
            mine = self.moments[layer]
            grown = Moments(mine.count, mine.mean, mine.scatter)
            grown.update(batch.neurons[:, place])
            if grown.covariance.abs().mean() > mine.covariance.abs().mean():
                self.moments[layer] = grown

    @property
    def value(self) -> float:
        return 1 + super().value

    def merge(self, other: NLC) -> None:
        refuse_merging("NLC", "since it leaves out batches that do not raise it")
