"""Labelled images by name: CIFAR, ImageNet, Fashion-MNIST, digits, groups, folders of classes.

>>> data = load_dataset("digits")
>>> image, label = data[0]
>>> len(data), tuple(image.shape), data.classes[label]
(797, (3, 8, 8), '1')

Nothing is downloaded, and nothing in a file is run: the data sets lie on the local disk in the
layout they are published in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vision_bench.data.array_files import ArrayRecords, read_cifar, read_mnist
from vision_bench.data.dataset import FileImages, VisionData, evenly, folder_title
from vision_bench.data.group_files import SPLITS, read_celeba, read_waterbirds
from vision_bench.data.image_folders import FileRecords, read_class_folders, read_imagenet
from vision_bench.data.images import ImageSource, to_tensor
from vision_bench.data.names import dataset_name, required_root

if TYPE_CHECKING:
    from PIL.Image import Image

    from vision_bench.models.model import Preprocessing

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


class ClassificationData(VisionData):
    """Labelled images, as pairs (image, label).

    Attributes:
        images: Reads them.
        labels: Class index of each image.
        groups: Index of the group of each image; none where it has no groups.
        group_names: Names of the groups.
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
        groups: Sequence[int] | None = None,
        group_names: Sequence[str] = (),
    ) -> None:
        super().__init__(
            name,
            images.names,
            classes,
            preprocessing=preprocessing,
            unreadable=unreadable or {},
            on_error=on_error,
        )
        self.images = images
        self.labels: Int[Tensor, " n"] = torch.tensor(labels, dtype=torch.int64)
        self.groups = None if groups is None else torch.tensor(groups, dtype=torch.int64)
        self.group_names = tuple(group_names)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 height width"], int]:
        return to_tensor(self.images.read(index), self.preprocessing), int(self.labels[index])

    def _contents(self) -> Any:
        groups = [] if self.groups is None else [self.groups.tolist(), self.group_names]
        return [self.labels.tolist(), self.images.digests(), *groups]

    def subset(
        self, positions: Sequence[int], images: ImageSource | None = None
    ) -> ClassificationData:
        """Some of the images, in the order given.

        Args:
            positions: Where they stand.
            images: What to read in their place, such as the same ones with a patch on them.
        """
        chosen = list(positions)
        part = ClassificationData(
            self.name,
            images or self.images.subset(chosen),
            self.labels[chosen].tolist(),
            self.classes,
            preprocessing=self.preprocessing,
            on_error=self.on_error,
            groups=None if self.groups is None else self.groups[chosen].tolist(),
            group_names=self.group_names,
        )
        part.title = self.title
        return part


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
            ones; the first 1000 are the training split), "waterbirds" and "celeba", which have
            groups, or "folder" (one folder per class).
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
    name = dataset_name(name)
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
    data = _from_files(full_name, records, preprocessing, limit, on_error)
    if name == "folder":
        data.title = folder_title(root or ".", split)
    return data


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
        groups=[records.groups[position] for position in chosen] if records.groups else None,
        group_names=records.group_names,
    )


def _folder_name(root: str | Path | None) -> str:
    return Path(root or ".").resolve().name


def _load_cifar(name: str) -> Callable[..., ArrayRecords]:
    def load(root: Path | None, split: str, labels: Path | None) -> ArrayRecords:
        return read_cifar(name, required_root(root, name), split)

    return load


def _load_imagenet(root: Path | None, split: str, labels: Path | None) -> FileRecords:
    return read_imagenet(required_root(root, "imagenet"), split, labels)


def _load_folder(root: Path | None, split: str | None, labels: Path | None) -> FileRecords:
    return read_class_folders(required_root(root, "the data set"), split)


def _load_groups(name: str, read: Callable[[Path, str], FileRecords]) -> Callable[..., FileRecords]:
    def load(root: Path | None, split: str, labels: Path | None) -> FileRecords:
        return read(required_root(root, name), split)

    return load


def _load_fashion_mnist(root: Path | None, split: str, labels: Path | None) -> ArrayRecords:
    # torchvision puts FashionMNIST/raw into the root it is given.
    folders = [DEBIAN_FASHION_MNIST] if root is None else [root / "FashionMNIST" / "raw", root]
    try:
        return read_mnist(folders, split, _FASHION_CLASSES, "Fashion-MNIST")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}: give its folder as data_root, or install Debian's package "
            "dataset-fashion-mnist"
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
    "waterbirds": (SPLITS, _load_groups("waterbirds", read_waterbirds)),
    "celeba": (SPLITS, _load_groups("celeba", read_celeba)),
    "folder": ((), _load_folder),
}
