"""Labels of pixels: class indices, and the one that counts for nothing."""

from __future__ import annotations

import torch
from jaxtyping import Int, Integer
from torch import Tensor

IGNORE = 255
"""Label of pixels that count for nothing."""


def counted_pixels(labels: Tensor, ignore_index: int | None) -> Tensor:
    """Mask of the pixels that count."""
    if ignore_index is None:
        return torch.ones_like(labels, dtype=torch.bool)
    return labels != ignore_index


def check_labels(
    labels: Integer[Tensor, "*shape"],
    classes: int,
    ignore_index: int | None,
    *,
    name: str = "labels",
) -> None:
    """Refuses label maps that do not belong to the classes.

    Raises:
        ValueError: If the labels are no integers, or one is neither a class nor `ignore_index`.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{name} are {labels.dtype}: give integer class indices")
    require_classes(
        name,
        labels[counted_pixels(labels, ignore_index)],
        classes,
        f"mark pixels to be left out with {ignore_index}, and number classes from 0 "
        "(ADE20K's files start at 1 and need their labels reduced)",
    )


def require_classes(name: str, values: Tensor, classes: int, mend: str) -> None:
    outside = (values < 0) | (values >= classes)
    if outside.any():
        raise ValueError(
            f"{name} hold {int(values[outside][0])} ({int(outside.sum())} such pixels), outside "
            f"[0, {classes}): {mend}"
        )


def nearest(
    labels: Int[Tensor, "height width"], size: tuple[int, int]
) -> Int[Tensor, "new_height new_width"]:
    """Labels at another size: of the nearest pixel, by the pixels' centres as Pillow resizes."""
    rows, columns = (
        ((torch.arange(new, dtype=torch.float64) + 0.5) * old / new).long()
        for new, old in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns[None, :]].contiguous()
