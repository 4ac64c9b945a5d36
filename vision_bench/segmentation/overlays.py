"""Pictures of class maps: overlays with a legend, and strips over strengths.

Colours follow the rule of the PASCAL VOC devkit: the bits of an index are dealt in turn to red,
green and blue, the lowest to the highest bits of a colour, so that any number of classes gets
colours far apart which never change. Class c takes index c + 1; black, index 0, is left to pixels
that belong to no class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vision_bench.pictures import INK, PAPER, as_rgb, font_for, require_pictures, titled

LEGEND_CLASSES = 12
"""Classes that a legend names; the others are counted."""


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
    photograph = as_rgb(image)
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
    require_pictures(pictures)
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    result = Image.new("RGB", (width, max(picture.height for picture in pictures)), PAPER)
    left = 0
    for picture in pictures:
        result.paste(as_rgb(picture), (left, 0))
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
    return _framed(as_rgb(picture), "", list(named), class_names)


def _framed(
    picture: Image.Image, title: str, named: list[int], class_names: Sequence[str]
) -> Image.Image:
    """Adds the title above and the legend below; the picture starts at the left edge."""
    font = font_for(picture.width)
    line = round(1.4 * font.size)
    entries = [(class_names[c], tuple(int(v) for v in class_palette(c + 1)[c])) for c in named]
    if len(entries) > LEGEND_CLASSES:
        rest = len(entries) - LEGEND_CLASSES
        entries = [*entries[:LEGEND_CLASSES], (f"and {rest} more", PAPER)]
    rows = _legend_rows(entries, font, line, picture.width)
    picture = titled(picture, title)
    top = picture.height
    width = max([picture.width, *(x + w for row in rows for x, w, *_ in row)])
    result = Image.new("RGB", (width, top + line * len(rows)), PAPER)
    result.paste(picture, (0, 0))
    draw = ImageDraw.Draw(result)
    for number, row in enumerate(rows):
        middle = top + number * line + line // 2
        for x, _, name, colour in row:
            reach = line // 4
            draw.rectangle((x + reach, middle - reach, x + 3 * reach, middle + reach), colour)
            draw.text((x + line, middle), name, INK, font=font, anchor="lm")
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
