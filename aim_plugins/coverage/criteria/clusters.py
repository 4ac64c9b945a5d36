"""Coverage by clusters of activations that lie close together.

Source: Odena, Olsson, Andersen and Goodfellow, "TensorFuzz: debugging neural networks with
coverage-guided fuzzing" (ICML 2019, arXiv:1807.10875); layer by layer as in Yuan, Pang
and Wang (ICSE 2023, arXiv:2112.01955).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.coverage.criteria.criterion import Batch, OpenUnits, hash_rows
from aim_plugins.coverage.layers import Layers

CELLS = 2.0**62
"""Bound on the number of a cell along a neuron, within int64."""


class CC(OpenUnits):
    """Cluster coverage: the cells of a grid that inputs' activations lie in, layer by layer.

    TensorFuzz keeps an activation if its squared distance from all that were kept before is over a
    threshold, and counts them; their number depends on the order. Cells are no wider than that: any
    two activations of a cell are within the threshold, so that what TensorFuzz keeps in any order
    lies in different cells, and our count is never below its. In wide layers nearly every input has
    a cell of its own.

    Args:
        layers: The network's layers.
        threshold: Largest squared distance within a cell, in squared units of activation.

    Raises:
        ValueError: If the threshold is not positive.
    """

    name: ClassVar[str] = "CC"
    summary: ClassVar[str] = "cells of a grid that activations of a layer lie in"
    source: ClassVar[str] = "Odena et al., ICML 2019, coverage by nearest neighbours"

    def __init__(self, layers: Layers, threshold: float = 10.0) -> None:
        super().__init__(layers.names)
        if not threshold > 0:
            raise ValueError(f"threshold={threshold}: give a positive squared distance")
        self.layers, self.threshold = layers, threshold

    def units(self, batch: Batch) -> Int[Tensor, "inputs layers"]:
        places = self.layers.slices
        return torch.stack([grid_cells(batch.neurons[:, p], self.threshold) for p in places], 1)


def grid_cells(rows: Float[Tensor, "inputs neurons"], threshold: float) -> Int[Tensor, " inputs"]:
    """Names the cell of each row in a grid whose cells have a diagonal of sqrt(threshold).

    Returns:
        A whole number for each row; -1 where an activation is not finite.
    """
    side = (threshold / max(1, rows.shape[1])) ** 0.5
    places = (rows.double() / side).floor().nan_to_num(0.0).clamp(-CELLS, CELLS)
    return hash_rows(places).masked_fill(~rows.isfinite().all(1), -1)
