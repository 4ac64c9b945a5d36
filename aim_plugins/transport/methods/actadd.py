"""ActAdd: the difference of one pair of sentences."""

from __future__ import annotations

import torch
from torch import Tensor

from aim_plugins.transport.methods.method import Method


class ActAdd(Method):
    """ActAdd: T(x) = x + b - a, with the activations of one contrast pair.

    The pair is the first sentence of each side, taken at its last token; λ is the injection
    coefficient.

    Source: arXiv 2308.10248. There both prompts are padded to the same length, and the differences
    of all their positions are added to the first positions of the residual stream at one layer.
    Here the last token's difference is added at every transported token of every chosen module.
    """

    name = "actadd"
    title = "ActAdd"
    minimum_samples = 1
    aimed = False
    pooling = "last"

    def _fit(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(source[0]), target[0] - source[0]
