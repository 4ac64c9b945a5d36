"""Criteria of single neurons: activated, within the buckets of its range, or beyond it.

Sources: NC, Pei et al., "DeepXplore" (SOSP 2017, arXiv:1705.06640), section 4.1. KMNC, NBC, SNAC:
Ma et al., "DeepGauge" (ASE 2018, arXiv:1803.07519), section 3.1; the range of a neuron is that over
the training inputs.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aim_plugins.coverage.criteria.criterion import Batch, FixedUnits, layer_units
from aim_plugins.coverage.layers import Layers


def scaled_by_layer(
    neurons: Float[Tensor, "inputs neurons"], layers: Layers
) -> Float[Tensor, "inputs neurons"]:
    """Scales the neurons of each layer to [0, 1], by each input's least and largest there.

    A layer whose neurons are all equal for an input has no scale, and is 0.
    """
    scaled = torch.empty_like(neurons)
    for place in layers.slices:
        values = neurons[:, place]
        low = values.amin(1, keepdim=True)
        span = values.amax(1, keepdim=True) - low
        scaled[:, place] = torch.where(span > 0, (values - low) / span, 0.0)
    return scaled


def _marks(reached: Bool[Tensor, "inputs units"]) -> Int[Tensor, "inputs units"]:
    """The units that are reached, by number, and -1 in the place of others."""
    numbers = torch.arange(reached.shape[1])
    return torch.where(reached, numbers, -1)


class NC(FixedUnits):
    """Neuron coverage: neurons whose activation, scaled within the layer, exceeds a threshold.

    Args:
        layers: The neurons.
        threshold: Of the scaled activation, in [0, 1].
    """

    name = "NC"
    summary = "neurons activated above the threshold, scaled within their layer"
    source = "DeepXplore, arXiv:1705.06640, section 4.1"

    def __init__(self, layers: Layers, threshold: float = 0.5) -> None:
        super().__init__(*layer_units(layers))
        self.layers, self.threshold = layers, threshold

    def units(self, batch: Batch) -> Int[Tensor, "inputs marks"]:
        return _marks(self._activated(batch))

    def see(self, batch: Batch) -> None:
        self.reached |= self._activated(batch).any(0)

    def _activated(self, batch: Batch) -> Bool[Tensor, "inputs neurons"]:
        return scaled_by_layer(batch.neurons, self.layers) > self.threshold


class KMNC(FixedUnits):
    """k-multisection neuron coverage: buckets of equal width of each neuron's training range.

    A neuron that training never moved has no range, and none of its buckets can be reached.

    Args:
        layers: The neurons.
        low: Least activation of each neuron over the training inputs.
        high: Largest one.
        buckets: k, the number of buckets of a neuron.
    """

    name = "KMNC"
    summary = "buckets of the neurons' training ranges"
    source = "DeepGauge, arXiv:1803.07519, section 3.1"

    def __init__(
        self,
        layers: Layers,
        low: Float[Tensor, " neurons"],
        high: Float[Tensor, " neurons"],
        buckets: int = 1000,
    ) -> None:
        super().__init__(*layer_units(layers, buckets))
        self.layers = layers
        self.low, self.high, self.buckets = low, high, buckets

    def units(self, batch: Batch) -> Int[Tensor, "inputs marks"]:
        neurons, low, high = batch.neurons.double(), self.low.double(), self.high.double()
        inside = (neurons >= low) & (neurons <= high) & (high > low)
        span = torch.where(high > low, high - low, 1.0)
        # The upper end belongs to the last bucket.
        bucket = ((neurons - low) / span * self.buckets).floor().clamp(0, self.buckets - 1)
        first = torch.arange(neurons.shape[1]) * self.buckets
        return torch.where(inside, first + bucket.long(), -1)

    def ceiling(self, inputs: int) -> float:
        """An input reaches one bucket of each neuron that has a range."""
        ranged = float((self.high > self.low).float().mean())
        return ranged * min(1.0, inputs / self.buckets)


class NBC(FixedUnits):
    """Neuron boundary coverage: both regions beyond each neuron's training range.

    Args:
        layers: The neurons.
        low: Least activation of each neuron over the training inputs.
        high: Largest one.
    """

    name = "NBC"
    summary = "regions below and above the neurons' training ranges"
    source = "DeepGauge, arXiv:1803.07519, section 3.1"

    def __init__(
        self, layers: Layers, low: Float[Tensor, " neurons"], high: Float[Tensor, " neurons"]
    ) -> None:
        super().__init__(*layer_units(layers, 2))
        self.low, self.high = low, high

    def units(self, batch: Batch) -> Int[Tensor, "inputs marks"]:
        below, above = batch.neurons < self.low, batch.neurons > self.high
        numbers = 2 * torch.arange(batch.neurons.shape[1])
        return torch.where(below, numbers, torch.where(above, numbers + 1, -1))

    def see(self, batch: Batch) -> None:
        self.reached[::2] |= (batch.neurons < self.low).any(0)
        self.reached[1::2] |= (batch.neurons > self.high).any(0)

    def ceiling(self, inputs: int) -> float:
        """An input reaches one of a neuron's two regions."""
        return min(1.0, inputs / 2)


class SNAC(FixedUnits):
    """Strong neuron activation coverage: the region above each neuron's training range.

    Args:
        layers: The neurons.
        low: Not used; criteria of a range are made alike.
        high: Largest activation of each neuron over the training inputs.
    """

    name = "SNAC"
    summary = "regions above the neurons' training ranges"
    source = "DeepGauge, arXiv:1803.07519, section 3.1"

    def __init__(
        self, layers: Layers, low: Float[Tensor, " neurons"], high: Float[Tensor, " neurons"]
    ) -> None:
        super().__init__(*layer_units(layers))
        self.high = high

    def units(self, batch: Batch) -> Int[Tensor, "inputs marks"]:
        return _marks(batch.neurons > self.high)

    def see(self, batch: Batch) -> None:
        self.reached |= (batch.neurons > self.high).any(0)
