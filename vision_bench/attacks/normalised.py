"""Normalisation inside the network, so that an attack works on pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

Pixels = Float[Tensor, "images channels height width"]


class NormalisedModel(nn.Module):
    """A network that takes pixels in [0, 1]: they are normalised, then given to the module.

    Args:
        module: Takes normalised images, gives logits.
        mean: Mean of each channel, taken off; one number serves all channels.
        std: Standard deviation of each channel, divided by.

    Raises:
        ValueError: If mean and std differ in length, or an std is not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(
                f"mean has {len(mean)} numbers and std {len(std)}: give one of each per channel"
            )
        if not all(0 < value < math.inf for value in std):
            raise ValueError(f"std={list(std)!r}: give numbers above 0")
        self.module = module
        like = next((one for one in module.parameters() if one.is_floating_point()), None)
        for name, values in (("mean", mean), ("std", std)):
            column = torch.tensor(values, dtype=torch.float32)[:, None, None]
            self.register_buffer(name, column if like is None else column.to(like.device))

    def normalise(self, pixels: Pixels) -> Pixels:
        """Normalised images of pixels in [0, 1]."""
        return (pixels - self.mean.to(pixels)) / self.std.to(pixels)

    def pixels(self, images: Pixels) -> Pixels:
        """Pixels of normalised images: what `normalise` undoes, rounding aside."""
        return images * self.std.to(images) + self.mean.to(images)

    def forward(self, pixels: Pixels) -> Float[Tensor, "images classes"]:
        """Logits of pixels in [0, 1]."""
        return self.module(self.normalise(pixels))
