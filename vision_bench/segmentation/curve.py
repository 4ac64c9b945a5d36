"""Quality of a segmentation model under logit noise: one pass over cached logits, every strength.

Every image is upsampled and given its noise once, tile by tile; all strengths scale the same noise,
and their confusion matrices are counted together (see `envelope`). Metrics follow from the
counts of the whole data set.

Beside sampling stand the exact laws. The expected confusion matrix, Σ over pixels of the winning
probabilities, is exact on all pixels and an unbiased estimate on sampled pixels, and so are pixel
accuracy and recall, whose denominators are fixed. IoU is computed from expected counts: its
denominator T + F, of T labelled pixels and F false ones, is at least T, so that on all pixels the
value lies below the expected IoU by a share of some Var(F)/(T + E F)² ≤ 1/(4T). Precision and F1
have no such floor; where a class is hardly ever predicted, they would be far off, and are left out.
The mean over classes asks besides how likely those without labels are to be predicted anywhere (see
`group_counts`).

Standard errors are over images, by the jackknife (see `group_counts`): images are dealt to at most
`JACKKNIFE_GROUPS` groups, each its own where there are no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import SupportsFloat

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from aim_plugins.core.strengths import parse_strengths
from aim_plugins.sweep.table import Row
from vision_bench.confusion import MeanOver
from vision_bench.data.labels import IGNORE
from vision_bench.perturbators import ImageKey, Perturbator, SingleClassPerturbator
from vision_bench.segmentation.counting import PixelCounter, sampled_tiles
from vision_bench.segmentation.group_counts import GroupCounts

EXACT_PIXELS = 4096
"""Pixels of an image on which laws that need an integral are computed."""

EXPECTED_METRICS = ("acc", "miou", "mrecall", "iou", "recall")
"""Metrics that follow from expected counts, IoU nearly so."""

Item = tuple[Tensor, Tensor, ImageKey]
"""Logits [classes, h, w] of full size or smaller, labels [height, width], and the image's name."""


@dataclass(frozen=True)
class SegmentationCurve:
    """Segmentation metrics at every strength.

    Attributes:
        stds: Noise standard deviations in logit units, rising.
        confusion: Pixels by draw, strength, ground truth and prediction.
        expected: Their expectation over the noise, or None where it was not asked for: exact on
            all pixels, and an estimate scaled to all pixels on sampled pixels.
        sampled_groups: Counts of groups of images, for each draw.
        expected_groups: The same for the exact law.
        images: Number of images.
    """

    stds: tuple[float, ...]
    confusion: Int64[Tensor, "draws levels truth predicted"]
    expected: Float[Tensor, "levels truth predicted"] | None
    sampled_groups: tuple[GroupCounts, ...]
    expected_groups: GroupCounts | None
    images: int

    def joined(self, other: SegmentationCurve) -> SegmentationCurve:
        """The curve of these images and of those that follow them.

        Args:
            other: The curve of the images that follow, under the same modulation.

        Returns:
            The curve that all images measured together would have.

        Raises:
            ValueError: If the curves differ in strengths, draws, classes or the exact law.
        """
        alike = (
            self.stds == other.stds
            and self.confusion.shape == other.confusion.shape
            and (self.expected is None) == (other.expected is None)
        )
        if not alike:
            raise ValueError(
                "other has other strengths, draws or classes, or lacks the exact law: "
                "measure both parts alike"
            )
        expected, groups = self.expected, self.expected_groups
        if expected is not None and other.expected is not None:
            expected = expected + other.expected
        if groups is not None and other.expected_groups is not None:
            groups = groups.joined(other.expected_groups, self.images)
        return SegmentationCurve(
            self.stds,
            self.confusion + other.confusion,
            expected,
            tuple(
                mine.joined(others, self.images)
                for mine, others in zip(self.sampled_groups, other.sampled_groups, strict=True)
            ),
            groups,
            self.images + other.images,
        )

    def rows(
        self,
        task: str,
        class_names: Mapping[int, str] | None = None,
        *,
        mean_over: MeanOver = "present",
    ) -> list[Row]:
        """The curve as rows of a sweep's table.

        Args:
            task: Name of the data set and model in the table.
            class_names: Classes to show on their own, each as a task TASK.NAME with the metrics
                `iou`, `recall`, `precision` and `f1`.
            mean_over: Whether a class that is predicted and never labelled counts as 0 in means,
                "present", or not at all, "labelled".

        Returns:
            Pixel accuracy `acc` and the means over classes `miou`, `mrecall`, `mprecision` and
            `mf1`, by draw and strength; with the suffix `_expected` those of the exact law, but
            for precision and F1, which do not follow from expected counts. A class has no rows
            where it counts for nothing.

        Raises:
            ValueError: If a class is outside the model's classes.
        """
        classes = self.confusion.shape[-1]
        for index in class_names or ():
            if not 0 <= index < classes:
                raise ValueError(
                    f"class_names holds class {index}, outside the model's [0, {classes})"
                )
        rows = []
        for draw, groups in enumerate(self.sampled_groups):
            rows += self._rows_of(groups, task, class_names or {}, draw, mean_over)
        if self.expected_groups is not None:
            rows += self._rows_of(self.expected_groups, task, class_names or {}, None, mean_over)
        return rows

    def _rows_of(
        self,
        groups: GroupCounts,
        task: str,
        class_names: Mapping[int, str],
        draw: int | None,
        mean_over: MeanOver,
    ) -> list[Row]:
        suffix = "_expected" if draw is None else ""
        errors = groups.standard_errors(mean_over)
        rows = []
        for name, values in groups.metrics(mean_over).items():
            if draw is None and name not in EXPECTED_METRICS:
                continue
            curves = (
                [(task, self.images, values, errors[name])]
                if values.dim() == 1
                else [
                    (
                        f"{task}.{label}",
                        self._images_of(groups, index),
                        values[:, index],
                        errors[name][:, index],
                    )
                    for index, label in class_names.items()
                ]
            )
            for curve, n, points, stderrs in curves:
                for std, value, stderr in zip(self.stds, points, stderrs, strict=True):
                    if not value.isnan():
                        error = None if stderr.isnan() else float(stderr)
                        rows.append(Row(curve, name + suffix, std, draw, float(value), error, n))
        return rows

    def _images_of(self, groups: GroupCounts, index: int) -> int:
        """Images that a class's curve rests on: those that hold it, or their groups if fewer.

        Groups are images where there are no more than `JACKKNIFE_GROUPS`. A class that only some of
        more groups hold is rare, and hardly ever twice in one.
        """
        holders = int((groups.truth[:, 0, index] > 0).sum())
        return holders if 0 < holders < len(groups.truth) else self.images


def segmentation_curve(
    items: Iterable[Item],
    perturbator: Perturbator,
    stds: str | SupportsFloat | Sequence[SupportsFloat],
    *,
    draws: int = 1,
    exact: bool = False,
    exact_pixels: int | None = EXACT_PIXELS,
    ignore_index: int | None = IGNORE,
) -> SegmentationCurve:
    """Measures segmentation against noise strength, by sampling and in law.

    Args:
        items: Logits, labels and name of each image. Logits of another size than the labels are
            upsampled to it, and the noise is added after that.
        perturbator: The modulation; its own std is not used. Draw d has its seed plus d.
        stds: Noise standard deviations in logit units, or a grid such as "0:20:2".
        draws: Sampled runs per strength; 0 leaves sampling out.
        exact: Whether to compute the exact law as well.
        exact_pixels: Labelled pixels of an image, sampled from each class present
            (see `pixel_samples`), for the laws of utility and of several targets, which
            need an integral for each pixel and strength; None takes all. The law of a single
            target is closed and always takes all, and so does every law at std 0.
        ignore_index: Label of pixels that count for nothing; None counts all.

    Returns:
        The curve.

    Raises:
        ValueError: If there are no images, a label or target is no class, logits are not usable or
            differ in their classes, or an option is not usable. The image is named.
    """
    levels = tuple(sorted(parse_strengths(stds, name="stds")))
    if draws < 0:
        raise ValueError(f"draws={draws} is negative: give 0 or more")
    if exact_pixels is not None and exact_pixels < 1:
        raise ValueError(f"exact_pixels={exact_pixels} is below 1: give a number, or None for all")
    if isinstance(perturbator, SingleClassPerturbator):
        exact_pixels = None
    counter: PixelCounter | None = None
    for logits, labels, name in items:
        try:
            _check_item(logits, labels, ignore_index)
            if counter is None:
                counter = PixelCounter(len(logits), levels, perturbator, draws, exact, exact_pixels)
            counter.add(logits, labels, name, ignore_index)
        except ValueError as error:
            raise ValueError(f"image {name!r}: {error}") from error
    if counter is None:
        raise ValueError("items hold no image: give at least one")
    expected = [groups.finish(counter.images) for groups in counter.expected_groups]
    return SegmentationCurve(
        levels,
        counter.confusion,
        counter.expected,
        tuple(groups.finish(counter.images) for groups in counter.sampled_groups),
        expected[0] if expected else None,
        counter.images,
    )


def predict_levels(
    logits: Float[Tensor, "classes h w"],
    perturbator: Perturbator,
    stds: Sequence[float],
    *,
    size: tuple[int, int],
    key: ImageKey = 0,
) -> Integer[Tensor, "levels height width"]:
    """Class maps of one image at every strength, with the noise `segmentation_curve` draws.

    Args:
        logits: Logits of full size or smaller.
        perturbator: The modulation; its own std is not used.
        stds: Strengths, in any order.
        size: Height and width of the maps.
        key: Index or name of the image.

    Returns:
        Class indices, uint8 for up to 256 classes and int16 beyond, in the order of `stds`.

    Raises:
        ValueError: If a target is no class, or strengths or logits are not usable.
    """
    levels = parse_strengths(stds, name="stds")
    order = sorted(range(len(levels)), key=levels.__getitem__)
    dtype = torch.uint8 if len(logits) <= 256 else torch.int16
    maps = torch.empty(len(levels), *size, dtype=dtype)
    rising = [levels[index] for index in order]
    for rows, _, sampled in sampled_tiles(logits, size, perturbator, rising, key, [0]):
        winners = sampled.argmax().to(maps.device, dtype)
        maps[order, rows.start : rows.stop] = winners.view(len(levels), len(rows), size[1])
    return maps


def _check_item(logits: Tensor, labels: Tensor, ignore_index: int | None) -> None:
    if logits.dim() != 3 or not logits.is_floating_point() or len(logits) < 2:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and {logits.dtype}: "
            "give floating-point numbers [classes, height, width] of at least two classes"
        )
    if labels.dim() != 2:
        raise ValueError(f"labels have shape {tuple(labels.shape)}: give a map [height, width]")
