"""Cached logits of a segmentation model, at the resolution the model computes them in.

SegFormer's logits come at a quarter of the input's height and width. Stored in half precision, an
image of 512 x 512 pixels and 150 classes takes 4.9 MB instead of the 157 MB of its upsampled
logits; noise belongs on the upsampled ones, so they are upsampled when they are used.

Rounding to half precision changes a prediction only where two classes nearly tie. Measured on a
small trained SegFormer (8 classes, 3.7 million pixels, logits from -6.3 to 7.1): 3 pixels in a
million without noise, at most 55 in a million at any std from 0.25 to 10 with the same noise, and
mIoU by less than 0.00002.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from vision_bench.data.segmentation import SegmentationData


@dataclass(frozen=True)
class SegmentationLogits:
    """The logits of one image.

    Attributes:
        logits: As stored, at the model's resolution.
        size: Height and width of the network's input.
        index: The image's index in its data set.
        name: Its path.
    """

    logits: Float[Tensor, "classes rows columns"]
    size: tuple[int, int]
    index: int
    name: str

    @property
    def key(self) -> str:
        """What identifies the image in keyed noise; see `noise_key`."""
        return noise_key(self.name)


def noise_key(name: str) -> str:
    """The name of an image's file, so that its noise is the same wherever its folder starts.

    Images of different folders that share a name share their noise.

    >>> noise_key("images/validation/ADE_val_00000001.jpg")
    'ADE_val_00000001.jpg'
    """
    return PurePosixPath(name).name


@dataclass(frozen=True)
class CachedImage:
    """Where the logits of an image lie.

    Attributes:
        index: The image's index in its data set.
        size: Height and width of the network's input.
        shard: Name of the file.
    """

    index: int
    size: tuple[int, int]
    shard: str


class CachedSegmentationLogits:
    """A segmentation model's outputs on a data set, read one image at a time.

    `len(cached)` images are there; `cached[i]` reads one, and `cached.read_labels(i)` its labels.
    Nothing but the image at hand is held in memory.

    Attributes:
        folder: Where they lie.
        data: The data set, which the labels are read from.
        classes: Number of classes.
        key: SHA-256 that identifies model, data and preprocessing in results.
        unreadable: By path, why an image was left out.
    """

    def __init__(
        self,
        folder: Path,
        data: SegmentationData,
        *,
        classes: int,
        key: str,
        images: Sequence[CachedImage],
        unreadable: Mapping[str, str],
    ) -> None:
        self.folder = folder
        self.data = data
        self.classes = classes
        self.key = key
        self.unreadable = dict(unreadable)
        self._images = tuple(images)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, position: int) -> SegmentationLogits:
        from safetensors import safe_open

        image = self._images[position]
        with safe_open(self.folder / image.shard, "pt") as shard:
            logits = shard.get_tensor(str(image.index))
        return SegmentationLogits(logits, image.size, image.index, self.data.names[image.index])

    def read_labels(self, position: int) -> Int[Tensor, "height width"]:
        """The labels of one image at the size at which it is judged, 255 to ignore."""
        return self.data.read_labels(self._images[position].index)
