"""What pictures for people have in common: sizes, titles, fonts, and PNG and GIF files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from aim_plugins.core.files import write_atomic

INK = (20, 20, 20)
PAPER = (255, 255, 255)
KEPT_COLOURS = 128
"""Colours of an animation that may be kept exactly; half of what a GIF has."""

_QUALITY = 75
"""Of WebP, half as large as JPEG where noise colours single pixels: some 50 kB at 384 pixels."""
_SMALL = 200
"""Pictures below this width are kept exactly; they weigh little, and show their pixels."""
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def fit_within(image: Image.Image, side: int) -> Image.Image:
    """A copy whose longer side is at most `side`; a small one is enlarged by whole pixels.

    >>> fit_within(Image.new("RGB", (1000, 500)), 320).size
    (320, 160)
    >>> fit_within(Image.new("RGB", (96, 64)), 320).size
    (288, 192)
    """
    factor = side // max(image.size)
    if factor >= 1:
        size = (image.width * factor, image.height * factor)
        return image.resize(size, Image.Resampling.NEAREST)
    copy = image.copy()
    copy.thumbnail((side, side), Image.Resampling.LANCZOS)
    return copy


def spread(total: int, count: int) -> list[int]:
    """Positions of at most `count` of `total` items: both ends, and evenly between.

    >>> spread(101, 5), spread(2, 5)
    ([0, 25, 50, 75, 100], [0, 1])
    """
    count = min(total, count)
    return [round(index * (total - 1) / max(1, count - 1)) for index in range(count)]


def titled(picture: Image.Image, title: str) -> Image.Image:
    """Writes a title above a picture; without one, the picture stays as it is."""
    if not title:
        return picture
    font = font_for(picture.width)
    line = round(1.4 * font.size)
    result = Image.new("RGB", (picture.width, line + picture.height), PAPER)
    result.paste(picture, (0, line))
    ImageDraw.Draw(result).text((line // 4, line // 2), title, INK, font=font, anchor="lm")
    return result


def font_for(width: int) -> ImageFont.FreeTypeFont:
    """A font with Greek letters, of a size that suits a picture of a width."""
    # matplotlib brings a font with Greek letters wherever it is installed.
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size=min(24, max(14, width // 24)))


def as_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    """The image in red, green and blue.

    Raises:
        ValueError: If it is no image.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(
            f"image has shape {array.shape} and {array.dtype}: give a Pillow image, or uint8 "
            "[height, width, 3]"
        )
    return Image.fromarray(array)


def require_pictures(pictures: Sequence[Image.Image]) -> None:
    """Refuses an empty list of pictures."""
    if not pictures:
        raise ValueError("pictures is empty: give at least one")


def save_picture(path: str | Path, picture: Image.Image) -> Path:
    """Writes a picture atomically, in the format of the suffix: .png, .jpg or .webp.

    Raises:
        ValueError: If the suffix is another one.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"{path}: the suffix is {path.suffix!r}, not one of {', '.join(_FORMATS)}")
    content = io.BytesIO()
    picture.save(content, _FORMATS[path.suffix.lower()])
    return write_atomic(path, content.getvalue())


def encode_picture(picture: Image.Image, *, exact: bool | None = None) -> bytes:
    """The content of a small file for a page: PNG of what is kept exactly, or else WebP.

    Args:
        picture: The picture.
        exact: Whether to keep every pixel; by default of pictures below 200 pixels of width.
    """
    content = io.BytesIO()
    if picture.width < _SMALL if exact is None else exact:
        picture.convert("RGB").save(content, "PNG", optimize=True)
    else:
        picture.convert("RGB").save(content, "WEBP", quality=_QUALITY)
    return content.getvalue()


def save_animation(
    path: str | Path,
    pictures: Sequence[Image.Image],
    *,
    seconds: float = 0.6,
    keep: UInt8[np.ndarray, "colours 3"] | None = None,
) -> Path:
    """Writes an endless animated GIF atomically.

    All frames share one palette of 256 colours without dithering: with palettes of their own, what
    does not change would flicker.

    Args:
        path: The file, with the suffix .gif.
        pictures: Frames of one size, such as those of `level_overlays`.
        seconds: How long a frame is shown.
        keep: Colours to show exactly, at most `KEPT_COLOURS`, such as those of the legend; the
            other colours are rounded to the nearest of those left.

    Returns:
        The path.

    Raises:
        ValueError: If there is no picture, they differ in size, the suffix is another one, or
            `keep` holds too many colours.
    """
    path = Path(path)
    kept = np.array([PAPER, INK], dtype=np.uint8)
    if keep is not None:
        kept = np.concatenate([np.asarray(keep, dtype=np.uint8), kept])
    if keep is not None and len(keep) > KEPT_COLOURS:
        raise ValueError(
            f"keep holds {len(keep)} colours, more than {KEPT_COLOURS}: keep those of the legend"
        )
    if path.suffix.lower() != ".gif":
        raise ValueError(f"{path}: the suffix is {path.suffix!r}, not .gif")
    require_pictures(pictures)
    sizes = {picture.size for picture in pictures}
    if len(sizes) > 1:
        raise ValueError(
            f"pictures have the sizes {sorted(sizes)}: give frames of one size, as level_overlays "
            "makes them"
        )
    shared = _shared_palette(pictures, kept)
    frames = [_quantize(picture, shared, kept) for picture in pictures]
    content = io.BytesIO()
    frames[0].save(
        content,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=round(1000 * seconds),
        loop=0,
        optimize=False,
    )
    return write_atomic(path, content.getvalue())


def _shared_palette(pictures: Sequence[Image.Image], kept: np.ndarray) -> Image.Image:
    """256 colours for all frames, from every few pixels, whose colours stay unmixed."""
    samples = []
    for picture in pictures:
        scale = max(1, max(picture.size) // 256)
        samples.append(np.asarray(as_rgb(picture))[::scale, ::scale])
    sheet = Image.fromarray(np.ascontiguousarray(np.concatenate(samples)))
    found = sheet.quantize(
        256 - len(kept), method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    ).getpalette()
    palette = Image.new("P", (1, 1))
    palette.putpalette([*kept.ravel().tolist(), *(found or [])])
    return palette


def _quantize(picture: Image.Image, palette: Image.Image, kept: np.ndarray) -> Image.Image:
    """Maps colours to a palette whose first entries are `kept`."""
    rgb = as_rgb(picture)
    frame = rgb.quantize(palette=palette, dither=Image.Dither.NONE)
    # Pillow compares colours to six bits, and so may miss one that the palette holds.
    codes, kept_codes = (a.astype(np.int64) @ (65536, 256, 1) for a in (np.asarray(rgb), kept))
    order = np.argsort(kept_codes)
    found = order[np.searchsorted(kept_codes, codes, sorter=order).clip(max=len(order) - 1)]
    index = np.where(kept_codes[found] == codes, found, np.asarray(frame)).astype(np.uint8)
    exact = Image.fromarray(index, "P")
    exact.putpalette(palette.getpalette() or [])
    return exact
