"""Images with a class for every pixel, by name: ADE20K, Cityscapes, and folders of pairs.

A label map is resized with its image, by the nearest pixel, so that predictions are judged at the
network's input size; 255 marks pixels that count for nothing.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.core.errors import did_you_mean
from vision_bench.data.dataset import VisionData, digest_files, evenly
from vision_bench.data.images import (
    UnreadableImageError,
    check_input_size,
    normalise,
    read_image,
    read_label_map,
    scale,
)
from vision_bench.data.segmentation_layouts import (
    SegmentationFiles,
    read_ade20k,
    read_cityscapes,
    read_pair_folders,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from vision_bench.models.model import Preprocessing

STRIDE = 32
"""Multiple that both sides are rounded up to by the resize rule "short…"."""

_SPLITS = ("val", "train")
_NAMES = ("ade20k", "cityscapes", "folder")
_RULE = re.compile(r"(square|short)([1-9]\d{0,4})")


class SegmentationData(VisionData):
    """Images and label maps, as triples (image, labels, name).

    `data[i]` is the network's input [3, h, w], the labels [h, w] with 255 to ignore, and the
    image's path.

    Attributes:
        files: The pairs of files.
        resize: "square512" (both sides), "short512" (the shorter side, both rounded up to a
            multiple of 32), or "original".
        preprocessing: Mean, standard deviation and interpolation.
    """

    def __init__(
        self,
        name: str,
        files: SegmentationFiles,
        *,
        resize: str = "original",
        preprocessing: Preprocessing | None = None,
        on_error: str = "skip",
    ) -> None:
        target_size(resize, 1, 1)
        super().__init__(
            name,
            files.images,
            files.classes,
            preprocessing=preprocessing,
            unreadable=files.unreadable,
            on_error=on_error,
        )
        self.files = files
        self.resize = resize

    def __getitem__(
        self, index: int
    ) -> tuple[Float[Tensor, "3 height width"], Int[Tensor, "height width"], str]:
        name = self.names[index]
        image = read_image(self.files.root / name)
        labels = self._labels(index, (image.height, image.width))
        return network_input(image, self.resize, self.preprocessing), labels, name

    def read_labels(self, index: int) -> Int[Tensor, "height width"]:
        """The labels of one image at the network's input size, without decoding the image.

        Raises:
            UnreadableImageError: If they are not usable.
        """
        return self._labels(index, None)

    def read_photograph(self, index: int) -> Image:
        """One image as it is stored, for pictures."""
        return read_image(self.files.root / self.names[index])

    def identity(self) -> dict[str, Any]:
        """What inputs and labels depend on, as JSON; the key of cached results."""
        return {**super().identity(), "resize": self.resize}

    def _contents(self) -> Any:
        files = self.files
        lookup = hashlib.sha256(np.ascontiguousarray(files.lookup).data).hexdigest()
        paths = [files.root / name for name in (*files.images, *files.labels)]
        return [files.labels, lookup, digest_files(paths)]

    def _labels(self, index: int, size: tuple[int, int] | None) -> Int[Tensor, "height width"]:
        path = self.files.root / self.files.labels[index]
        stored = read_label_map(path)
        if size is not None and stored.shape != size:
            raise UnreadableImageError(
                f"{path}: the label map is {stored.shape[1]} x {stored.shape[0]} pixels, its image "
                f"{size[1]} x {size[0]}"
            )
        known = (stored >= 0) & (stored < len(self.files.lookup))
        labels = np.where(known, self.files.lookup[np.where(known, stored, 0)], -1)
        if (labels < 0).any():
            raise UnreadableImageError(
                f"{path}: the index {int(stored[labels < 0][0])} at {int((labels < 0).sum())} "
                f"pixels is none of the {len(self.classes)} classes of {self.name}"
            )
        height, width = target_size(self.resize, *labels.shape)
        check_input_size(height, width)
        return torch.from_numpy(_nearest(labels, height, width))


def load_segmentation_dataset(
    name: str,
    root: str | Path,
    *,
    split: str | None = None,
    resize: str | None = None,
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    on_error: str = "skip",
) -> SegmentationData:
    """Loads a segmentation data set from the local disk.

    Args:
        name: "ade20k" (`ADEChallengeData2016`; labels are reduced), "cityscapes" (the 19 classes
            trained on), or "folder" (`images` and `labels` with the same names).
        root: Where it lies.
        split: "val", the default, or "train"; for "folder" the name of a folder in each of the two,
            by default none.
        resize: "square512" as transformers does, "short512" as AIM's authors do (the shorter side,
            then both rounded up to a multiple of 32; any number will do), or "original". By
            default what the preprocessing says, and for ADE20K without one "square512";
            Cityscapes keeps its 2048 x 1024 pixels, which a square would distort.
        preprocessing: Normalisation and interpolation that the model expects,
            `model.preprocessing`; without it, images are scaled to [0, 1].
        classes: For "folder", the names of the classes; by default the lines of `classes.txt`.
        limit: Number of images, taken evenly over the data set.
        on_error: "skip" leaves unusable images out and counts them, "raise" stops at the first.

    Returns:
        The data set; images are read when they are asked for.

    Raises:
        FileNotFoundError: If the files are not there.
        ValueError: If the name, split, resize rule or limit is not usable.
        UnreadableImageError: With `on_error="raise"`, if an image has no label map.
    """
    name = name.lower()
    if name not in _NAMES:
        raise ValueError(f"name={name!r} is no data set; {did_you_mean(name, _NAMES)}")
    if name != "folder":
        split = split or "val"
        if split not in _SPLITS:
            raise ValueError(f"split={split!r}: {name} has the splits {' and '.join(_SPLITS)}")
        if classes is not None:
            raise ValueError(f"classes={list(classes)[:3]}...: {name} has its own classes")
    root = Path(root)
    if name == "folder":
        files = read_pair_folders(root, split, classes)
    else:
        assert split is not None
        files = {"ade20k": read_ade20k, "cityscapes": read_cityscapes}[name](root, split)
    return SegmentationData(
        f"{name}-{split or root.resolve().name}",
        _limited(files, limit),
        resize=resize or default_resize(name, preprocessing),
        preprocessing=preprocessing,
        on_error=on_error,
    )


def network_input(
    image: Image, resize: str, preprocessing: Preprocessing | None
) -> Float[Tensor, "3 height width"]:
    """Resizes and normalises an image.

    Args:
        image: An RGB image.
        resize: "squareN", "shortN" or "original".
        preprocessing: Mean, standard deviation and interpolation.

    Returns:
        The network's input.

    Raises:
        ValueError: If there is no such rule.
        UnreadableImageError: If the rule makes the image enormous.
    """
    from PIL.Image import Resampling

    kind = preprocessing.interpolation if preprocessing else "bilinear"
    height, width = target_size(resize, image.height, image.width)
    check_input_size(height, width)
    if (height, width) != (image.height, image.width):
        image = image.resize((width, height), Resampling[kind.upper()])
    return normalise(scale(image), preprocessing)


def default_resize(name: str, preprocessing: Preprocessing | None) -> str:
    """The resize rule of a data set where none is asked for."""
    if name == "cityscapes":
        return "original"
    if preprocessing is not None and preprocessing.size is not None:
        return f"{preprocessing.resize}{preprocessing.size}"
    return "square512" if name == "ade20k" else "original"


def target_size(rule: str, height: int, width: int) -> tuple[int, int]:
    """Size of the network's input under a resize rule.

    Args:
        rule: "squareN", "shortN" or "original".
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Returns:
        Height and width.

    Raises:
        ValueError: If there is no such rule.

    >>> target_size("short512", 480, 640), target_size("square512", 480, 640)
    ((512, 704), (512, 512))
    """
    if rule == "original":
        return height, width
    match = _RULE.fullmatch(rule)
    if match is None:
        raise ValueError(
            f"resize={rule!r} is no rule: give 'square512', 'short512' (with any number) or "
            "'original'"
        )
    side = int(match[2])
    if match[1] == "square":
        return side, side
    # The authors round the scaled sides before they round up to the stride.
    scaled = (round(length * side / min(height, width)) for length in (height, width))
    new_height, new_width = (math.ceil(length / STRIDE) * STRIDE for length in scaled)
    return new_height, new_width


def _nearest(
    labels: Int[np.ndarray, "height width"], height: int, width: int
) -> Int[np.ndarray, "new_height new_width"]:
    """Label of the nearest pixel, by the pixels' centres as Pillow resizes."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip((height, width), labels.shape, strict=True)
    )
    return np.ascontiguousarray(labels[rows[:, None], columns[None, :]])


def _limited(files: SegmentationFiles, limit: int | None) -> SegmentationFiles:
    from dataclasses import replace

    chosen = evenly(len(files.images), limit)
    return replace(
        files,
        images=tuple(files.images[position] for position in chosen),
        labels=tuple(files.labels[position] for position in chosen),
    )
