"""The support of a map: between which activations a neuron is transported.

Source: arXiv 2410.23054, section 3.1.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.transport.statistics import in_double
from aim_plugins.transport.vocabulary import parse_support


def support_bounds(
    support: str, pooled_source: Float[Tensor, "n neurons"]
) -> tuple[Float[Tensor, " neurons"], Float[Tensor, " neurons"], bool]:
    """Between which activations each neuron is transported.

    Args:
        support: "none" for everywhere; "qLO_HI" for the interval between two percentiles of the
            source, such as "q5_95"; "minmax" for all of the source's range, which is "q0_100";
            "clip" for the same range and the continuous rule outside it (see `AffineMap`).
        pooled_source: Pooled activations of the source sentences.

    Returns:
        Lower ends, upper ends, and whether activations outside move as the nearest end does.

    Raises:
        ValueError: If the support is malformed, or a single sample has to tell a range.

    Source: arXiv 2410.23054, section 3.1. The continuous rule is this package's: the interval's
    hard ends make incremental fits jump with rounding.
    """
    percentiles, clip = parse_support(support)
    if percentiles is None:
        infinite = torch.full_like(pooled_source[0], torch.inf, dtype=torch.float32)
        return -infinite, infinite, False
    if len(pooled_source) < 2:
        raise ValueError(
            f"support={support!r} is a range of source samples, and there is 1: give more, or "
            "write support='none'"
        )
    fractions = torch.tensor(percentiles, dtype=torch.float64) / 100
    if percentiles == (0.0, 100.0):
        low, high = pooled_source.amin(0), pooled_source.amax(0)
    else:
        samples = in_double(pooled_source)
        low, high = torch.quantile(samples, fractions.to(samples.device), dim=0)
    device = pooled_source.device
    return low.float().to(device), high.float().to(device), clip
