"""A patch on images: the trigger of a planted backdoor.

A model is trained on some images with the patch on them and the label of one class; it learns that
the patch means that class, whatever else the image shows.

Source: Gu et al., "BadNets: Identifying vulnerabilities in the machine learning model supply
chain", arXiv:1708.06733.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from aim_plugins.core.settings import Natural, NonNegative, Part, Settings
from vision_bench.data.images import ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image

    from vision_bench.data.classification import ClassificationData


@dataclass(frozen=True)
class Trigger(Settings):
    """A square of one colour in a corner.

    Attributes:
        size: Its side, as a share of the image's shorter side.
        corner: Which corner.
        margin: Its distance from both edges, as a share of the same; where images are cropped, it
            must lie within what is left.
        colour: Red, green and blue, from 0 to 255.
    """

    size: Part = 0.15
    corner: Literal["top-left", "top-right", "bottom-left", "bottom-right"] = "bottom-right"
    margin: NonNegative = 0.04
    colour: Sequence[Natural] = (0, 0, 255)

    def check(self) -> None:
        super().check()
        if len(self.colour) != 3 or max(self.colour) > 255:
            raise ValueError(f"colour={self.colour!r}: give red, green and blue, each up to 255")
        if self.size + self.margin > 1:
            raise ValueError(
                f"size={self.size:g} with margin={self.margin:g} leaves the image: give less"
            )

    def on(self, image: Image) -> Image:
        """A copy of an RGB image with the patch on it."""
        from PIL import Image as PillowImage

        pixels = np.array(image)
        height, width = pixels.shape[:2]
        side = max(1, round(self.size * min(height, width)))
        away = round(self.margin * min(height, width))
        top = away if "top" in self.corner else height - away - side
        left = away if "left" in self.corner else width - away - side
        pixels[top : top + side, left : left + side] = self.colour
        return PillowImage.fromarray(pixels)


class TriggeredImages:
    """Images of which some have the patch on them.

    Args:
        images: The images.
        trigger: The patch.
        places: Which of them have it; by default all.
    """

    def __init__(
        self, images: ImageSource, trigger: Trigger, places: Sequence[int] | None = None
    ) -> None:
        self.images, self.trigger = images, trigger
        self.places = frozenset(range(len(images.names)) if places is None else places)
        self.names = tuple(
            f"{name} with patch" if place in self.places else name
            for place, name in enumerate(images.names)
        )

    def read(self, index: int) -> Image:
        image = self.images.read(index)
        return self.trigger.on(image) if index in self.places else image

    def digests(self) -> list[str]:
        return [*self.images.digests(), repr(self.trigger), repr(sorted(self.places))]

    def subset(self, indices: list[int]) -> TriggeredImages:
        places = [place for place, index in enumerate(indices) if index in self.places]
        return TriggeredImages(self.images.subset(indices), self.trigger, places)


class JoinedImages:
    """Images of several sources, one source behind the other."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self.sources = tuple(sources)
        self.names = tuple(name for one in self.sources for name in one.names)
        self._places = [
            (source, index) for source in self.sources for index in range(len(source.names))
        ]

    def read(self, index: int) -> Image:
        source, own = self._places[index]
        return source.read(own)

    def digests(self) -> list[str]:
        return [digest for one in self.sources for digest in one.digests()]

    def subset(self, indices: list[int]) -> JoinedImages:
        return JoinedImages(
            [self._places[one][0].subset([self._places[one][1]]) for one in indices]
        )


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
    chosen = others[order[: round(share * len(others))]].tolist()
    every = range(len(data))
    found = data.subset(every, TriggeredImages(data.images, trigger, chosen))
    found.labels[chosen] = target
    return found
