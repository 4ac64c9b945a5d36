"""Words written on images: typographic attacks on models that read.

CLIP, which learned from images with their captions, reads what is written on an image, and may
answer with the word instead of what the image shows.

Source: Goh et al., "Multimodal Neurons in Artificial Neural Networks", Distill 2021,
doi:10.23915/distill.00030, section "Attacks in the wild".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aim_plugins.core.settings import Natural
from vision_bench.data.marks import CornerSettings, check_colour

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

_RIM = 0.25
"""Paper around a word, as a share of the font's size."""


@dataclass(frozen=True)
class Writing(CornerSettings):
    """How a word in a corner looks; its size is that of the font, smaller where it has no room.

    Attributes:
        paper: Red, green and blue of the paper below it; None writes on the image itself.
    """

    colour: Sequence[Natural] = (0, 0, 0)
    paper: Sequence[Natural] | None = (255, 255, 255)

    def check(self) -> None:
        super().check()
        if self.paper is not None:
            check_colour("paper", self.paper)


@dataclass(frozen=True)
class Word:
    """A word that is written on an image.

    Attributes:
        text: The word.
        writing: How it looks.
    """

    text: str
    writing: Writing = Writing()

    @property
    def called(self) -> str:
        return f"word {self.text}"

    def on(self, image: Image) -> Image:
        """A copy of an RGB image with the word written on it."""
        from PIL import ImageDraw

        writing, written = self.writing, image.copy()
        draw = ImageDraw.Draw(written)
        font = self._font(image.size)
        left, top, right, bottom = font.getbbox(self.text)
        rim = 0 if writing.paper is None else round(_RIM * font.size)
        width, height = round(right - left) + 2 * rim, round(bottom - top) + 2 * rim
        x, y = writing.place(image.size, (width, height))
        if writing.paper is not None:
            draw.rectangle((x, y, x + width - 1, y + height - 1), tuple(writing.paper))
        draw.text((x + rim - left, y + rim - top), self.text, tuple(writing.colour), font)
        return written

    def _font(self, image: tuple[int, int]) -> FreeTypeFont:
        """Pillow's own font in the size that was asked for, or the largest that has room."""
        from PIL.ImageFont import FreeTypeFont, load_default

        size = max(1, round(self.writing.size * min(image)))
        room = image[0] - 2 * self.writing.away(image)
        while True:
            font = load_default(size)
            assert isinstance(font, FreeTypeFont)  # as of any size that is given
            left, _, right, _ = font.getbbox(self.text)
            rim = 0 if self.writing.paper is None else round(_RIM * size)
            if right - left + 2 * rim <= room or size == 1:
                return font
            size -= 1
