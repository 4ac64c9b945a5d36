"""CHaRS: both sides as clusters, and shifts between those that belong together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aim_plugins.modulation.mixture import MixtureMap
from aim_plugins.transport.methods.method import Method
from aim_plugins.transport.statistics import cluster_means, entropic_coupling


@dataclass(frozen=True)
class CHaRS(Method):
    """T(x) = x + Σ wᵢ(x) sᵢ: each cluster of the source goes where its mass does.

    k-means makes of each side a mixture, with centroids a and b, and the clusters' shares p and q
    as masses. P couples them by optimal transport with an entropy, at the costs |aᵢ - bⱼ|² and with
    their median as the weight λ of the entropy. Its barycentric projection moves cluster i by

        sᵢ = Σⱼ Pᵢⱼ (bⱼ - aᵢ) / pᵢ,

    and an activation by the shifts of the clusters that it lies near to (`MixtureMap`): the paper's
    sum over pairs of clusters. One cluster a side is mean transport.

    Source: arXiv 2603.02237, definition 3.1 (the map) and section 3.3 (`components`, "CHaRS-PCT").
    Four clusters, the medians, k-means from a fixed seed, all tokens and no support are what its
    code sets for toxic texts and images (github.com/lazizcodes/CHaRS, a fork of ml-act); pooling
    and causality, open there, are those of `mean`. For jailbreaks the paper takes last tokens, one
    norm, and the best of 1 to 15 clusters. Its code keeps 3 components where it keeps some, and
    leaves neurons alone that do not vary, which here shift as all others do.

    Attributes:
        clusters: Clusters of each side; as many as it has different samples, if those are fewer.
        components: Principal components, weighted by P, that the shifts keep of how they differ
            from the mean one; None keeps all, 2 `clusters` - 2 of them at most, and 0 none.
    """

    name: ClassVar[str] = "chars"
    title: ClassVar[str] = "CHaRS"
    minimum_samples: ClassVar[int] = 1
    bounded: ClassVar[bool] = False
    joint: ClassVar[bool] = True
    aimed: ClassVar[bool] = False
    incremental: ClassVar[str] = "causal"

    clusters: int = 4
    components: int | None = None

    def _map(self, source: Tensor, target: Tensor) -> MixtureMap:
        centroids, masses = cluster_means(source.cpu(), self.clusters)
        aims, shares = cluster_means(target.cpu(), self.clusters)
        differences = aims - centroids[:, None]
        coupling = entropic_coupling(differences.square().sum(-1), masses, shares)
        shifts = (coupling[..., None] * differences).sum(1) / masses[:, None]
        if self.components is not None:
            mean = masses @ shifts
            scaled = coupling.sqrt()[..., None] * (differences - mean)
            kept = torch.linalg.svd(scaled.flatten(0, 1), full_matrices=False).Vh[: self.components]
            shifts = mean + (shifts - mean) @ kept.T @ kept
        parts = (one.float().to(source.device) for one in (centroids, shifts, masses))
        return MixtureMap(*parts)
