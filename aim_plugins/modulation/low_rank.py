"""Maps that mix neurons within few dimensions: directions taken out, and low-rank interventions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.modulation.activation_map import ActivationMap


@dataclass(frozen=True, eq=False)
class LowRankMap(ActivationMap):
    """T(x) = x + U (V x + c), at strength λ: x + λ U (V x + c).

    With a unit vector r, U = -r, V = rᵀ and c = 0 take the direction r out (arXiv 2406.11717, eq.
    4); U = Rᵀ, V = W - R and c = b are LoReFT (arXiv 2404.03592, eq. 2).

    Attributes:
        up: U, what is added along each of its columns.
        down: V, what is read of an activation.
        bias: c.
    """

    KIND: ClassVar[str] = "low-rank"
    PARTS: ClassVar[tuple[str, ...]] = ("up", "down", "bias")

    up: Float[Tensor, "neurons rank"]
    down: Float[Tensor, "rank neurons"]
    bias: Float[Tensor, " rank"]

    @classmethod
    def without(cls, direction: Float[Tensor, " neurons"]) -> LowRankMap:
        """The map that takes a direction out, whatever its length; none where it is zero."""
        length = direction.norm()
        unit = direction / torch.where(length > 0, length, 1.0)
        return cls(-unit[:, None], unit[None], unit.new_zeros(1))

    @property
    def neurons(self) -> int:
        return len(self.up)

    @property
    def signature(self) -> str:
        return f"{self.KIND}|{self.neurons}x{len(self.bias)}"

    def displacement(
        self, activations: Float[Tensor, "... neurons"]
    ) -> Float[Tensor, "... neurons"]:
        """U (V x + c).

        Sums of products, so that no autocast computes them in half precision, and no batch size
        changes them.
        """
        moved = torch.zeros_like(activations)
        for column, row, one in zip(self.up.T, self.down, self.bias, strict=True):
            read = (activations * row).sum(-1, keepdim=True) + one
            moved = torch.addcmul(moved, read, column)
        return moved
