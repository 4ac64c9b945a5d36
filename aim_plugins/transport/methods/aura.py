"""AurA: neurons dampened by how well they tell the source."""

from __future__ import annotations

import torch
from torch import Tensor

from aim_plugins.transport.methods.method import Method
from aim_plugins.transport.statistics import auroc


class AurA(Method):
    """AurA: dampens neurons by how well they tell source sentences from target sentences.

    T(x) = α x with α = 1 - 2 (AUROC - 1/2) where AUROC > 1/2, and 1 elsewhere. The AUROC is that of
    a neuron's maximum over tokens as a classifier whose positive class is the source (toxic
    sentences, in the paper); a neuron that separates the sides perfectly is silenced.

    Source: "Whispering Experts", arXiv 2407.12824, algorithm 4. The paper dampens linear layers;
    here the user chooses the modules.
    """

    name = "aura"
    title = "AurA"
    bounded = False
    aimed = False
    pooling = "max"

    def _fit(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        gini = 2 * (auroc(source, target) - 0.5)
        return 1 - gini.clamp(min=0), torch.zeros_like(gini)
