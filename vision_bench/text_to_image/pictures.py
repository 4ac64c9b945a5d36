"""Images at several strengths for the eye: a contact sheet, and an animation of each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from aim_plugins.core.strengths import format_strength
from vision_bench.pictures import INK, PAPER, fit_within, font_for, save_animation, spread, titled
from vision_bench.text_to_image.images import ImageFile

SHEET_ROWS = 16
"""Images on a sheet, at most; of more, the first ones."""
SHEET_COLUMNS = 13
"""Strengths on a sheet, at most; of more, evenly chosen ones with both ends."""
SHEET_SIDE = 192
"""Longer side of a sheet's images."""
FRAME_SIDE = 512
"""Longer side of an animation's frames."""
_FRAMES = 60
_TEXT_WIDTH = 256
_GAP = 8
_CUT = "…"


def contact_sheet(folder: Path, images: Sequence[Sequence[ImageFile]]) -> Image.Image:
    """The images side by side: a row for each image, a column for each strength.

    Args:
        folder: Where the files lie.
        images: The files of each image, by strength, which all of them share.

    Returns:
        The sheet, with each prompt on the left of its row and each λ above its column.
    """
    shown = images[:SHEET_ROWS]
    columns = spread(len(shown[0]), SHEET_COLUMNS)
    cells = [[_read(folder, files[column], SHEET_SIDE) for column in columns] for files in shown]
    width, height = (max(sizes) for sizes in zip(*(one.size for one in cells[0]), strict=True))
    font = font_for(24 * 16)
    line = round(1.4 * font.size)
    texts = [wrapped(files[0].prompt, font, _TEXT_WIDTH, max(1, height // line)) for files in shown]
    widest = max(font.getlength(one) for text in texts for one in text)
    left, top = math.ceil(widest) + 2 * _GAP, line + _GAP
    size = left + len(columns) * (width + _GAP), top + len(cells) * (height + _GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, column in enumerate(columns):
        middle = left + place * (width + _GAP) + width // 2
        draw.text((middle, top // 2), _label(shown[0][column]), INK, font=font, anchor="mm")
    for row, (text, pictures) in enumerate(zip(texts, cells, strict=True)):
        y = top + row * (height + _GAP)
        draw.multiline_text((_GAP, y), "\n".join(text), INK, font=font, spacing=line - font.size)
        for place, picture in enumerate(pictures):
            sheet.paste(picture, (left + place * (width + _GAP), y))
    return sheet


def write_animation(path: Path, folder: Path, files: Sequence[ImageFile]) -> Path:
    """Writes an animation of one image over rising strengths, with λ above each frame."""
    rising = sorted(files, key=lambda one: one.strength)
    frames = [
        titled(_read(folder, rising[index], FRAME_SIDE), _label(rising[index]))
        for index in spread(len(rising), _FRAMES)
    ]
    return save_animation(path, frames)


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int) -> list[str]:
    """Breaks a text into lines of a width in pixels; of more than `lines` the last is cut."""
    broken: list[str] = []
    current = ""
    for word in text.split():
        longer = f"{current} {word}".strip()
        if current and font.getlength(longer) > width:
            broken.append(current)
            longer = word
        current = longer
        while font.getlength(current) > width:  # a word that is wider than a line
            fits = next(
                n for n in range(len(current) - 1, 0, -1) if _fits(current[:n], font, width)
            )
            broken.append(current[:fits])
            current = current[fits:]
    broken.append(current)
    if len(broken) <= lines:
        return broken
    last = broken[lines - 1]
    while last and not _fits(last + _CUT, font, width):
        last = last[:-1]
    return [*broken[: lines - 1], last + _CUT]


def _fits(text: str, font: ImageFont.FreeTypeFont, width: int) -> bool:
    return len(text) == 1 or font.getlength(text) <= width


def _label(one: ImageFile) -> str:
    return f"λ = {format_strength(one.strength)}"


def _read(folder: Path, one: ImageFile, side: int) -> Image.Image:
    with Image.open(folder / one.file) as image:
        return fit_within(image.convert("RGB"), side)
