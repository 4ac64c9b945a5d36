"""Where published segmentation data sets keep their images and label maps, and their classes.

A layout pairs each image with its label map, and turns stored indices into class indices with 255
for pixels to be ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from vision_bench.data.image_folders import image_files, no_images, refuse_splits
from vision_bench.data.label_maps import (
    Colour,
    class_colours,
    holds_indices,
    palette_classes,
    read_palette,
)
from vision_bench.data.labels import IGNORE
from vision_bench.data.names import CLASS_LIST, class_list

# SceneParsing benchmark, http://sceneparsing.csail.mit.edu: the first word of each class; the data
# set's own objectInfo150.txt goes first where it is there.
ADE20K_CLASSES: tuple[str, ...] = tuple(
    """wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk,
    person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf,
    house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub,
    railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, sink,
    skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
    screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill,
    bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar,
    arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth,
    television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman,
    bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything,
    swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food,
    step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket,
    sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate,
    monitor, bulletin board, shower, radiator, glass, clock, flag""".replace("\n    ", " ").split(
        ", "
    )
)

_VOID = (1 << 16) - 1
"""What 16-bit files mark pixels with that count for nothing."""


@dataclass(frozen=True)
class SegmentationFiles:
    """Images with their label maps.

    Attributes:
        root: Folder that all paths start from.
        images: Path of each image, with forward slashes.
        labels: Path of each label map.
        classes: Names of the classes.
        lookup: By stored index, the class index, 255 to ignore, or -1 if it may not occur.
        unreadable: By path, why an image has no label map.
        reduced: Whether there are files of indices that count classes from 1, 0 being unlabelled.
        colours: Where pixels are colours, what each is stored as.
    """

    root: Path
    images: tuple[str, ...]
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    lookup: Int[np.ndarray, " stored"]
    unreadable: dict[str, str] = field(default_factory=dict)
    reduced: bool = False
    colours: Mapping[Colour, int] | None = None


def read_ade20k(root: Path, split: str) -> SegmentationFiles:
    """Reads the layout `ADEChallengeData2016/{images,annotations}/{training,validation}`.

    Annotations count classes from 1 and 0 is unlabelled, so the labels are reduced: 0 becomes 255
    and every other index one less.

    Args:
        root: `ADEChallengeData2016`, or the folder it lies in.
        split: "val" or "train".

    Returns:
        The pairs in the order of their names.

    Raises:
        FileNotFoundError: If there are no images.
        ValueError: If `objectInfo150.txt` is there but is no table of classes.
    """
    base = _ade20k_base(root)
    part = {"val": "validation", "train": "training"}[split]
    classes = ade20k_classes(root)
    lookup = _lookup({stored: stored - 1 for stored in range(1, len(classes) + 1)} | {0: IGNORE})
    images, labels = base / "images" / part, base / "annotations" / part
    return replace(_pair(base, images, labels, classes, lookup), reduced=True)


def read_cityscapes(root: Path, split: str) -> SegmentationFiles:
    """Reads the layout `{leftImg8bit,gtFine}/{split}/{city}/`, with the 19 classes trained on.

    Args:
        root: The folder of `leftImg8bit` and `gtFine`.
        split: "val" or "train"; the test split's labels are not public.

    Returns:
        The pairs in the order of their names.

    Raises:
        FileNotFoundError: If there are no images.
        ImportError: If torchvision, whose table of classes this is, is not installed.
    """
    table = _cityscapes_table()
    others = {entry.id: IGNORE for entry in table if entry.id >= 0}
    trained = {entry.id: entry.train_id for entry in table if 0 <= entry.train_id < IGNORE}
    images, labels = root / "leftImg8bit" / split, root / "gtFine" / split
    return _pair(
        root,
        images,
        labels,
        cityscapes_classes(),
        _lookup(others | trained),
        endings=("_leftImg8bit", "_gtFine_labelIds"),
    )


def read_pair_folders(
    root: Path, split: str | None, classes: Sequence[str] | None, *, reduced: bool = False
) -> SegmentationFiles:
    """Reads a folder with `images` and `labels` (or `annotations`, `masks`) of the same names.

    Args:
        root: The folder.
        split: A folder in each of the two; none if they hold the files themselves.
        classes: Names of the classes; by default the lines of `classes.txt` in the root, or of the
            list of colours there.
        reduced: Whether files of indices count classes from 1, and 0 is ignored.

    Returns:
        The pairs in the order of their names; indices are otherwise taken as stored. 255 is
        ignored, as is 65535 of 16 bits.

    Raises:
        FileNotFoundError: If a folder or the names are missing.
        ValueError: If there are too many classes, or the list of colours does not fit them.
    """
    folders = [root / name for name in ("labels", "annotations", "masks")]
    labels = next((folder for folder in folders if folder.is_dir()), None)
    if labels is None:
        raise FileNotFoundError(
            f"{root} holds no folder labels, annotations or masks: put label maps there, "
            "named as the images in the folder images"
        )
    if classes is None:
        classes = read_class_list(root)
    if len(classes) + reduced > IGNORE:
        raise ValueError(
            f"{root} has {len(classes)} classes: {IGNORE} marks pixels that count for nothing, so "
            f"give {IGNORE - reduced} at most"
        )
    ignored = {0, IGNORE, _VOID} if reduced else {IGNORE, _VOID}
    stored = {index + reduced: index for index in range(len(classes))}
    lookup = _lookup(stored | dict.fromkeys(ignored, IGNORE))
    colours = None
    if palette := read_palette(root):
        colours = {
            colour: index if index == IGNORE else index + reduced
            for colour, index in class_colours(*palette, classes).items()
        }
    part = split or "."
    if split is None and (root / "images").is_dir():
        refuse_splits(root / "images", sorted(one.name for one in (root / "images").iterdir()))
    files = _pair(root, root / "images" / part, labels / part, tuple(classes), lookup)
    if colours is not None:
        # Colours are named, so that nothing is reduced about them.
        reduced = reduced and any(holds_indices(root / name, colours) for name in files.labels)
    return replace(files, reduced=reduced, colours=colours)


def classes_of(dataset: str, root: Path) -> tuple[str, ...]:
    """Names of a data set's classes, without reading its images.

    Raises:
        FileNotFoundError: If the list of a folder's classes is missing.
    """
    if dataset == "folder":
        return read_class_list(root)
    return cityscapes_classes() if dataset == "cityscapes" else ade20k_classes(root)


def ade20k_classes(root: Path) -> tuple[str, ...]:
    """Names of ADE20K's 150 classes, from the data set's `objectInfo150.txt` where it is there.

    Raises:
        ValueError: If that file is no table of the classes.
    """
    return _ade20k_names(_ade20k_base(root) / "objectInfo150.txt")


def cityscapes_classes() -> tuple[str, ...]:
    """Names of the 19 classes that Cityscapes' models are trained on."""
    names = {e.train_id: e.name for e in _cityscapes_table() if 0 <= e.train_id < IGNORE}
    return tuple(names[index] for index in sorted(names))


def read_class_list(root: Path) -> tuple[str, ...]:
    """Names of the classes of a folder of pairs: the lines of its `classes.txt`.

    Without that file, the names in its list of colours.

    Raises:
        FileNotFoundError: If there is neither.
        ValueError: If the list of colours is not understood.
    """
    listed = class_list(root)
    if listed.name != CLASS_LIST and (palette := read_palette(root)):
        return palette_classes(palette[1])
    return tuple(line for line in listed.read_text(encoding="utf-8").splitlines() if line.strip())


def _cityscapes_table() -> list[Any]:
    try:
        from torchvision.datasets import Cityscapes
    except ImportError as error:
        raise ImportError(
            "Cityscapes' list of classes needs torchvision: pip install 'aim-plugins[vision]'"
        ) from error
    return Cityscapes.classes


def _ade20k_base(root: Path) -> Path:
    base = root / "ADEChallengeData2016"
    return base if base.is_dir() else root


def _pair(
    root: Path,
    images: Path,
    labels: Path,
    classes: tuple[str, ...],
    lookup: Int[np.ndarray, " stored"],
    endings: tuple[str, str] = ("", ""),
) -> SegmentationFiles:
    """Pairs images and label maps whose paths agree but for suffix and ending."""
    image_names = [name for name in image_files(images) if _stem(name).endswith(endings[0])]
    if not image_names:
        raise no_images(images)
    by_stem = {_stem(name): name for name in image_files(labels)} if labels.is_dir() else {}
    pairs, unreadable = [], {}
    for name in image_names:
        stem = _stem(name).removesuffix(endings[0]) + endings[1]
        if stem in by_stem:
            pairs.append((_below(root, images / name), _below(root, labels / by_stem[stem])))
        else:
            unreadable[_below(root, images / name)] = f"no label map {stem} in {labels}"
    return SegmentationFiles(
        root,
        tuple(image for image, _ in pairs),
        tuple(label for _, label in pairs),
        classes,
        lookup,
        unreadable,
    )


def _ade20k_names(table: Path) -> tuple[str, ...]:
    if not table.is_file():
        return ADE20K_CLASSES
    # Columns Idx, Ratio, Train, Val and Name, whose synonyms follow a comma or a semicolon.
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()[1:]]
    names = tuple(re.split("[,;]", row[-1])[0].strip() for row in rows if row[0].strip().isdigit())
    if len(names) != len(ADE20K_CLASSES):
        raise ValueError(f"{table} lists {len(names)} classes, not {len(ADE20K_CLASSES)}")
    return names


def _lookup(mapping: dict[int, int]) -> Int[np.ndarray, " stored"]:
    lookup = np.full(1 << 16, -1, np.int64)
    for stored, index in mapping.items():
        lookup[stored] = index
    return lookup


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0]


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
