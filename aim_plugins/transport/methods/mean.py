"""Mean-AcT: the difference of means."""

from __future__ import annotations

import torch
from torch import Tensor

from aim_plugins.transport.methods.method import Method


class MeanTransport(Method):
    """Mean-AcT: T(x) = x + m_b - m_a.

    Source: arXiv 2410.23054, section 3.1 and table 1.
    """

    name = "mean"
    title = "Mean-AcT"
    minimum_samples = 1
    incremental = "causal"

    def _fit(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(source[0]), target.mean(0) - source.mean(0)
