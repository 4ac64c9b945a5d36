"""Quarter-resolution logits at full resolution, a few rows or pixels at a time.

A segmentation model answers at a quarter of its input's size, and its logits are cached so; for 150
classes the full size would take 16 times as much. Interpolation is bilinear between pixel centres,
as in `torch.nn.functional.interpolate(..., mode="bilinear", align_corners=False)`, but for rows or
pixels alone: every tile of an image gets the values that the whole image would have.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

TILE_ELEMENTS = 1 << 20
"""Logits of a tile: with noise and work space it takes some 20 MiB, and passes stay in cache."""


def tile_rows(
    classes: int, size: tuple[int, int], elements: int = TILE_ELEMENTS
) -> Iterator[range]:
    """Cuts an image into runs of whole rows.

    >>> list(tile_rows(2, (5, 4), elements=16))
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    height, width = size
    step = max(1, elements // (classes * width))
    return (range(start, min(start + step, height)) for start in range(0, height, step))


def upsample(
    logits: Float[Tensor, "classes rows columns"], size: tuple[int, int]
) -> Float[Tensor, "classes height width"]:
    """Logits of the full-size image, bit for bit those of its tiles.

    Args:
        logits: Logits of any size.
        size: Height and width of the full-size image.

    Returns:
        The logits of every pixel, in float32 or wider.

    Raises:
        ValueError: As `upsample_rows`.
    """
    return upsample_rows(logits, size, range(size[0])).view(len(logits), *size)


def upsample_rows(
    logits: Float[Tensor, "classes height width"], size: tuple[int, int], rows: range
) -> Float[Tensor, "classes pixels"]:
    """Logits of some rows of the full-size image.

    Args:
        logits: Logits of any size; those of the full size are only cut.
        size: Height and width of the full-size image.
        rows: Rows of it, in succession.

    Returns:
        Logits of the pixels of these rows in reading order, in float32 or wider.

    Raises:
        ValueError: If logits that are interpolated are not finite.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    height, width = size
    above, below, share = _neighbours(_positions(rows, logits), logits.shape[1] / height, logits)
    if logits.shape[1] == height:
        coarse = logits[:, rows.start : rows.stop].to(dtype)
    else:
        coarse = torch.lerp(logits[:, above].to(dtype), logits[:, below].to(dtype), share[:, None])
    if tuple(logits.shape[1:]) != (height, width):
        _require_finite(coarse)
    if logits.shape[2] != width:
        coarse = functional.interpolate(
            coarse[None], size=(len(rows), width), mode="bilinear", align_corners=False
        )[0]
    return coarse.reshape(len(logits), -1)


def upsample_pixels(
    logits: Float[Tensor, "classes height width"],
    size: tuple[int, int],
    pixels: Int64[Tensor, " pixels"],
) -> Float[Tensor, "classes pixels"]:
    """Logits of some pixels of the full-size image.

    Args:
        logits: As in `upsample_rows`.
        size: Height and width of the full-size image.
        pixels: Indices of pixels in reading order.

    Returns:
        Their logits, in float32 or wider.

    Raises:
        ValueError: As `upsample_rows`.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    height, width = size
    if tuple(logits.shape[1:]) == (height, width):
        return logits.flatten(1)[:, pixels].to(dtype)
    # All of them, as it would else depend on the pixels whether an image is refused.
    _require_finite(logits)
    top, bottom, down = _neighbours(pixels // width, logits.shape[1] / height, logits)
    left, right, along = _neighbours(pixels % width, logits.shape[2] / width, logits, axis=2)
    upper, lower = (
        torch.lerp(logits[:, row, left].to(dtype), logits[:, row, right].to(dtype), along)
        for row in (top, bottom)
    )
    return torch.lerp(upper, lower, down)


def _require_finite(values: Tensor) -> None:
    """Refuses infinite logits, or what interpolation makes of them: infinite values or NaN.

    Raises:
        ValueError: If there are any.
    """
    if not values.isfinite().all():
        raise ValueError(
            "logits hold -inf, +inf or NaN, which cannot be interpolated: give finite logits, such "
            "as -1e4 for a class that is impossible, or logits of the labels' size"
        )


def _positions(rows: range, logits: Tensor) -> Int64[Tensor, " rows"]:
    return torch.arange(rows.start, rows.stop, device=logits.device)


def _neighbours(
    positions: Int64[Tensor, " pixels"], scale: float, logits: Tensor, axis: int = 1
) -> tuple[Int64[Tensor, " pixels"], Int64[Tensor, " pixels"], Float[Tensor, " pixels"]]:
    """Source pixels on both sides of full-size pixels, and the share of the second."""
    source = ((positions + 0.5) * scale - 0.5).clamp(min=0)
    first = source.long()
    second = (first + 1).clamp(max=logits.shape[axis] - 1)
    return first, second, source - first
