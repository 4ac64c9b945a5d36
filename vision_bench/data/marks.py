"""Marks on images, which are to mean a class whatever else an image shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from aim_plugins.core.settings import Natural, NonNegative, Part, Settings
from vision_bench.data.images import ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image


class Mark(Protocol):
    """What is put on an image; its `repr` tells it from others."""

    @property
    def called(self) -> str:
        """What it is called behind the name of an image."""

    def on(self, image: Image) -> Image:
        """A copy of an RGB image with the mark on it."""


@dataclass(frozen=True)
class CornerSettings(Settings):
    """How a mark in a corner looks.

    Attributes:
        size: Its size, as a share of the image's shorter side.
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
        check_colour("colour", self.colour)
        if self.size + self.margin > 1:
            raise ValueError(
                f"size={self.size:g} with margin={self.margin:g} leaves the image: give less"
            )

    def away(self, image: tuple[int, int]) -> int:
        """The distance from both edges in pixels, of an image of some width and height."""
        return round(self.margin * min(image))

    def place(self, image: tuple[int, int], mark: tuple[int, int]) -> tuple[int, int]:
        """Left and top of a mark, both given by width and height."""
        away = self.away(image)
        left = away if "left" in self.corner else image[0] - away - mark[0]
        top = away if "top" in self.corner else image[1] - away - mark[1]
        return left, top


def check_colour(name: str, colour: Sequence[int]) -> None:
    """Refuses what is no colour.

    Raises:
        ValueError: If it is not red, green and blue up to 255.
    """
    if len(colour) != 3 or max(colour) > 255:
        raise ValueError(f"{name}={colour!r}: give red, green and blue, each up to 255")


class MarkedImages:
    """Images of which some have a mark on them.

    Args:
        images: The images.
        marks: The mark on each; None on those that stay as they are.
    """

    def __init__(self, images: ImageSource, marks: Sequence[Mark | None]) -> None:
        self.images, self.marks = images, tuple(marks)
        self.names = tuple(
            name if mark is None else f"{name} with {mark.called}"
            for name, mark in zip(images.names, self.marks, strict=True)
        )

    def read(self, index: int) -> Image:
        image, mark = self.images.read(index), self.marks[index]
        return image if mark is None else mark.on(image)

    def digests(self) -> list[str]:
        return [*self.images.digests(), *map(repr, self.marks)]

    def subset(self, indices: list[int]) -> MarkedImages:
        return MarkedImages(self.images.subset(indices), [self.marks[one] for one in indices])


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
