"""Directional ablation: one direction is taken out of all sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from aim_plugins.modulation.activation_map import ActivationMap
from aim_plugins.modulation.low_rank import LowRankMap
from aim_plugins.transport.methods.method import SharedDirection, direction_of

_CANDIDATES = 0.8  # share of the sites, from the first on, whose directions may be chosen


@dataclass(frozen=True)
class DirectionalAblation(SharedDirection):
    """T(x) = x - r rᵀ x, with one unit vector r for all sites: what they tell along it is gone.

    r is the difference of the sides' means at the last token of one site; source and target may
    change places. At strength λ, 1 - λ of what was there along r is left.

    Source: arXiv 2406.11717, eq. 1 (difference in means) and 4 (ablation). There r is ablated from
    all that is written to the residual stream, the embedding and each attention and feed-forward
    part, which here are the modules that the user names; folded into their weights, it is the
    paper's orthogonalisation (eq. 5). It is chosen there by whether the model refuses, from the
    tokens after the instruction and the first 80 % of the layers; here, whatever the concept, it is
    that of the site, among the first 80 %, where held-out sentences of the sides lie furthest apart
    along it (`separation`).

    Attributes:
        direction_site: The site whose direction it is; None chooses.
    """

    name: ClassVar[str] = "ablation"
    title: ClassVar[str] = "Directional ablation"
    stream: ClassVar[bool] = True

    def settled(
        self, learned: Mapping[str, ActivationMap], separations: Mapping[str, float]
    ) -> tuple[dict[str, ActivationMap], dict[str, Any]]:
        site = self.direction_site or best_site(separations)
        direction = direction_of(learned, site).double()
        taken = LowRankMap.without(direction).to("cpu")
        return dict.fromkeys(learned, taken), {"direction_site": site}


def best_site(separations: Mapping[str, float]) -> str:
    """The site that tells the sides apart best, among the first 80 %.

    Args:
        separations: How far apart the sides are at each site, in the order of a forward pass.
    """
    sites = list(separations)[: max(1, int(_CANDIDATES * len(separations)))]
    return max(sites, key=lambda site: separations[site])
