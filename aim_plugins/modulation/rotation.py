"""Maps that turn activations within a plane, and keep their length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.modulation.activation_map import ActivationMap


@dataclass(frozen=True, eq=False)
class RotationMap(ActivationMap):
    """Turns the part of x that lies in a plane towards one direction of it.

    With φ the angle from the direction to that part, strength λ leaves the angle (1 - λ) φ: at 1
    the part points along the direction, at 2 it is mirrored. What lies outside the plane stays, and
    so does the length of both.

    Source: arXiv 2510.26243, section 4, whose target angle 0 is strength 1.

    Attributes:
        towards: The direction, a unit vector.
        across: The plane's other axis, a unit vector at a right angle to it.
    """

    KIND: ClassVar[str] = "rotation"
    PARTS: ClassVar[tuple[str, ...]] = ("towards", "across")

    towards: Float[Tensor, " neurons"]
    across: Float[Tensor, " neurons"]

    @property
    def neurons(self) -> int:
        return len(self.towards)

    @property
    def signature(self) -> str:
        return f"{self.KIND}|{self.neurons}"

    def displacement(
        self, activations: Float[Tensor, "... neurons"]
    ) -> Float[Tensor, "... neurons"]:
        along, aside = self._coordinates(activations)
        return torch.atan2(aside, along) * (aside * self.towards - along * self.across)

    def added(self, base: Tensor, activations: Tensor, strengths: Tensor) -> Tensor:
        along, aside = self._coordinates(activations)
        turn = -strengths * torch.atan2(aside, along)
        less, sine = turn.cos() - 1, turn.sin()
        return (
            base
            + (less * along - sine * aside) * self.towards
            + (less * aside + sine * along) * self.across
        )

    def _coordinates(self, activations: Tensor) -> tuple[Tensor, Tensor]:
        """Both coordinates in the plane; sums of products stay float32 under autocast."""
        along, aside = (
            (activations * axis).sum(-1, keepdim=True) for axis in (self.towards, self.across)
        )
        return along, aside
