"""Readers of data sets whose classes come with a background or bystander that misleads models.

Each image has a label, and an attribute that goes along with it in most training images; the two
together are its group. A model that answers by the attribute fails where they part: it is judged by
its worst group.

| data set   | label               | attribute     | published in                             |
|------------|---------------------|---------------|------------------------------------------|
| waterbirds | landbird, waterbird | land or water | Sagawa et al., 2020, arXiv:1911.08731    |
| celeba     | not blond, blond    | female, male  | Liu et al., 2015; groups as above         |
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from vision_bench.data.image_folders import FileRecords

SPLITS = ("test", "val", "train")
_NUMBERS = {"train": "0", "val": "1", "test": "2"}
"""What both data sets call their splits in their lists."""

_BIRDS, _PLACES = ("landbird", "waterbird"), ("land", "water")
_HAIR, _SEX = ("not blond", "blond"), ("female", "male")
_TARGET, _ATTRIBUTE = "Blond_Hair", "Male"


def read_waterbirds(root: Path, split: str) -> FileRecords:
    """Reads Waterbirds: images below `root`, listed in its `metadata.csv`.

    Args:
        root: The folder, such as `waterbird_complete95_forest2water2`.
        split: "test", "val" or "train".

    Raises:
        FileNotFoundError: If there is no list.
        ValueError: If the list lacks a column, or names no image of the split.
    """
    path = root / "metadata.csv"
    with _open(path) as file:
        reader = csv.DictReader(file)
        wanted = ("img_filename", "y", "split", "place")
        if missing := [one for one in wanted if one not in (reader.fieldnames or ())]:
            raise ValueError(f"{path} has no column {missing[0]!r}: give the list of Waterbirds")
        rows = [row for row in reader if row["split"] == _NUMBERS[split]]
    files = [row["img_filename"] for row in rows]
    labels = [_binary(row["y"], path) for row in rows]
    places = [_binary(row["place"], path) for row in rows]
    names = [f"{bird} on {place}" for bird in _BIRDS for place in _PLACES]
    return _records(path, root, files, labels, places, _BIRDS, names)


def read_celeba(root: Path, split: str) -> FileRecords:
    """Reads CelebA: hair that is blond or not, with the sex as attribute.

    Args:
        root: Holds `img_align_celeba/`, `list_attr_celeba.txt` and `list_eval_partition.txt`, as
            torchvision and the authors have them, or the same lists as `.csv`, as Kaggle has them.
        split: "test", "val" or "train".

    Raises:
        FileNotFoundError: If a list is missing.
        ValueError: If a list is not understood, or names no image of the split.
    """
    path = _list(root, "list_attr_celeba")
    partition = dict(_lines(_list(root, "list_eval_partition"), 2))
    with _open(path) as file:
        lines = [re.split(r"[,\s]+", line.strip()) for line in file if line.strip()]
    head = next((number for number, line in enumerate(lines[:2]) if _TARGET in line), None)
    if head is None or _ATTRIBUTE not in lines[head]:
        raise ValueError(f"{path} names no {_TARGET} and {_ATTRIBUTE}: give the list of CelebA")
    columns = [one for one in lines[head] if one != "image_id"]
    rows = [line for line in lines[head + 1 :] if partition.get(line[0]) == _NUMBERS[split]]
    if short := next((line for line in rows if len(line) != len(columns) + 1), None):
        raise ValueError(
            f"{path}: {short[0]} has {len(short) - 1} attributes of {len(columns)}: fetch it again"
        )
    target, attribute = (columns.index(one) + 1 for one in (_TARGET, _ATTRIBUTE))
    labels = [_binary(row[target], path) for row in rows]
    sexes = [_binary(row[attribute], path) for row in rows]
    names = [f"{hair}, {sex}" for hair in _HAIR for sex in _SEX]
    folder = root / "img_align_celeba"
    if (folder / folder.name).is_dir():  # as Kaggle's archive unpacks
        folder = folder / folder.name
    return _records(path, folder, [row[0] for row in rows], labels, sexes, _HAIR, names)


def _records(
    path: Path,
    folder: Path,
    files: Sequence[str],
    labels: Sequence[int],
    attributes: Sequence[int],
    classes: tuple[str, ...],
    names: Sequence[str],
) -> FileRecords:
    """Records of two classes times two attributes; a list without images is refused."""
    if not files:
        raise ValueError(f"{path} lists no image of this split: give split='test'")
    groups = [2 * label + attribute for label, attribute in zip(labels, attributes, strict=True)]
    return FileRecords(
        folder, tuple(files), tuple(labels), classes, groups=tuple(groups), group_names=tuple(names)
    )


def _binary(text: str, path: Path) -> int:
    values = {"0": 0, "-1": 0, "1": 1}
    if text not in values:
        raise ValueError(f"{path} holds {text!r} where 0, -1 or 1 belongs: fetch it again")
    return values[text]


def _list(root: Path, name: str) -> Path:
    found = next(
        (root / f"{name}{end}" for end in (".txt", ".csv") if (root / f"{name}{end}").is_file()),
        None,
    )
    if found is None:
        raise FileNotFoundError(
            f"{root / name}.txt: no such file: give CelebA's folder as data_root"
        )
    return found


def _lines(path: Path, columns: int) -> list[list[str]]:
    with _open(path) as file:
        lines = [re.split(r"[,\s]+", line.strip()) for line in file if line.strip()]
    if bad := next((line for line in lines if len(line) != columns), None):
        raise ValueError(f"{path}: {' '.join(bad)!r} has not {columns} columns: fetch it again")
    return lines


def _open(path: Path) -> TextIO:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: give the data set's folder as data_root")
    return path.open(encoding="utf-8", newline="")
