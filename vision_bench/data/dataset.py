"""What data sets of images share: unusable images, identity, files on the local disk."""

from __future__ import annotations

import abc
import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from aim_plugins.core.files import sha256_of
from aim_plugins.core.identity import fingerprint
from vision_bench.data.images import UnreadableImageError, read_image
from vision_bench.models.names import plain_name

if TYPE_CHECKING:
    from PIL.Image import Image

    from vision_bench.models.model import Preprocessing

_HASHING_THREADS = 8

_LISTED = 50
"""Images left out that the terminal names."""


class VisionData(Dataset, abc.ABC):
    """Images with what is known of them in a fixed order, as a map-style `Dataset`.

    `data[i]` raises `UnreadableImageError` for a damaged image. `vision_bench.logits.cache` leaves
    such images out and notes them in `unreadable`, or stops, as `on_error` says.

    Attributes:
        name: Name of the data set and its split.
        title: What a person would call it; of a folder, that folder's name and the split.
        names: Name of each image: its path, or its position in the data set's arrays.
        classes: Names of the classes.
        preprocessing: What the images go through.
        unreadable: By name, why an image was left out so far.
        on_error: "skip" or "raise".
    """

    def __init__(
        self,
        name: str,
        names: Sequence[str],
        classes: Sequence[str],
        *,
        preprocessing: Preprocessing | None,
        unreadable: Mapping[str, str],
        on_error: str,
    ) -> None:
        self.name = self.title = name
        self.names = tuple(names)
        self.classes = tuple(classes)
        self.preprocessing = preprocessing
        self.unreadable = dict(unreadable)
        self.on_error = on_error
        check_on_error(name, self.unreadable, on_error)
        if not self.names:
            raise ValueError(f"{name} holds no usable image; left out: {first_of(unreadable)}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def skipped(self) -> int:
        """Number of images left out so far."""
        return len(self.unreadable)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names, contents and classes; the preprocessing is not part of it."""
        return fingerprint([self.name, self.classes, self.names, self._contents()])

    @abc.abstractmethod
    def _contents(self) -> Any:
        """Digests of the images and what is known of each, as JSON."""

    def identity(self) -> dict[str, Any]:
        """What the network's inputs depend on, as JSON; the key of cached results."""
        prepared = None if self.preprocessing is None else asdict(self.preprocessing)
        return {"data": self.fingerprint, "preprocessing": prepared}


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


def folder_title(root: str | Path, split: str | None) -> str:
    """What a person would call the data in a folder.

    >>> folder_title("data/birds", "val"), folder_title("scenes-digits-87b0ff70b3f7", None)
    ('birds-val', 'scenes-digits')
    """
    name = plain_name(str(Path(root).resolve()))
    return f"{name}-{split}" if split else name


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


def list_left_out(unreadable: Mapping[str, str]) -> str:
    """All images left out and why, for the terminal; of very many, the first.

    >>> print(list_left_out({"a.png": "no label map a", "b.png": "not a readable image"}))
    left out 2 images
      a.png: no label map a
      b.png: not a readable image
    """
    lines = [f"  {name}: {reason}" for name, reason in unreadable.items()]
    rest = len(lines) - _LISTED
    if rest > 0:
        lines = [*lines[:_LISTED], f"  and {rest} more"]
    counted = "1 image" if len(unreadable) == 1 else f"{len(unreadable)} images"
    return "\n".join([f"left out {counted}", *lines])


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
