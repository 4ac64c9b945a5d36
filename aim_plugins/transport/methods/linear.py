"""Linear-AcT: the line through equal quantiles."""

from __future__ import annotations

import torch
from torch import Tensor

from aim_plugins.transport.methods.method import Method
from aim_plugins.transport.statistics import constant_neurons, coupled_moment, sorted_samples


class LinearTransport(Method):
    """Linear-AcT: the least-squares line through the optimal coupling of each neuron.

    In one dimension the optimal coupling joins equal quantiles: for as many source as target
    samples, the sorted ones in pairs. With centred quantile functions a and b,

        ω = ∫ a b / ∫ a²,  β = m_b - ω m_a,  T(x) = ω x + β.

    Numbers of samples that differ are coupled exactly, every sample with its full weight. A neuron
    that is constant in the source tells nothing about ω: its scale is 1 and only its mean moves.

    Source: arXiv 2410.23054, definition 3.1. It prints ∫ b² in the denominator; its code divides by
    ∫ a², as least squares do.
    """

    name = "linear"
    title = "Linear-AcT"
    incremental = "causal"
    support = "clip"

    def _fit(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        source_mean, target_mean = source.mean(0), target.mean(0)
        centred_source = sorted_samples(source - source_mean)
        centred_target = sorted_samples(target - target_mean)
        covariance = coupled_moment(centred_source, centred_target)
        variance = centred_source.square().mean(-1)
        scale = torch.where(constant_neurons(source), 1.0, covariance / variance)
        return scale, target_mean - scale * source_mean
