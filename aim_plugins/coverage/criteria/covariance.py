"""Coverage by the covariance of each layer's neurons.

Source: Yuan, Pang and Wang, "Revisiting neuron coverage for DNN testing: a layer-wise and
distribution-aware criterion" (ICSE 2023, arXiv:2112.01955).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from aim_plugins.coverage.criteria.criterion import Batch, Criterion
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.moments import Moments, check_memory


class NLC(Criterion):
    """NeuraL Coverage: the sum over layers of the mean |covariance| of two of their neurons.

    It has the square of the activations' unit, and layers of large activations lead. The paper
    defines it so, for the outputs of all inputs; its code takes a batch into account only in those
    layers where this raises the value, starts from 1, and so depends on order and batch size. Ours
    depends on the set of inputs alone, and may fall when inputs are added that vary less than
    those before.

    Args:
        layers: The network's layers.

    Raises:
        ValueError: If the covariances would take too much memory.
    """

    name: ClassVar[str] = "NLC"
    summary: ClassVar[str] = "mean absolute covariance of each layer's neurons, summed over layers"
    source: ClassVar[str] = "Yuan et al., ICSE 2023, NeuraL Coverage"

    def __init__(self, layers: Layers) -> None:
        check_covariances(layers)
        self.layers = layers
        self.moments = [Moments.empty(size) for size in layers.sizes]

    def see(self, batch: Batch) -> None:
        for moments, place in zip(self.moments, self.layers.slices, strict=True):
            moments.update(batch.neurons[:, place])

    @property
    def value(self) -> float:
        return sum(self.by_layer().values())

    def ceiling(self, inputs: int) -> float:
        return math.inf

    def by_layer(self) -> dict[str, float]:
        return {
            name: float(moments.covariance.abs().mean())
            for name, moments in zip(self.layers.names, self.moments, strict=True)
        }

    def state(self) -> dict[str, Tensor]:
        return {
            name: tensor
            for place, moments in enumerate(self.moments)
            for name, tensor in moments.state(str(place)).items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        places = range(len(self.moments))
        self.moments = [Moments.from_state(state, str(place)) for place in places]

    def merge(self, other: NLC) -> None:
        for mine, theirs in zip(self.moments, other.moments, strict=True):
            mine.merge(theirs)


def check_covariances(layers: Layers, scopes: int = 1) -> None:
    """Refuses layers whose covariances would take too much memory.

    Args:
        layers: The network's layers.
        scopes: How many suites are measured at once: all inputs, and those of each class.

    Raises:
        ValueError: If so.
    """
    check_memory(
        f"criteria: NLC of {len(layers.names)} layers with {max(layers.sizes, default=0)} neurons",
        8 * scopes * sum(size**2 for size in layers.sizes),
        "leave it out of criteria, or choose fewer modules",
    )
