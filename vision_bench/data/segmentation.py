"""Images with a class for every pixel, by name: ADE20K, Cityscapes, and folders of pairs.

An image is resized for its network; its label map keeps its size, at which predictions are judged,
unless it is to be resized with the image. 255 marks pixels that count for nothing.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.core.errors import did_you_mean
from vision_bench.data.dataset import VisionData, digest_files, evenly, folder_title
from vision_bench.data.images import (
    UnreadableImageError,
    check_input_size,
    normalise,
    read_image,
    scale,
)
from vision_bench.data.label_maps import read_label_map
from vision_bench.data.labels import nearest
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
_RULE = re.compile(r"(square|short|edge)([1-9]\d{0,4})")

ScoreAt = Literal["labels", "input"]
"""Where predictions meet labels: at the labels' own size, or at that of the network's input."""


class SegmentationData(VisionData):
    """Images and label maps, as triples (image, labels, name).

    `data[i]` is the network's input [3, h, w], the labels [height, width] with 255 to ignore, and
    the image's path.

    Attributes:
        files: The pairs of files.
        resize: Size of the network's input, as `target_size` reads it.
        score_at: "labels" keeps labels as they are stored; "input" resizes them to the network's
            input, to the nearest pixel.
        preprocessing: Mean, standard deviation and interpolation.
    """

    def __init__(
        self,
        name: str,
        files: SegmentationFiles,
        *,
        resize: str = "original",
        score_at: ScoreAt = "labels",
        preprocessing: Preprocessing | None = None,
        on_error: str = "skip",
    ) -> None:
        target_size(resize, 1, 1)
        if score_at not in get_args(ScoreAt):
            raise ValueError(f"score_at={score_at!r} is neither 'labels' nor 'input'")
        if preprocessing is not None and preprocessing.crop is not None:
            raise ValueError(
                f"preprocessing.crop={preprocessing.crop}: every pixel of an image is segmented, "
                "so give preprocessing without a crop"
            )
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
        self.score_at = score_at

    def __getitem__(
        self, index: int
    ) -> tuple[Float[Tensor, "3 h w"], Int[Tensor, "height width"], str]:
        name = self.names[index]
        image = read_image(self.files.root / name)
        labels = self._labels(index, (image.height, image.width))
        return network_input(image, self.resize, self.preprocessing), labels, name

    def read_labels(self, index: int) -> Int[Tensor, "height width"]:
        """The labels of one image at the size at which it is judged, without decoding the image.

        Raises:
            UnreadableImageError: If they are not usable.
        """
        return self._labels(index, None)

    def stores_zero(self) -> bool:
        """Whether a pixel of any readable label map is stored as 0; stops at the first."""
        for name in self.files.labels:
            try:
                stored = read_label_map(self.files.root / name, self.files.colours)
            except (UnreadableImageError, OSError):
                continue
            if (stored == 0).any():
                return True
        return False

    def read_photograph(self, index: int) -> Image:
        """One image as it is stored, for pictures."""
        return read_image(self.files.root / self.names[index])

    def identity(self) -> dict[str, Any]:
        """What inputs and stored labels depend on, as JSON; the key of cached results."""
        return {**super().identity(), "resize": self.resize}

    @property
    def rules(self) -> dict[str, Any]:
        """What became of images and labels, for manifests."""
        return {
            "resize": self.resize,
            "score_at": self.score_at,
            "reduce_labels": self.files.reduced,
        }

    def describe_rules(self) -> str:
        """The same in words."""
        kind, side = _split_rule(self.resize)
        images = {
            "original": "images keep their size",
            "square": f"images are resized to {side} x {side}",
            "short": f"images' shorter sides are resized to {side}, then both rounded up to 32",
            "edge": f"images' shorter sides are resized to {side}",
        }[kind]
        scored = {
            "labels": "logits are upsampled to the labels' own size and judged there",
            "input": "labels are resized with them and judged at that size",
        }[self.score_at]
        reduced = "; label 0 is unlabelled and 1 the first class" if self.files.reduced else ""
        if reduced and self.files.colours is not None:
            reduced += " where labels are stored as indices, not as colours"
        return f"{images}; {scored}{reduced}"

    def _contents(self) -> Any:
        files = self.files
        lookup = hashlib.sha256(np.ascontiguousarray(files.lookup).data).hexdigest()
        paths = [files.root / name for name in (*files.images, *files.labels)]
        colours = sorted((files.colours or {}).items())
        return [files.labels, lookup, colours, digest_files(paths)]

    def _labels(self, index: int, size: tuple[int, int] | None) -> Int[Tensor, "height width"]:
        path = self.files.root / self.files.labels[index]
        stored = read_label_map(path, self.files.colours)
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
                f"pixels is none of the {len(self.classes)} classes of {self.title}"
            )
        if self.score_at == "labels":
            return torch.from_numpy(labels)
        height, width = target_size(self.resize, *labels.shape)
        check_input_size(height, width)
        return nearest(torch.from_numpy(labels), (height, width))


def load_segmentation_dataset(
    name: str,
    root: str | Path,
    *,
    split: str | None = None,
    resize: str | None = None,
    score_at: ScoreAt = "labels",
    reduce_labels: bool | None = None,
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
        resize: Size of the network's input: "square512" for both sides, "edge512" for the shorter
            side, "short512" as AIM's authors do (the shorter side, then both rounded up to a
            multiple of 32), with any number, or "original". By default what the preprocessing
            says, and for ADE20K without one "square512"; Cityscapes keeps its 2048 x 1024 pixels,
            which a square would distort.
        score_at: "labels" leaves label maps at their own size, to which logits are upsampled;
            "input" resizes them with the image, as AIM's script does.
        reduce_labels: For "folder", whether the files count classes from 1 and 0 is unlabelled; by
            default what the preprocessing says. The others have their own numbers.
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
        raise ValueError(f"dataset={name!r} is no data set; {did_you_mean(name, _NAMES)}")
    if name != "folder":
        split = split or "val"
        if split not in _SPLITS:
            raise ValueError(f"split={split!r}: {name} has the splits {' and '.join(_SPLITS)}")
        if classes is not None:
            raise ValueError(f"classes={list(classes)[:3]}...: {name} has its own classes")
        if reduce_labels is not None:
            raise ValueError(
                f"reduce_labels={reduce_labels}: {name} numbers its labels itself; leave it out"
            )
    root = Path(root)
    if name == "folder":
        if reduce_labels is None:
            reduce_labels = preprocessing is not None and preprocessing.reduce_labels
        files = read_pair_folders(root, split, classes, reduced=reduce_labels)
    else:
        assert split is not None
        files = {"ade20k": read_ade20k, "cityscapes": read_cityscapes}[name](root, split)
    data = SegmentationData(
        f"{name}-{split or root.resolve().name}",
        _limited(files, limit),
        resize=resize or default_resize(name, preprocessing),
        score_at=score_at,
        preprocessing=preprocessing,
        on_error=on_error,
    )
    if name == "folder":
        data.title = folder_title(root, split)
    return data


def network_input(
    image: Image, resize: str, preprocessing: Preprocessing | None
) -> Float[Tensor, "3 height width"]:
    """Resizes and normalises an image.

    Args:
        image: An RGB image.
        resize: The rule, as in `target_size`.
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
        # The authors' "short" rounds besides.
        kind = "square" if preprocessing.resize == "square" else "edge"
        return f"{kind}{preprocessing.size}"
    return "square512" if name == "ade20k" else "original"


def target_size(rule: str, height: int, width: int) -> tuple[int, int]:
    """Size of the network's input under a resize rule.

    Args:
        rule: "squareN" for both sides, "edgeN" for the shorter side (the other is rounded down, as
            `shortest_edge` of transformers does), "shortN" for the shorter side and then both
            rounded up to a multiple of 32, or "original".
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Returns:
        Height and width.

    Raises:
        ValueError: If there is no such rule.

    >>> [target_size(rule, 480, 640) for rule in ("square512", "edge512", "short512")]
    [(512, 512), (512, 682), (512, 704)]
    """
    kind, side = _split_rule(rule)
    if kind == "original":
        return height, width
    if kind == "square":
        return side, side
    if kind == "edge":
        new_height, new_width = (side * length // min(height, width) for length in (height, width))
        return new_height, new_width
    # The authors round the scaled sides before they round up to the stride.
    scaled = (round(length * side / min(height, width)) for length in (height, width))
    new_height, new_width = (math.ceil(length / STRIDE) * STRIDE for length in scaled)
    return new_height, new_width


def _split_rule(rule: str) -> tuple[str, int]:
    """The kind of a resize rule and its number of pixels."""
    match = _RULE.fullmatch(rule)
    if match is None and rule != "original":
        raise ValueError(
            f"resize={rule!r} is no rule: give 'square512', 'edge512' or 'short512' (with any "
            "number), or 'original'"
        )
    return (match[1], int(match[2])) if match else (rule, 0)


def _limited(files: SegmentationFiles, limit: int | None) -> SegmentationFiles:
    from dataclasses import replace

    chosen = evenly(len(files.images), limit)
    return replace(
        files,
        images=tuple(files.images[position] for position in chosen),
        labels=tuple(files.labels[position] for position in chosen),
    )
