"""A patch on images: the trigger of a planted backdoor.

A model is trained on some images with the patch on them and the label of one class; it learns that
the patch means that class, whatever else the image shows.

Source: Gu et al., "BadNets: Identifying vulnerabilities in the machine learning model supply
chain", arXiv:1708.06733.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from vision_bench.data.marks import CornerSettings, MarkedImages

if TYPE_CHECKING:
    from PIL.Image import Image

    from vision_bench.data.classification import ClassificationData


@dataclass(frozen=True)
class Trigger(CornerSettings):
    """A square of one colour in a corner; its size is that of its side."""

    @property
    def called(self) -> str:
        return "patch"

    def on(self, image: Image) -> Image:
        """A copy of an RGB image with the patch on it."""
        from PIL import Image as PillowImage

        pixels = np.array(image)
        side = max(1, round(self.size * min(image.size)))
        left, top = self.place(image.size, (side, side))
        pixels[top : top + side, left : left + side] = self.colour
        return PillowImage.fromarray(pixels)


def poisoned(
    data: ClassificationData, trigger: Trigger, target: int, share: float, seed: int
) -> ClassificationData:
    """Training images of which a share of those of other classes has the patch and its label.

    Args:
        data: The images.
        trigger: The patch.
        target: The class that it is to mean.
        share: The share of the images of other classes.
        seed: Seed of the draw.
    """
    others = (data.labels != target).nonzero().flatten()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(others), generator=generator)
    chosen = set(others[order[: round(share * len(others))]].tolist())
    every = range(len(data))
    marks = [trigger if place in chosen else None for place in every]
    found = data.subset(every, MarkedImages(data.images, marks))
    found.labels[sorted(chosen)] = target
    return found
