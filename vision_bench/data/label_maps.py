"""Files of labels: an index or a colour for each pixel.

One-channel files and palettes hold indices, whatever a palette's colours are. A file of colours is
read where a list at the data set's root says which class each belongs to; without one, a grey file
that was stored with three channels holds indices too. Where a file has no single meaning, the
error names what is in doubt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from aim_plugins.core.errors import did_you_mean
from vision_bench.data.images import UnreadableImageError, decode
from vision_bench.data.labels import IGNORE
from vision_bench.data.names import PALETTES

if TYPE_CHECKING:
    from PIL.Image import Image

_VOID_NAMES = ("void", "unlabeled", "unlabelled", "ignore")
_NUMBERS = r"(?P<red>\d+)[\s,;]+(?P<green>\d+)[\s,;]+(?P<blue>\d+)"
_LINES = (
    # Further columns may follow, such as the parts of CVAT.
    re.compile(rf"(?P<name>.*?\S)\s*[\s,;:]\s*{_NUMBERS}([,;:].*)?"),
    re.compile(rf"{_NUMBERS}[\s,;:]+(?P<name>.*\S)"),
)

_GREY_BITS = {"2": 85, "4": 17}
"""What Pillow multiplies grey values of few bits with, to fill eight."""

Colour = tuple[int, int, int]


def read_label_map(
    path: str | Path, colours: Mapping[Colour, int] | None = None
) -> Int[np.ndarray, "height width"]:
    """Reads a file of labels.

    Args:
        path: An image of one index a pixel, or of colours.
        colours: By colour, what the pixel is stored as.

    Returns:
        The stored indices.

    Raises:
        UnreadableImageError: If the file is damaged, or it is in doubt what its pixels mean.
        OSError: If the system cannot read the file at all.
    """
    path = Path(path)
    image, raw = decode(path)
    if image.format == "JPEG":
        raise UnreadableImageError(
            f"{path}: JPEG blurs labels into others at their borders: store label maps as PNG"
        )
    bands, mode = np.asarray(image), image.mode
    if mode in ("LA", "PA", "RGB", "RGBA") and ";16" in raw:
        raise UnreadableImageError(
            f"{path}: of several channels with 16 bits only the high bytes are read: store one "
            "channel of 8 or 16 bits"
        )
    if mode in ("LA", "PA", "RGBA"):
        _require_opaque(path, bands[..., -1])
        bands, mode = bands[..., :-1], mode[:-1]
        bands = bands[..., 0] if mode in ("L", "P") else bands
    if mode == "P" and colours is not None:
        used = _paint(bands, image)
        if _all_listed(used, colours):
            bands, mode = used, "RGB"
    if mode == "RGB":
        return _from_colours(path, bands.astype(np.int64), colours)
    if mode == "L" and (few := re.search(r"\bL;([24])", raw)):
        bands = bands // _GREY_BITS[few[1]]
    if mode == "F" and (bands == np.rint(bands)).all():
        mode = "I"
    if mode not in ("1", "L", "P", "I") and not mode.startswith("I;16"):
        raise UnreadableImageError(
            f"{path}: a label map holds one class index or colour per pixel, but this image is of "
            f"the mode {mode}: store it grey or with a palette"
        )
    return bands.astype(np.int64)


def holds_indices(path: str | Path, colours: Mapping[Colour, int]) -> bool:
    """Whether a file holds indices although colours are listed; only palettes are decoded for it.

    Args:
        path: The file; one that cannot be read holds none.
        colours: The listed colours.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode = image.mode
        if mode not in ("P", "PA"):
            return mode not in ("RGB", "RGBA")
        image, _ = decode(Path(path))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
    bands = np.asarray(image)
    return not _all_listed(_paint(bands if mode == "P" else bands[..., 0], image), colours)


def read_palette(root: Path) -> tuple[Path, list[tuple[str, Colour]]] | None:
    """Reads the list of a data set's colours, a line "NAME R G B" for each.

    Args:
        root: Folder of the data set; `PALETTES` are the names that a list may have. Numbers may
            also come first, and be set apart by commas or colons.

    Returns:
        The file, and names with their colours in its order; None if there is no list.

    Raises:
        ValueError: If a line is not understood.
    """
    path = next((root / name for name in PALETTES if (root / name).is_file()), None)
    if path is None:
        return None
    listed: list[tuple[str, Colour]] = []
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    for number, line in enumerate(line for line in lines if line and line[0] != "#"):
        found = next(filter(None, (one.fullmatch(line) for one in _LINES)), None)
        if found is None and number == 0 and not re.search(r"\d", line):
            continue  # the names of columns
        red, green, blue = (int(found[part]) if found else 256 for part in ("red", "green", "blue"))
        if found is None or max(red, green, blue) > 255:
            raise ValueError(f"{path}: {line!r} is no line such as 'road 128 64 128'")
        listed.append((found["name"], (red, green, blue)))
    return path, listed


def palette_classes(listed: Sequence[tuple[str, Colour]]) -> tuple[str, ...]:
    """The classes of a list of colours, without what marks unlabelled pixels."""
    names = dict.fromkeys(name for name, _ in listed)
    return tuple(name for name in names if name.casefold() not in _VOID_NAMES)


def class_colours(
    path: Path, listed: Sequence[tuple[str, Colour]], classes: Sequence[str]
) -> dict[Colour, int]:
    """By colour, the index of its class, or 255 for unlabelled pixels.

    Raises:
        ValueError: If a name is no class, a class has no colour, or two have the same.
    """
    indices = {name: index for index, name in enumerate(classes)}
    found: dict[Colour, int] = {}
    for name, colour in listed:
        index = indices.get(name, IGNORE if name.casefold() in _VOID_NAMES else -1)
        if index < 0:
            raise ValueError(
                f"{path} gives a colour to {name!r}, which is no class; "
                f"{did_you_mean(name, classes)} Unlabelled pixels are called 'void'"
            )
        if found.setdefault(colour, index) != index:
            raise ValueError(f"{path} gives the colour {colour} to two classes, one is {name!r}")
    if missing := [name for name, index in indices.items() if index not in found.values()]:
        raise ValueError(f"{path} gives no colour to {missing[0]!r}: add a line for it")
    return found


def _require_opaque(path: Path, alpha: np.ndarray) -> None:
    hidden = int((alpha < 255).sum())
    if hidden:
        raise UnreadableImageError(
            f"{path}: {hidden} pixels are transparent, which may or may not mean unlabelled: mark "
            f"those with {IGNORE}, and store the map without transparency"
        )


def _paint(indices: np.ndarray, image: Image) -> Int[np.ndarray, "height width 3"]:
    """A palette image as colours."""
    colours = np.zeros((256, 3), np.int64)
    entries = np.reshape(image.getpalette("RGB") or [], (-1, 3))
    colours[: len(entries)] = entries
    return colours[indices]


def _all_listed(pixels: Int[np.ndarray, "height width 3"], colours: Mapping[Colour, int]) -> bool:
    return set(map(tuple, np.unique(pixels.reshape(-1, 3), axis=0).tolist())) <= colours.keys()


def _from_colours(
    path: Path,
    pixels: Int[np.ndarray, "height width 3"],
    colours: Mapping[Colour, int] | None,
) -> Int[np.ndarray, "height width"]:
    if colours is None:
        if (pixels == pixels[..., :1]).all():
            return pixels[..., 0]
        raise UnreadableImageError(
            f"{path}: its pixels are colours, not class indices: say in {PALETTES[0]} at the root "
            "of the data set, a line such as 'road 128 64 128' for each class, what they mean"
        )
    weights = np.array([1 << 16, 1 << 8, 1])
    known = np.array(sorted(colours)) @ weights
    stored = np.array([colours[colour] for colour in sorted(colours)])
    codes = pixels @ weights
    places = np.searchsorted(known, codes).clip(max=len(known) - 1)
    if (strange := known[places] != codes).any():
        colour = tuple(int(value) for value in pixels[strange][0])
        raise UnreadableImageError(
            f"{path}: the colour {colour} at {int(strange.sum())} pixels is none of the "
            f"{len(known)} of the data set's list: add it there, as 'void' if it means unlabelled"
        )
    return stored[places]
