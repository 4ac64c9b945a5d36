"""Random views of training images, on what the model takes: prepared and normalised images.

Everything is computed from uniform draws that are given, a row for each image, so that an image's
view depends on nothing but its own draws.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vision_bench.reengineering.choices import Augment

_ATTEMPTS = 10
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)

DRAWS: dict[str, int] = {
    "none": 0,
    "flip": 1,
    "crop-flip": 3,
    "resized-crop-flip": 3 + 2 * _ATTEMPTS,
}
"""Uniform numbers that a view of one image takes."""


def augmented(
    images: Float[Tensor, "batch 3 height width"],
    draws: Float[Tensor, "batch draws"],
    black: Float[Tensor, 3],
    augment: Augment,
) -> Float[Tensor, "batch 3 height width"]:
    """A random view of each image.

    Args:
        images: The images as the model takes them.
        draws: Of each image, as many uniform numbers in [0, 1) as `DRAWS` says.
        black: A black pixel as the model takes it.
        augment: Which views.
    """
    if augment == "none":
        return images
    if augment == "crop-flip":
        images = _shifted(images, draws[:, 1:], black)
    elif augment == "resized-crop-flip":
        images = _resized_crops(images, draws[:, 1:])
    mirrored: Bool[Tensor, " batch"] = draws[:, 0] < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def _shifted(
    images: Float[Tensor, "batch 3 height width"],
    draws: Float[Tensor, "batch 2"],
    black: Float[Tensor, 3],
) -> Float[Tensor, "batch 3 height width"]:
    """Cuts each image out of itself with a black rim, at a place that is drawn."""
    count, _, height, width = images.shape
    rim = max(1, min(height, width) // 8)
    size = (count, 3, height + 2 * rim, width + 2 * rim)
    framed = black[None, :, None, None].expand(size).clone()
    framed[:, :, rim:-rim, rim:-rim] = images
    top, left = (draws * (2 * rim + 1)).long().unbind(1)
    windows = framed.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(count), :, top, left]


def _resized_crops(
    images: Float[Tensor, "batch 3 height width"], draws: Float[Tensor, "batch draws"]
) -> Float[Tensor, "batch 3 height width"]:
    """Cuts a part out of each image, and resizes it to the whole, with antialiasing."""
    size = images.shape[2:]
    views = [
        F.interpolate(
            image[None, :, top : top + high, left : left + wide],
            size=size,
            mode="bilinear",
            antialias=True,
        )
        for image, (top, left, high, wide) in zip(
            images, crop_boxes(draws, *size).tolist(), strict=True
        )
    ]
    return torch.cat(views)


def crop_boxes(
    draws: Float[Tensor, "batch draws"], height: int, width: int
) -> Int[Tensor, "batch 4"]:
    """Parts of an image: 8 % to 100 % of its area, sides from 3:4 to 4:3.

    The first of ten attempts that fits; if none does, the middle of the image.

    Args:
        draws: Two uniform numbers for the place, ten for areas and ten for ratios.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Returns:
        Top, left, height and width of each.

    Source: Szegedy et al., "Going Deeper with Convolutions" (arXiv:1409.4842), section 6; as
    torchvision's `RandomResizedCrop`.
    """
    place, areas, ratios = draws.double().split([2, _ATTEMPTS, _ATTEMPTS], 1)
    area = height * width * (_AREA[0] + areas * (_AREA[1] - _AREA[0]))
    least, most = map(math.log, _RATIO)
    ratio = torch.exp(least + ratios * (most - least))
    wide, high = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (wide > 0) & (wide <= width) & (high > 0) & (high <= height)
    first = fits.int().argmax(1, keepdim=True)
    sides = torch.cat([high.gather(1, first), wide.gather(1, first)], 1)
    whole = torch.tensor([height, width])
    middle = torch.tensor(
        [
            min(height, round(width / _RATIO[0])),
            min(width, round(height * _RATIO[1])),
        ]
    )
    none = ~fits.any(1, keepdim=True)
    sides = torch.where(none, middle, sides)
    corner = torch.where(none, (whole - sides) // 2, (place * (whole - sides + 1)).long())
    return torch.cat([corner, sides], 1)
