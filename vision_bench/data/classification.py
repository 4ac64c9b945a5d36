"""Labelled images by name: CIFAR, ImageNet, Fashion-MNIST, digits, and folders of classes.

>>> data = load_dataset("digits")
>>> image, label = data[0]
>>> len(data), tuple(image.shape), data.classes[label]
(797, (3, 8, 8), '1')

Nothing is downloaded, and nothing in a file is run: the data sets lie on the local disk in the
layout they are published in.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.files import sha256_of
from vision_bench.data.array_files import ArrayRecords, read_cifar, read_mnist
from vision_bench.data.image_folders import FileRecords, read_class_folders, read_imagenet
from vision_bench.data.images import ImageSource, UnreadableImageError, read_image, to_tensor

if TYPE_CHECKING:
    from PIL.Image import Image

    from vision_bench.models.load import Preprocessing

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""

# https://github.com/zalandoresearch/fashion-mnist, section Labels.
_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_DIGITS_TRAIN = 1000
_HASHING_THREADS = 8


class ClassificationData(Dataset):
    """Labelled images in a fixed order, as a map-style `Dataset` of (image, label).

    `data[i]` raises `UnreadableImageError` for a damaged file. `vision_bench.logits.cache` leaves
    such images out and notes them in `unreadable`, or stops, as `on_error` says.

    Attributes:
        name: Name of the data set and its split.
        classes: Names of the classes.
        labels: Class index of each image.
        names: Name of each image: its path, or its position in the data set's arrays.
        preprocessing: What the images go through.
        unreadable: By name, why an image was left out so far.
        on_error: "skip" or "raise".
    """

    def __init__(
        self,
        name: str,
        images: ImageSource,
        labels: Sequence[int],
        classes: Sequence[str],
        *,
        preprocessing: Preprocessing | None = None,
        unreadable: Mapping[str, str] | None = None,
        on_error: str = "skip",
    ) -> None:
        self.name = name
        self.images = images
        self.labels: Int[Tensor, " n"] = torch.tensor(labels, dtype=torch.int64)
        self.classes = tuple(classes)
        self.preprocessing = preprocessing
        self.unreadable = dict(unreadable or {})
        self.on_error = on_error
        check_on_error(name, self.unreadable, on_error)
        if len(self.labels) == 0:
            raise ValueError(f"{name} holds no usable image; left out: {first_of(self.unreadable)}")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 height width"], int]:
        return to_tensor(self.images.read(index), self.preprocessing), int(self.labels[index])

    @property
    def names(self) -> tuple[str, ...]:
        return self.images.names

    @property
    def skipped(self) -> int:
        """Number of images left out so far."""
        return len(self.unreadable)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names, contents, labels and classes; the preprocessing is not part of it."""
        content = [self.name, self.classes, self.labels.tolist(), self.names, self.images.digests()]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """What the network's inputs depend on, as JSON; the key of cached results."""
        return {"data": self.fingerprint, "preprocessing": describe(self.preprocessing)}


def load_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    split: str | None = None,
    preprocessing: Preprocessing | None = None,
    limit: int | None = None,
    labels: str | Path | None = None,
    on_error: str = "skip",
) -> ClassificationData:
    """Loads a classification data set from the local disk.

    Args:
        name: "cifar10", "cifar100", "imagenet", "fashion-mnist", "digits" (scikit-learn's 8 x 8
            ones; the first 1000 are the training split), or "folder" (one folder per class).
        root: Where it lies. Not needed for digits, nor for Fashion-MNIST where Debian's package is
            installed.
        split: "train" or the data set's evaluation split ("test", for ImageNet "val"), which is the
            default; for "folder" any folder's name, by default the root itself.
        preprocessing: Size and normalisation that the model expects, `model.preprocessing`; without
            it, images keep their size and are scaled to [0, 1].
        limit: Number of images, taken evenly over the data set, so that every class is there.
        labels: For ImageNet's images in one folder, the list of their labels.
        on_error: "skip" leaves unusable images out and counts them, "raise" stops at the first.

    Returns:
        The data set; images are read when they are asked for.

    Raises:
        FileNotFoundError: If the files are not there.
        ValueError: If the name, split, limit or a file is not usable.
        UnreadableImageError: With `on_error="raise"`, if a label is unusable.
        ImportError: If timm is missing for ImageNet, or scikit-learn for digits.
    """
    name = name.lower().replace("_", "-")
    name = {"fashionmnist": "fashion-mnist", "cifar-10": "cifar10", "cifar-100": "cifar100"}.get(
        name, name
    )
    if name not in _LOADERS:
        raise ValueError(f"name={name!r} is no data set; {did_you_mean(name, _LOADERS)}")
    splits, load = _LOADERS[name]
    split = split or (splits[0] if splits else None)
    if splits and split not in splits:
        raise ValueError(f"split={split!r}: {name} has the splits {' and '.join(splits)}")
    if labels is not None and name != "imagenet":
        raise ValueError(f"labels={str(labels)!r}: only imagenet is read with a list of labels")
    records = load(None if root is None else Path(root), split, labels and Path(labels))
    full_name = f"{name}-{split}" if split else f"{name}-{_folder_name(root)}"
    if isinstance(records, ArrayRecords):
        return _from_arrays(full_name, records, preprocessing, limit, on_error)
    return _from_files(full_name, records, preprocessing, limit, on_error)


def evenly(total: int, limit: int | None) -> list[int]:
    """Positions of at most `limit` of `total` items, evenly spaced from the first on.

    >>> evenly(10, 4)
    [0, 2, 5, 7]

    Raises:
        ValueError: If the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} is below 1: give the number of images, or leave it out")
    count = total if limit is None else min(limit, total)
    return [position * total // count for position in range(count)]


class ArrayImages:
    """Images that lie in one array; their names are their positions in it."""

    def __init__(
        self, pixels: UInt8[np.ndarray, "n height width ..."], names: Sequence[str] | None = None
    ) -> None:
        self.pixels = pixels
        self.names = tuple(names or map(str, range(len(pixels))))

    def read(self, index: int) -> Image:
        from PIL import Image

        return Image.fromarray(self.pixels[index]).convert("RGB")

    def digests(self) -> list[str]:
        content = np.ascontiguousarray(self.pixels)
        return [str(content.shape), hashlib.sha256(content.data).hexdigest()]

    def subset(self, indices: list[int]) -> ArrayImages:
        return ArrayImages(self.pixels[indices], [self.names[index] for index in indices])


class FileImages:
    """Images that are files below a folder; their names are their paths in it."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root = root
        self.names = tuple(names)

    def read(self, index: int) -> Image:
        return read_image(self.root / self.names[index])

    def digests(self) -> list[str]:
        return digest_files([self.root / name for name in self.names])

    def subset(self, indices: list[int]) -> FileImages:
        return FileImages(self.root, [self.names[index] for index in indices])


def digest_files(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each file. Whole files: sizes and dates would miss an image that was replaced."""
    from tqdm import tqdm

    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        hashes = pool.map(sha256_of, paths)
        bar = tqdm(hashes, "checksums", len(paths), unit="file", delay=5, leave=False)
        return list(bar)


def check_on_error(name: str, unreadable: Mapping[str, str], on_error: str) -> None:
    """Stops at images already known to be unusable, if that was asked for."""
    if on_error not in ("skip", "raise"):
        raise ValueError(f"on_error={on_error!r} is neither 'skip' nor 'raise'")
    if on_error == "raise" and unreadable:
        raise UnreadableImageError(
            f"{name}: {len(unreadable)} images are not usable; {first_of(unreadable)}"
        )


def first_of(unreadable: Mapping[str, str]) -> str:
    """The first image left out and why, for messages."""
    return next((f"{name}: {reason}" for name, reason in unreadable.items()), "none")


def describe(preprocessing: Preprocessing | None) -> Any:
    """A preprocessing as JSON."""
    from dataclasses import asdict

    return None if preprocessing is None else json.loads(json.dumps(asdict(preprocessing)))


def _from_arrays(
    name: str,
    records: ArrayRecords,
    preprocessing: Preprocessing | None,
    limit: int | None,
    on_error: str,
) -> ClassificationData:
    classes = len(records.classes)
    usable = (records.labels >= 0) & (records.labels < classes)
    unreadable = {
        str(index): f"label {records.labels[index]} is outside [0, {classes})"
        for index in np.flatnonzero(~usable)
    }
    kept = np.flatnonzero(usable)
    chosen = [int(kept[position]) for position in evenly(len(kept), limit)]
    return ClassificationData(
        name,
        ArrayImages(records.images).subset(chosen),
        records.labels[chosen].tolist(),
        records.classes,
        preprocessing=preprocessing,
        unreadable=unreadable,
        on_error=on_error,
    )


def _from_files(
    name: str,
    records: FileRecords,
    preprocessing: Preprocessing | None,
    limit: int | None,
    on_error: str,
) -> ClassificationData:
    chosen = evenly(len(records.files), limit)
    return ClassificationData(
        name,
        FileImages(records.root, records.files).subset(chosen),
        [records.labels[position] for position in chosen],
        records.classes,
        preprocessing=preprocessing,
        unreadable=records.unreadable,
        on_error=on_error,
    )


def _folder_name(root: str | Path | None) -> str:
    return Path(root or ".").resolve().name


def _required(root: Path | None, name: str) -> Path:
    if root is None:
        raise ValueError(f"root=None: give the folder in which {name} lies")
    return root


def _load_cifar(name: str) -> Callable[..., ArrayRecords]:
    def load(root: Path | None, split: str, labels: Path | None) -> ArrayRecords:
        return read_cifar(name, _required(root, name), split)

    return load


def _load_imagenet(root: Path | None, split: str, labels: Path | None) -> FileRecords:
    return read_imagenet(_required(root, "imagenet"), split, labels)


def _load_folder(root: Path | None, split: str | None, labels: Path | None) -> FileRecords:
    return read_class_folders(_required(root, "the data set"), split)


def _load_fashion_mnist(root: Path | None, split: str, labels: Path | None) -> ArrayRecords:
    # torchvision puts FashionMNIST/raw into the root it is given.
    folders = [DEBIAN_FASHION_MNIST] if root is None else [root / "FashionMNIST" / "raw", root]
    try:
        return read_mnist(folders, split, _FASHION_CLASSES, "Fashion-MNIST")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}: give its folder as root, or install Debian's package dataset-fashion-mnist"
        ) from None


def _load_digits(root: Path | None, split: str, labels: Path | None) -> ArrayRecords:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits needs scikit-learn: pip install scikit-learn") from error
    digits = load_digits()
    part = slice(None, _DIGITS_TRAIN) if split == "train" else slice(_DIGITS_TRAIN, None)
    # Brightness goes from 0 to 16.
    pixels = np.rint(digits.images[part] * (255 / 16)).astype(np.uint8)
    return ArrayRecords(
        pixels, digits.target[part].astype(np.int64), tuple(map(str, digits.target_names))
    )


# By name, the splits (the evaluation split first; none if any name will do) and the reader.
_LOADERS: dict[str, tuple[tuple[str, ...], Callable[..., ArrayRecords | FileRecords]]] = {
    "cifar10": (("test", "train"), _load_cifar("cifar10")),
    "cifar100": (("test", "train"), _load_cifar("cifar100")),
    "imagenet": (("val", "train"), _load_imagenet),
    "fashion-mnist": (("test", "train"), _load_fashion_mnist),
    "digits": (("test", "train"), _load_digits),
    "folder": ((), _load_folder),
}
