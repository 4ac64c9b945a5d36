"""Readers of classification data sets that are folders of image files: ImageNet, and any other.

ImageNet's classes are numbered by the order of their WordNet ids ("n01440764" is 0), as every
published classifier numbers them.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
)

_SPLITS_BY_USE = ("val", "valid", "validation", "test", "testing", "train", "training")
_SPLITS = frozenset(_SPLITS_BY_USE)
"""Names of folders that hold a part of a data set; those to evaluate on come first."""

_WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class FileRecords:
    """Labelled image files.

    Attributes:
        root: Folder that the paths start from.
        files: Path of each image, with forward slashes.
        labels: Class index of each.
        classes: Names of the classes.
        unreadable: By path, why an image has no usable label.
        groups: Index of each image's group; empty where there are none.
        group_names: Names of the groups.
    """

    root: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[int, ...] = ()
    group_names: tuple[str, ...] = ()


def read_class_folders(root: Path, split: str | None) -> FileRecords:
    """Reads a folder with one folder of images per class, numbered by their sorted names.

    Args:
        root: The folder of the class folders, or of the splits' folders.
        split: Name of the split's folder in `root`; none if `root` holds the classes itself.

    Returns:
        The files in the order of class and name.

    Raises:
        FileNotFoundError: If the folder is missing or holds no images.
        ValueError: If it holds splits instead of classes.
    """
    folder = root if split is None else root / split
    names = tuple(class_folders(folder))
    if all(class_folders(folder / name) for name in names):
        refuse_splits(folder, names)
    return _by_folder(folder, {name: index for index, name in enumerate(names)}, names)


def read_imagenet(root: Path, split: str, labels: Path | None) -> FileRecords:
    """Reads ImageNet-1k from class folders, or from one folder of images and a list of labels.

    Args:
        root: The folder that holds the split's folder, or that folder itself.
        split: "val" or "train".
        labels: A list for images that lie in one folder: lines such as
            "ILSVRC2012_val_00000001.JPEG 65" or "… n01751748", or Kaggle's
            `LOC_val_solution.csv`; without it, `val.txt` or that file next to the images or above
            them. Not needed for class folders, where a subset of the classes keeps its indices.

    Returns:
        The files in the order of class and name, or of the list.

    Raises:
        FileNotFoundError: If there are no images, or no list is found for a flat folder.
        ValueError: If a folder's name is no class of ImageNet, or the list is not understood.
    """
    folder = root / split if (root / split).is_dir() else root
    indices, descriptions = imagenet_classes()
    folders = class_folders(folder) if labels is None else []
    if folders:
        if unknown := [name for name in folders if name not in indices]:
            raise ValueError(
                f"{folder / unknown[0]}: the folder's name is no WordNet id of ImageNet-1k, such "
                "as n01440764: for classes of your own, load the data set 'folder'"
            )
        return _by_folder(folder, indices, descriptions)
    found = labels or _find_list(root, folder, split)
    listed = _read_list(found, indices)
    return _by_list(folder, listed, descriptions, found)


@functools.cache
def imagenet_classes() -> tuple[dict[str, int], tuple[str, ...]]:
    """Index of each WordNet id of ImageNet-1k, and the classes' short descriptions.

    Raises:
        ImportError: If timm, whose tables these are, is not installed.
    """
    try:
        from timm.data import ImageNetInfo
    except ImportError as error:
        raise ImportError(
            "ImageNet's list of classes needs timm: pip install 'aim-plugins[vision]'"
        ) from error
    info = ImageNetInfo()
    ids = info.label_names()
    names = tuple(info.index_to_description(index).split(",")[0] for index in range(len(ids)))
    return {wordnet_id: index for index, wordnet_id in enumerate(ids)}, names


def image_files(folder: Path) -> list[str]:
    """Images below a folder, sorted, as paths relative to it."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and path.name[0] != "."
    )


def refuse_splits(folder: Path, names: Sequence[str]) -> None:
    """Refuses folders whose names are all those of splits, in the place of something else's.

    Args:
        folder: What holds them.
        names: Their names.

    Raises:
        ValueError: If so; it names the split to evaluate on.
    """
    if names and _SPLITS.issuperset(name.lower() for name in names):
        found = next(name for one in _SPLITS_BY_USE for name in names if name.lower() == one)
        raise ValueError(f"{folder} holds the splits {' and '.join(names)}: give split={found!r}")


def no_images(folder: Path) -> FileNotFoundError:
    state = "is empty of images" if folder.is_dir() else "is no folder"
    return FileNotFoundError(
        f"{folder} {state}: give a folder with {', '.join(sorted(IMAGE_SUFFIXES))} files"
    )


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted.

    Raises:
        FileNotFoundError: If it is none.
    """
    if not folder.is_dir():
        raise no_images(folder)
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def _by_folder(folder: Path, indices: Mapping[str, int], classes: Iterable[str]) -> FileRecords:
    files = [name for name in image_files(folder) if "/" in name]
    if not files:
        raise no_images(folder)
    labels = tuple(indices[name.split("/")[0]] for name in files)
    return FileRecords(folder, tuple(files), labels, tuple(classes))


def _find_list(root: Path, folder: Path, split: str) -> Path:
    names = (f"{split}.txt", f"LOC_{split}_solution.csv")
    candidates = [place / name for place in (folder, root, folder.parent) for name in names]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if not image_files(folder):
        raise no_images(folder)
    raise FileNotFoundError(
        f"{folder} holds images, but neither class folders nor a list of labels "
        f"({' or '.join(names)}): give the list as labels=..."
    )


def _read_list(path: Path, indices: Mapping[str, int]) -> dict[str, str]:
    """By image name, its label as written in the list."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        rows = [(row[0], row[1]) for row in csv.reader(text.splitlines()) if len(row) > 1][1:]
        # A prediction string is the class and its box, several times over.
        listed = {f"{name}.JPEG": label.split()[0] for name, label in rows if label.strip()}
    else:
        lines = [line.split() for line in text.splitlines() if line.strip()]
        if lines and all(len(line) == 1 and line[0].isdigit() for line in lines):
            raise ValueError(
                f"{path} holds numbers without file names, as the development kit's ground truth, "
                "whose numbers are not the indices that classifiers use: give a list with lines "
                "such as 'ILSVRC2012_val_00000001.JPEG 65' or '... n01751748'"
            )
        if bad := next((line for line in lines if len(line) != 2), None):
            raise ValueError(f"{path}: {' '.join(bad)!r} is not a file name and its label")
        listed = {line[0]: line[1] for line in lines}
    if not listed:
        raise ValueError(f"{path} lists no image")
    return listed


def _by_list(
    folder: Path, listed: Mapping[str, str], classes: tuple[str, ...], path: Path
) -> FileRecords:
    indices, _ = imagenet_classes()
    present = {name.rsplit("/", 1)[-1]: name for name in image_files(folder)}
    files, labels, unreadable = [], [], {}
    for name, text in listed.items():
        # The lists also name files with the split's folder in front.
        file = present.get(name.rsplit("/", 1)[-1])
        if file is None:
            unreadable[name] = f"{path} lists it, but it is not in {folder}"
            continue
        label = indices.get(text, -1) if _WORDNET_ID.fullmatch(text) else _integer(text)
        if not 0 <= label < len(classes):
            unreadable[file] = f"{path} gives it the label {text}, outside [0, {len(classes)})"
            continue
        files.append(file)
        labels.append(label)
    return FileRecords(folder, tuple(files), tuple(labels), classes, unreadable)


def _integer(text: str) -> int:
    return int(text) if text.isdigit() else -1
