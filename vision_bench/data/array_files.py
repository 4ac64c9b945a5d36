"""Readers of data sets that hold all their images in a few arrays: CIFAR, and MNIST's IDX format.

Formats: https://www.cs.toronto.edu/~kriz/cifar.html (CIFAR's binary and Python versions) and
https://yann.lecun.org/exdb/mnist (IDX).
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Int, UInt8

from vision_bench.data.plain_pickle import load_plain_pickle

_CIFAR_PIXELS = 3 * 32 * 32
_IDX_UINT8 = 8
_IDX_BYTES = 1 << 31
_PIECE = 1 << 24


@dataclass(frozen=True)
class ArrayRecords:
    """Labelled images of one size.

    Attributes:
        images: 8-bit images [n, height, width, 3], or [n, height, width] if grey.
        labels: Class index of each as stored, which may lie outside the classes.
        classes: Names of the classes.
    """

    images: UInt8[np.ndarray, "n height width ..."]
    labels: Int[np.ndarray, " n"]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class _CifarLayout:
    folder: str
    meta: str
    files: dict[str, tuple[str, ...]]


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_CIFAR_LAYOUTS = {
    "cifar10": (
        _CifarLayout(
            "cifar-10-batches-bin",
            "batches.meta.txt",
            {"train": tuple(f"{name}.bin" for name in _BATCHES), "test": ("test_batch.bin",)},
        ),
        _CifarLayout(
            "cifar-10-batches-py", "batches.meta", {"train": _BATCHES, "test": ("test_batch",)}
        ),
    ),
    "cifar100": (
        _CifarLayout(
            "cifar-100-binary",
            "fine_label_names.txt",
            {"train": ("train.bin",), "test": ("test.bin",)},
        ),
        _CifarLayout("cifar-100-python", "meta", {"train": ("train",), "test": ("test",)}),
    ),
}


def read_cifar(name: str, root: Path, split: str) -> ArrayRecords:
    """Reads CIFAR-10 or CIFAR-100 from its binary or its Python version.

    Args:
        name: "cifar10" or "cifar100", with its 100 fine labels.
        root: The folder of the files, or the one it was unpacked in.
        split: "train" or "test".

    Returns:
        The images and labels.

    Raises:
        FileNotFoundError: If neither version lies there, or one of its files is missing.
        ValueError: If a file is damaged.
    """
    binary, python = _CIFAR_LAYOUTS[name]
    for layout, read in ((binary, _read_cifar_binary), (python, _read_cifar_python)):
        for folder in (root / layout.folder, root):
            if (folder / layout.files[split][0]).is_file():
                for file in (*layout.files[split], layout.meta):
                    if not (folder / file).is_file():
                        raise FileNotFoundError(
                            f"{folder / file} of {name} is missing: unpack the whole archive"
                        )
                return read(name, folder, layout.files[split], layout.meta)
    raise FileNotFoundError(
        f"{str(root)!r} holds no {name}: give the folder in which {binary.folder} or "
        f"{python.folder} was unpacked (missing: {binary.files[split][0]})"
    )


def _read_cifar_binary(name: str, folder: Path, files: Sequence[str], meta: str) -> ArrayRecords:
    # A record is its label bytes, the fine label last, and the red, green and blue planes.
    label_bytes = 1 if name == "cifar10" else 2
    length = label_bytes + _CIFAR_PIXELS
    parts = []
    for file in files:
        content = np.frombuffer((folder / file).read_bytes(), np.uint8)
        if len(content) == 0 or len(content) % length:
            raise ValueError(
                f"{folder / file}: {len(content)} bytes are no whole number of {length}-byte "
                "records: the file is damaged, or not of this data set"
            )
        parts.append(content.reshape(-1, length))
    records = np.concatenate(parts)
    names = (folder / meta).read_text(encoding="utf-8").split()
    labels = records[:, label_bytes - 1].astype(np.int64)
    return ArrayRecords(_planes_last(records[:, label_bytes:]), labels, tuple(names))


def _read_cifar_python(name: str, folder: Path, files: Sequence[str], meta: str) -> ArrayRecords:
    prefix = "" if name == "cifar10" else "fine_"
    images, labels = [], []
    for file in files:
        batch = load_plain_pickle(folder / file)
        data, numbers = batch.get("data"), batch.get(f"{prefix}labels")
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2:
            raise ValueError(f"{folder / file}: it holds no array 'data' of 8-bit images")
        if data.shape[1] != _CIFAR_PIXELS:
            raise ValueError(f"{folder / file}: images of {data.shape[1]} bytes, not 3 x 32 x 32")
        if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
            raise ValueError(f"{folder / file}: it holds no list {prefix}labels of class indices")
        if len(numbers) != len(data):
            raise ValueError(f"{folder / file}: {len(data)} images, but {len(numbers)} labels")
        images.append(data)
        labels.extend(numbers)
    names = load_plain_pickle(folder / meta).get(f"{prefix}label_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{folder / meta}: it holds no list {prefix}label_names of class names")
    return ArrayRecords(
        _planes_last(np.concatenate(images)), np.array(labels, np.int64), tuple(names)
    )


def _planes_last(planes: UInt8[np.ndarray, "n bytes"]) -> UInt8[np.ndarray, "n 32 32 3"]:
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def read_mnist(
    folders: Sequence[Path], split: str, classes: Sequence[str], name: str
) -> ArrayRecords:
    """Reads a data set in MNIST's layout, compressed or not.

    Args:
        folders: Where to look for `train-images-idx3-ubyte` and its like, with or without `.gz`.
        split: "train" or "test".
        classes: Names of the classes.
        name: The data set's name in messages.

    Returns:
        The grey images and labels.

    Raises:
        FileNotFoundError: If no folder holds the split's files.
        ValueError: If a file is damaged.
    """
    prefix = "train" if split == "train" else "t10k"
    for folder in folders:
        images = _with_or_without_gz(folder / f"{prefix}-images-idx3-ubyte")
        labels = _with_or_without_gz(folder / f"{prefix}-labels-idx1-ubyte")
        if images is not None and labels is not None:
            break
    else:
        raise FileNotFoundError(
            f"no {prefix}-images-idx3-ubyte[.gz] and {prefix}-labels-idx1-ubyte[.gz] of {name} in "
            f"{', '.join(str(folder) for folder in folders)}"
        )
    pixels, numbers = read_idx(images), read_idx(labels)
    if pixels.ndim != 3 or numbers.shape != pixels.shape[:1]:
        raise ValueError(
            f"{images}: images {list(pixels.shape)} do not fit the labels "
            f"{list(numbers.shape)} of {labels}"
        )
    return ArrayRecords(pixels, numbers.astype(np.int64), tuple(classes))


def read_idx(path: Path) -> np.ndarray:
    """Reads an IDX file of 8-bit numbers: two zero bytes, type, dimensions, sizes, content.

    Args:
        path: The file; the suffix `.gz` means compressed.

    Returns:
        The 8-bit array, of the dimensions its header states.

    Raises:
        ValueError: If the file is damaged, or not of this format.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read_idx(path, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: the compressed file is damaged ({error})") from error


def _read_idx(path: Path, file: BinaryIO | gzip.GzipFile) -> np.ndarray:
    """Reads no more than the header states: a few bytes may decompress to any number of them."""
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] != _IDX_UINT8:
        raise ValueError(f"{path}: not an IDX file of 8-bit numbers")
    sizes = file.read(4 * start[3])
    shape = tuple(int(size) for size in np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4"))
    stated = math.prod(shape)
    if stated > _IDX_BYTES:
        raise ValueError(
            f"{path}: the header states an array {list(shape)}, above the limit of {_IDX_BYTES} "
            "bytes: the file is damaged, or no data set of images"
        )
    content = bytearray()
    # One byte more shows a file that is too long.
    while piece := file.read(min(_PIECE, stated + 1 - len(content))):
        content += piece
    if len(shape) != start[3] or len(content) != stated:
        found = f"more than {stated}" if len(content) > stated else str(len(content))
        raise ValueError(
            f"{path}: {found} bytes follow the header of an array {list(shape)}: "
            "the file is cut short or damaged"
        )
    return np.frombuffer(bytes(content), np.uint8).reshape(shape)


def _with_or_without_gz(path: Path) -> Path | None:
    for candidate in (path, path.with_name(f"{path.name}.gz")):
        if candidate.is_file():
            return candidate
    return None
