"""Distances to many activations, a part at a time, and the kernel densities made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor

CHUNK = 2**22
"""Distances held at once: 32 MiB of float64."""


def chunks(rows: int, others: int) -> list[slice]:
    """Parts of `rows` small enough that distances to `others` rows fit into memory."""
    step = max(1, CHUNK // max(1, others))
    return [slice(start, start + step) for start in range(0, rows, step)]


def _distances(
    rows: Float64[Tensor, "inputs neurons"], others: Float64[Tensor, "others neurons"]
) -> Float64[Tensor, "inputs others"]:
    # Left to itself, cdist takes matrix products only of many rows: the batch size would show.
    return torch.cdist(rows, others, compute_mode="use_mm_for_euclid_dist")


def log_kernel_mean(
    rows: Float64[Tensor, "inputs neurons"], centres: Float64[Tensor, "centres neurons"]
) -> Float64[Tensor, " inputs"]:
    """Logarithm of the mean over centres of exp(-|row - centre|^2 / 2), in nats."""
    logs = [
        (_distances(rows[part], centres).square() / -2).logsumexp(1)
        for part in chunks(len(rows), len(centres))
    ]
    return torch.cat(logs) - math.log(len(centres))


def nearest_rows(
    rows: Float64[Tensor, "inputs neurons"], others: Float64[Tensor, "others neurons"]
) -> tuple[Int[Tensor, " inputs"], Float64[Tensor, " inputs"]]:
    """The nearest of other rows to each row, and the Euclidean distance to it."""
    places = [_distances(rows[part], others).argmin(1) for part in chunks(len(rows), len(others))]
    nearest = torch.cat(places)
    # Distances by matrix products are off by 1e-8 of the length, and never zero for equal rows.
    return nearest, (rows - others[nearest]).norm(dim=1)


@dataclass(frozen=True)
class KernelDensity:
    """A kernel density in coordinates in which its kernel is the standard normal one.

    Attributes:
        factor: Lower triangular factor of the kernel's covariance.
        centres: The traces, in these coordinates.
        log_volume: Logarithm of the kernel's integral before it is normalised, in nats.
    """

    factor: Float64[Tensor, "neurons neurons"]
    centres: Float64[Tensor, "centres neurons"]
    log_volume: float

    @classmethod
    def fit(
        cls, traces: Float64[Tensor, "centres neurons"], factor: Float64[Tensor, "neurons neurons"]
    ) -> KernelDensity:
        """The density of traces with a kernel of this factor."""
        centres = torch.linalg.solve_triangular(factor, traces.T, upper=False).T.contiguous()
        half_log_determinant = float(factor.diagonal().log().sum())
        return cls(factor, centres, half_log_determinant + len(factor) / 2 * math.log(2 * math.pi))

    def log_density(self, rows: Float64[Tensor, "inputs neurons"]) -> Float64[Tensor, " inputs"]:
        """The logarithm of the density, in nats."""
        rows = torch.linalg.solve_triangular(self.factor, rows.T, upper=False).T.contiguous()
        return log_kernel_mean(rows, self.centres) - self.log_volume
