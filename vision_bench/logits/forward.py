"""One forward pass of a model, and what it says of images it is not made for."""

from __future__ import annotations

import re

import torch
from jaxtyping import Float
from torch import Tensor

from vision_bench.data.images import UnreadableImageError
from vision_bench.models.model import VisionModel

# What layers say of inputs they cannot take: "Kernel size can't be greater than actual input size".
_ABOUT_SIZES = re.compile(r"\b(size|sizes|shape|shapes)\b", re.IGNORECASE)


class UnfitImageError(UnreadableImageError):
    """A model cannot take images of this size; the message names both and why."""


def forward(
    model: VisionModel, images: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch classes ..."]:
    """The model's logits.

    The least size a model takes depends on its strides and is written nowhere, so it is asked.

    Args:
        model: The model, on the images' device.
        images: Its inputs, all of one size.

    Returns:
        What its module returns.

    Raises:
        UnfitImageError: If a layer does not take a tensor of the size it gets.
    """
    try:
        return model.module(images)
    except RuntimeError as error:
        memory_or_device = (torch.OutOfMemoryError, torch.AcceleratorError)
        if isinstance(error, memory_or_device) or not _ABOUT_SIZES.search(str(error)):
            raise
        height, width = images.shape[-2:]
        raise UnfitImageError(
            f"{model.name} takes no images of {width} x {height} pixels "
            f"({str(error).splitlines()[0]}): resize them, or choose another model"
        ) from error
