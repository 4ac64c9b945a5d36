"""Criteria of the most active neurons of each layer.

Source: Ma et al., "DeepGauge" (ASE 2018, arXiv:1803.07519), section 3.2.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.coverage.criteria.criterion import (
    Batch,
    FixedUnits,
    OpenUnits,
    hash_rows,
    layer_units,
)
from aim_plugins.coverage.layers import Layers


def most_active(
    neurons: Float[Tensor, "inputs neurons"], layers: Layers, top: int
) -> Int[Tensor, "inputs marks"]:
    """Columns of the most active neurons of each layer, layer after layer, in rising order.

    Of equal activations, the neuron that comes first counts as the more active one, so that the
    choice is the same on every machine.

    Args:
        neurons: Activations.
        layers: Whose they are.
        top: How many of each layer; a layer of fewer gives all.
    """
    chosen = []
    for place in layers.slices:
        values = neurons[:, place].nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
        most = min(top, values.shape[1])
        least = values.topk(most, dim=1).values[:, -1:]
        above, equal = values > least, values == least
        # Sorting all of a wide layer would take several times as long.
        wanted = most - above.sum(1, keepdim=True)
        kept = above | (equal & (equal.cumsum(1) <= wanted))
        chosen.append(kept.nonzero()[:, 1].reshape(len(values), most) + place.start)
    return torch.cat(chosen, 1)


def _most_active_of(batch: Batch, layers: Layers, top: int) -> Int[Tensor, "inputs marks"]:
    return batch.once(("most active", layers, top), lambda: most_active(batch.neurons, layers, top))


class TKNC(FixedUnits):
    """Top-k neuron coverage: neurons that were among the k most active of their layer.

    Args:
        layers: The neurons.
        top: k; a layer of at most k neurons is covered by its first input.
    """

    name = "TKNC"
    summary = "neurons that were among the most active of their layer"
    source = "DeepGauge, arXiv:1803.07519, section 3.2"

    def __init__(self, layers: Layers, top: int = 10) -> None:
        super().__init__(*layer_units(layers))
        self.layers, self.top = layers, top

    def units(self, batch: Batch) -> Int[Tensor, "inputs marks"]:
        return _most_active_of(batch, self.layers, self.top)

    def ceiling(self, inputs: int) -> float:
        """An input reaches k neurons of each layer."""
        reached = [min(size, inputs * self.top) for size in self.layers.sizes]
        return sum(reached) / self.layers.neurons


class TKNP(OpenUnits):
    """Top-k neuron patterns: the sets of the k most active neurons of all layers.

    Args:
        layers: The neurons.
        top: k.
    """

    name = "TKNP"
    summary = "patterns of the most active neurons of all layers"
    source = "DeepGauge, arXiv:1803.07519, section 3.2"

    def __init__(self, layers: Layers, top: int = 10) -> None:
        super().__init__()
        self.layers, self.top = layers, top

    def units(self, batch: Batch) -> Int[Tensor, "inputs marks"]:
        return hash_rows(_most_active_of(batch, self.layers, self.top))[:, None]
