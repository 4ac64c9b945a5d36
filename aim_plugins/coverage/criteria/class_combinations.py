"""Importance-driven coverage of the inputs of one class, by the neurons important for it."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from aim_plugins.coverage.criteria.combinations import IDC, ImportantNeurons
from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.layers import Layers


class ClassIDC(IDC):
    """IDC that inputs of other classes add nothing to.

    Args:
        layers: The neurons that batches have.
        important: The important ones.
        class_index: The class.
    """

    def __init__(self, layers: Layers, important: ImportantNeurons, class_index: int) -> None:
        super().__init__(layers, important)
        self.class_index = class_index

    def units(self, batch: Batch) -> Int[Tensor, "inputs 1"]:
        return super().units(batch).masked_fill((batch.classes != self.class_index)[:, None], -1)
