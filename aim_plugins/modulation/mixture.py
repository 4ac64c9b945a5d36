"""Maps that shift activations by where they lie among clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.modulation.activation_map import ActivationMap


@dataclass(frozen=True, eq=False)
class MixtureMap(ActivationMap):
    """T(x) = x + Σ wᵢ(x) sᵢ: the shifts of clusters, weighted by how near x lies to each.

    With dᵢ = |x - cᵢ|² and m their median, for an even number the lower one of the middle two,

        wᵢ(x) = pᵢ exp(-dᵢ / m) / Σ pⱼ exp(-dⱼ / m).

    Source: arXiv 2603.02237, definition 3.1; 2 σ² = m is of its code (`adaptive_gaussian`).

    Attributes:
        centroids: Centre c of each cluster.
        shifts: Shift s of each.
        masses: Share p of each, above 0; they sum to 1.
    """

    KIND: ClassVar[str] = "mixture"
    PARTS: ClassVar[tuple[str, ...]] = ("centroids", "shifts", "masses")

    centroids: Float[Tensor, "clusters neurons"]
    shifts: Float[Tensor, "clusters neurons"]
    masses: Float[Tensor, " clusters"]

    @property
    def neurons(self) -> int:
        return self.centroids.shape[1]

    @property
    def signature(self) -> str:
        return f"{self.KIND}|{len(self.masses)}x{self.neurons}"

    def weights(self, activations: Float[Tensor, "... neurons"]) -> Float[Tensor, "... clusters"]:
        """Weight w of each cluster; they sum to 1."""
        rows = activations.reshape(-1, self.neurons)
        # As sums of squared differences: products of matrices lose digits far from 0, depend on the
        # number of rows, and an autocast would compute them in half precision.
        distances = torch.cdist(
            rows, self.centroids, compute_mode="donot_use_mm_for_euclid_dist"
        ).square()
        width = distances.median(-1, keepdim=True).values
        nearness = distances / width.clamp_min(torch.finfo(width.dtype).tiny)
        weights = (self.masses.log() - nearness).softmax(-1)
        return weights.reshape(*activations.shape[:-1], len(self.masses))

    def displacement(
        self, activations: Float[Tensor, "... neurons"]
    ) -> Float[Tensor, "... neurons"]:
        """Σ wᵢ(x) sᵢ, one product after the other: no autocast or batch size changes them."""
        moved = torch.zeros_like(activations)
        for weight, shift in zip(self.weights(activations).unbind(-1), self.shifts, strict=True):
            moved = torch.addcmul(moved, weight[..., None], shift)
        return moved
