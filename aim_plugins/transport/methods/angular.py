"""Angular steering: activations are turned within a plane, at the same length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from aim_plugins.modulation.activation_map import ActivationMap
from aim_plugins.modulation.rotation import RotationMap
from aim_plugins.transport.methods.method import SharedDirection, direction_of

_PARALLEL = 1e-6  # length of an axis below which it is rounding


@dataclass(frozen=True)
class AngularSteering(SharedDirection):
    """Turns activations towards the target, within one plane for all sites (`RotationMap`).

    Each site tells the difference of the sides' means at the last token, as a unit vector. The
    plane's direction is the one most like all others, by its mean cosine with them; its other axis
    is the first principal component of all, at a right angle to the direction.

    Source: arXiv 2510.26243, sections 3 and 4, and github.com/lone17/angular-steering: both sites
    and places of the rotation are the norms' outputs. There the angle that is left is chosen, from
    0 to 360 degrees; here λ is the share of the way to 0, so that strength 0 is the plain model.
    Its adaptive variant, which turns only what leans to the direction already, is not here.

    Attributes:
        direction_site: The site whose direction it is; None chooses.
    """

    name: ClassVar[str] = "angular"
    title: ClassVar[str] = "Angular steering"

    def settled(
        self, learned: Mapping[str, ActivationMap], separations: Mapping[str, float]
    ) -> tuple[dict[str, ActivationMap], dict[str, Any]]:
        sites = list(learned)
        direction_of(learned, self.direction_site or sites[0])  # refuses widths that differ
        if len(sites) < 2:
            raise ValueError(
                f"modules: method={self.name!r} needs several, whose directions span a plane, and "
                f"{sites[0]!r} is one: choose more, such as every norm"
            )
        told = torch.stack([one.parts["shift"].double() for one in learned.values()])
        told = torch.nn.functional.normalize(told, dim=1)
        cosines = told @ told.T
        site = self.direction_site or sites[int(cosines.sum(1).argmax())]
        towards = told[sites.index(site)]
        component = torch.linalg.svd(told - told.mean(0), full_matrices=False).Vh[0]
        across = component - (component @ towards) * towards
        if not bool(towards.any()) or float(across.norm()) < _PARALLEL:
            raise ValueError(
                f"the directions of the {len(sites)} modules span no plane: the sides must differ, "
                "in another way at each module"
            )
        across = across / across.norm()
        turned = RotationMap(towards.float(), across.float())
        return dict.fromkeys(learned, turned), {"direction_site": site}
