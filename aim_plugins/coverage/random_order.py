"""What an order of inputs is held against: orders drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor


@dataclass(frozen=True)
class Band:
    """What random orders reach after each number of inputs.

    Attributes:
        mean: Over all orders.
        low: Below it lie (1 − level) / 2 of the orders.
        high: Above it lie as many.
    """

    mean: Float64[Tensor, " points"]
    low: Float64[Tensor, " points"]
    high: Float64[Tensor, " points"]

    @property
    def curves(self) -> dict[str, Float64[Tensor, " points"]]:
        """The mean as "random", and the ends as "low" and "high"."""
        return {"random": self.mean, "low": self.low, "high": self.high}


def check_order(order: Tensor | Sequence[int], inputs: int) -> Int64[Tensor, " ranked"]:
    """An order as a tensor.

    Args:
        order: Positions of inputs, no one twice.
        inputs: Number of inputs there are.

    Raises:
        ValueError: If it names an input that is not there, or one twice.
    """
    places = torch.as_tensor(order, dtype=torch.int64)
    if len(outside := places[(places < 0) | (places >= inputs)]):
        raise ValueError(f"order holds {int(outside[0])}: there are inputs 0 to {inputs - 1}")
    counts = places.bincount(minlength=inputs)
    if len(twice := (counts > 1).nonzero()):
        raise ValueError(f"order holds {int(twice[0])} more than once: name each input once")
    return places


def check_level(level: float) -> float:
    """A share of orders that a band holds.

    Raises:
        ValueError: If it is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level!r}: give a share between 0 and 1, such as 0.95")
    return level
