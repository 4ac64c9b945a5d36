"""Pictures of class maps: overlays with a legend, strips over strengths, animations.

Colours follow the rule of the PASCAL VOC devkit: the bits of an index are dealt in turn to red,
green and blue, the lowest to the highest bits of a colour, so that any number of classes gets
colours far apart which never change. Class c takes index c + 1; black, index 0, is left to pixels
that belong to no class.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from aim_plugins.core.files import write_atomic

LEGEND_CLASSES = 12
"""Classes that a legend names; the others are counted."""

KEPT_COLOURS = 128
"""Colours of an animation that may be kept exactly; half of what a GIF has."""

_TEXT = (20, 20, 20)
_PAPER = (255, 255, 255)
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def class_palette(classes: int) -> UInt8[np.ndarray, "classes 3"]:
    """Colours of classes by the bit rule of PASCAL VOC, without its black.

    >>> class_palette(3).tolist()
    [[128, 0, 0], [0, 128, 0], [128, 128, 0]]
    """
    index = np.arange(1, classes + 1)
    palette = np.zeros((classes, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            value = (index >> (3 * bit + channel)) & 1
            palette[:, channel] |= (value << (7 - bit)).astype(np.uint8)
    return palette


def colour_map(
    prediction: Integer[Tensor, "height width"] | Integer[np.ndarray, "height width"], classes: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Paints a class map; what is no class, such as 255 of 150 classes, becomes black.

    Args:
        prediction: Class of each pixel.
        classes: Number of classes.

    Returns:
        RGB values.
    """
    index = _as_map(prediction)
    known = (index >= 0) & (index < classes)
    colours = np.concatenate([np.zeros((1, 3), dtype=np.uint8), class_palette(classes)])
    return colours[np.where(known, index + 1, 0)]


def overlay(
    image: Image.Image | UInt8[np.ndarray, "height width 3"],
    prediction: Integer[Tensor, "h w"] | Integer[np.ndarray, "h w"],
    class_names: Sequence[str],
    *,
    alpha: float = 0.55,
    title: str = "",
    legend: Sequence[int] | None = None,
) -> Image.Image:
    """Lays a class map over an image, with a title above and a legend below.

    Args:
        image: The photograph, of any size and colour mode.
        prediction: Class of each pixel; a map of another size is stretched to the image.
        class_names: Names of all classes.
        alpha: Share of the class colours, from 0 (the photograph) to 1 (colours alone).
        title: Text above the picture, such as "σ = 2".
        legend: Classes to name, for pictures that are to share a legend; by default those present,
            the largest first. An empty list leaves the legend out.

    Returns:
        The picture; pixels of no class keep the photograph.

    Raises:
        ValueError: If `alpha` is outside [0, 1], the map is no matrix, or a legend's class has no
            name.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha!r} is outside [0, 1]: give the share of the class colours")
    photograph = _as_rgb(image)
    index = _stretch(_as_map(prediction), photograph.size)
    colours = colour_map(index, len(class_names)).astype(np.float64)
    share = np.where((index >= 0) & (index < len(class_names)), alpha, 0.0)[..., None]
    mixed = np.asarray(photograph) * (1 - share) + colours * share
    picture = Image.fromarray(np.rint(mixed).astype(np.uint8))
    named = present_classes([index], len(class_names)) if legend is None else list(legend)
    unknown = [entry for entry in named if not 0 <= entry < len(class_names)]
    if unknown:
        raise ValueError(
            f"legend names class {unknown[0]}, outside the {len(class_names)} of class_names"
        )
    return _framed(picture, title, named, class_names)


def present_classes(
    predictions: Sequence[Integer[Tensor, "h w"] | Integer[np.ndarray, "h w"]], classes: int
) -> list[int]:
    """Classes in some maps, the largest first; equal ones by index.

    >>> present_classes([np.array([[2, 2], [0, 255]])], classes=3)
    [2, 0]
    """
    sizes = np.zeros(classes, dtype=np.int64)
    for prediction in predictions:
        index = _as_map(prediction)
        known = index[(index >= 0) & (index < classes)]
        sizes += np.bincount(known.ravel(), minlength=classes)
    return [int(c) for c in np.argsort(-sizes, kind="stable") if sizes[c]]


def level_overlays(
    image: Image.Image | UInt8[np.ndarray, "height width 3"],
    predictions: Mapping[str, Integer[Tensor, "h w"] | Integer[np.ndarray, "h w"]],
    class_names: Sequence[str],
    *,
    alpha: float = 0.55,
) -> list[Image.Image]:
    """Overlays of all levels, of one size, as a strip and an animation want them.

    Args:
        image: The photograph.
        predictions: Class map of each level, by its title.
        class_names: Names of all classes.
        alpha: Share of the class colours.

    Returns:
        One picture per level. All have the same legend: the classes that are largest over all
        levels.

    Raises:
        ValueError: As in `overlay`.
    """
    legend = present_classes(list(predictions.values()), len(class_names))
    return [
        overlay(image, prediction, class_names, alpha=alpha, title=title, legend=legend)
        for title, prediction in predictions.items()
    ]


def strip(pictures: Sequence[Image.Image], *, gap: int = 4) -> Image.Image:
    """Sets pictures side by side, aligned at the top.

    Raises:
        ValueError: If there is no picture.
    """
    _require_pictures(pictures)
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    result = Image.new("RGB", (width, max(picture.height for picture in pictures)), _PAPER)
    left = 0
    for picture in pictures:
        result.paste(_as_rgb(picture), (left, 0))
        left += picture.width + gap
    return result


def with_legend(
    picture: Image.Image, named: Sequence[int], class_names: Sequence[str]
) -> Image.Image:
    """Sets a legend below a picture, such as a strip whose pictures have none of their own.

    Args:
        picture: The picture.
        named: Classes to name, at most `LEGEND_CLASSES`; the others are counted.
        class_names: Names of all classes.
    """
    return _framed(_as_rgb(picture), "", list(named), class_names)


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
        pictures: Frames of one size, as from `level_overlays`.
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
    kept = np.array([_PAPER, _TEXT], dtype=np.uint8)
    if keep is not None:
        kept = np.concatenate([np.asarray(keep, dtype=np.uint8), kept])
    if keep is not None and len(keep) > KEPT_COLOURS:
        raise ValueError(
            f"keep holds {len(keep)} colours, more than {KEPT_COLOURS}: keep those of the legend"
        )
    if path.suffix.lower() != ".gif":
        raise ValueError(f"{path}: the suffix is {path.suffix!r}, not .gif")
    _require_pictures(pictures)
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
        samples.append(np.asarray(_as_rgb(picture))[::scale, ::scale])
    sheet = Image.fromarray(np.ascontiguousarray(np.concatenate(samples)))
    found = sheet.quantize(
        256 - len(kept), method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    ).getpalette()
    palette = Image.new("P", (1, 1))
    palette.putpalette([*kept.ravel().tolist(), *(found or [])])
    return palette


def _quantize(picture: Image.Image, palette: Image.Image, kept: np.ndarray) -> Image.Image:
    """Maps colours to a palette whose first entries are `kept`."""
    rgb = _as_rgb(picture)
    frame = rgb.quantize(palette=palette, dither=Image.Dither.NONE)
    # Pillow compares colours to six bits, and so may miss one that the palette holds.
    codes, kept_codes = (a.astype(np.int64) @ (65536, 256, 1) for a in (np.asarray(rgb), kept))
    order = np.argsort(kept_codes)
    found = order[np.searchsorted(kept_codes, codes, sorter=order).clip(max=len(order) - 1)]
    index = np.where(kept_codes[found] == codes, found, np.asarray(frame)).astype(np.uint8)
    exact = Image.fromarray(index, "P")
    exact.putpalette(palette.getpalette() or [])
    return exact


def _framed(
    picture: Image.Image, title: str, named: list[int], class_names: Sequence[str]
) -> Image.Image:
    """Adds the title above and the legend below; the picture starts at the left edge."""
    font = _font(picture.width)
    line = round(1.4 * font.size)
    entries = [(class_names[c], tuple(int(v) for v in class_palette(c + 1)[c])) for c in named]
    if len(entries) > LEGEND_CLASSES:
        rest = len(entries) - LEGEND_CLASSES
        entries = [*entries[:LEGEND_CLASSES], (f"and {rest} more", _PAPER)]
    rows = _legend_rows(entries, font, line, picture.width)
    top = line if title else 0
    width = max([picture.width, *(x + w for row in rows for x, w, *_ in row)])
    result = Image.new("RGB", (width, top + picture.height + line * len(rows)), _PAPER)
    result.paste(picture, (0, top))
    draw = ImageDraw.Draw(result)
    if title:
        draw.text((line // 4, line // 2), title, _TEXT, font=font, anchor="lm")
    for number, row in enumerate(rows):
        middle = top + picture.height + number * line + line // 2
        for x, _, name, colour in row:
            reach = line // 4
            draw.rectangle((x + reach, middle - reach, x + 3 * reach, middle + reach), colour)
            draw.text((x + line, middle), name, _TEXT, font=font, anchor="lm")
    return result


def _legend_rows(
    entries: Sequence[tuple[str, tuple[int, ...]]],
    font: ImageFont.FreeTypeFont,
    line: int,
    width: int,
) -> list[list[tuple[int, int, str, tuple[int, ...]]]]:
    """Breaks the legend into lines: position, width, name and colour of each entry."""
    rows: list[list[tuple[int, int, str, tuple[int, ...]]]] = []
    x = 0
    for name, colour in entries:
        needed = line + round(font.getlength(name)) + line // 4
        if not rows or x + needed > width:
            rows.append([])
            x = 0
        rows[-1].append((x, needed, name, colour))
        x += needed
    return rows


def _font(width: int) -> ImageFont.FreeTypeFont:
    # matplotlib brings a font with Greek letters wherever it is installed.
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size=min(24, max(14, width // 24)))


def _as_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(
            f"image has shape {array.shape} and {array.dtype}: give a Pillow image, or uint8 "
            "[height, width, 3]"
        )
    return Image.fromarray(array)


def _as_map(prediction: Tensor | np.ndarray) -> np.ndarray:
    array = prediction.cpu().numpy() if isinstance(prediction, Tensor) else np.asarray(prediction)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"prediction has shape {array.shape} and {array.dtype}: give class indices "
            "[height, width]"
        )
    return array.astype(np.int64)


def _stretch(index: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Takes the nearest class for each pixel of an image of size (width, height)."""
    if index.shape == size[::-1]:
        return index
    stretched = Image.fromarray(index.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    return np.asarray(stretched).astype(np.int64)


def _require_pictures(pictures: Sequence[Image.Image]) -> None:
    if not pictures:
        raise ValueError("pictures is empty: give at least one")
