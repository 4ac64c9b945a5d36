"""Gaussian transport: means and deviations."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from aim_plugins.transport.methods.method import Method
from aim_plugins.transport.statistics import constant_neurons


class GaussianTransport(Method):
    """The optimal map between Gaussians with the means and deviations of the samples.

    T(x) = (s_b / s_a) (x - m_a) + m_b, where both standard deviations exceed `MINIMUM_STD`; other
    neurons only move by m_b - m_a (ml-act leaves them as they are). Deviations are the unbiased
    ones, as in ml-act.

    Source: arXiv 2410.23054, section 3.1, and the class GaussianOTHook of github.com/apple/ml-act.
    """

    name = "gaussian"
    title = "Gaussian-AcT"
    incremental = "causal"
    support = "clip"

    MINIMUM_STD: ClassVar[float] = 1e-4

    def _fit(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        source_mean, target_mean = source.mean(0), target.mean(0)
        source_std, target_std = source.std(0), target.std(0)
        spread = (source_std > self.MINIMUM_STD) & (target_std > self.MINIMUM_STD)
        scale = torch.where(spread & ~constant_neurons(source), target_std / source_std, 1.0)
        return scale, target_mean - scale * source_mean
