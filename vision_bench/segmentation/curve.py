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

Standard errors are over images, by the jackknife (see `group_counts`): images are dealt to at most
`JACKKNIFE_GROUPS` groups, each its own where there are no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import SupportsFloat

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from aim_plugins.core.strengths import parse_strengths
from aim_plugins.sweep.table import Row
from vision_bench.confusion import MeanOver
from vision_bench.data.labels import IGNORE, check_labels, counted_pixels
from vision_bench.logits.upsampling import tile_rows, upsample_pixels, upsample_rows
from vision_bench.perturbators import ImageKey, Perturbator, SingleClassPerturbator, image_key
from vision_bench.segmentation.envelope import Envelope
from vision_bench.segmentation.group_counts import GroupCounts
from vision_bench.segmentation.pixel_argmax import LevelArgmax, add_expected_counts, sampled_argmax
from vision_bench.segmentation.pixel_samples import sample_pixels

JACKKNIFE_GROUPS = 128
"""Groups of images; a standard error then is known to 6% of itself."""

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
            groups = groups.joined(other.expected_groups, self.images, JACKKNIFE_GROUPS)
        return SegmentationCurve(
            self.stds,
            self.confusion + other.confusion,
            expected,
            tuple(
                mine.joined(others, self.images, JACKKNIFE_GROUPS)
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
                [(task, values, errors[name])]
                if values.dim() == 1
                else [
                    (f"{task}.{label}", values[:, index], errors[name][:, index])
                    for index, label in class_names.items()
                ]
            )
            for curve, points, stderrs in curves:
                n = self._images_of(groups, curve.removeprefix(f"{task}."), class_names)
                for std, value, stderr in zip(self.stds, points, stderrs, strict=True):
                    if not value.isnan():
                        error = None if stderr.isnan() else float(stderr)
                        rows.append(Row(curve, name + suffix, std, draw, float(value), error, n))
        return rows

    def _images_of(self, groups: GroupCounts, label: str, class_names: Mapping[int, str]) -> int:
        """Images that a curve rests on: of a class those that hold it, or their groups if fewer.

        Groups are images where there are no more than `JACKKNIFE_GROUPS`. A class that only some of
        more groups hold is rare, and hardly ever twice in one.
        """
        index = next((index for index, name in class_names.items() if name == label), None)
        if index is None:
            return self.images
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
    counter: _Counter | None = None
    for logits, labels, name in items:
        try:
            _check_item(logits, labels, ignore_index)
            if counter is None:
                counter = _Counter(len(logits), levels, perturbator, draws, exact, exact_pixels)
            counter.add(logits, labels, name, ignore_index)
        except ValueError as error:
            raise ValueError(f"image {name!r}: {error}") from error
    if counter is None:
        raise ValueError("items hold no image: give at least one")
    return counter.curve()


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
    for rows, _, sampled in _sampled_tiles(logits, size, perturbator, rising, key, [0]):
        winners = sampled.argmax().to(maps.device, dtype)
        maps[order, rows.start : rows.stop] = winners.view(len(levels), len(rows), size[1])
    return maps


class _Counter:
    """Confusion matrices of the images so far."""

    def __init__(
        self,
        classes: int,
        levels: tuple[float, ...],
        perturbator: Perturbator,
        draws: int,
        exact: bool,
        exact_pixels: int | None,
    ) -> None:
        self.classes, self.levels, self.perturbator = classes, levels, perturbator
        self.draws, self.exact, self.exact_pixels = draws, exact, exact_pixels
        perturbator.directions(classes)
        shape = (len(levels), classes, classes)
        self.confusion = torch.zeros(draws, *shape, dtype=torch.int64)
        self.expected = torch.zeros(shape, dtype=torch.float64) if exact else None
        # One further run for the exact law.
        runs = [_RunCounts(levels, classes) for _ in range(draws + exact)]
        self.sampled_groups, self.expected_groups = runs[:draws], runs[draws:]
        self.images = 0

    def add(self, logits: Tensor, labels: Tensor, name: ImageKey, ignore_index: int | None) -> None:
        if len(logits) != self.classes:
            raise ValueError(
                f"logits have {len(logits)} classes and those before {self.classes}: "
                "give the outputs of one model"
            )
        check_labels(labels, self.classes, ignore_index)
        counted = counted_pixels(labels, ignore_index)
        # A row of its own takes the pixels that do not count.
        truth = torch.where(counted, labels.long(), self.classes).to(logits.device).flatten()
        size = (labels.shape[0], labels.shape[1])
        if self.draws:
            counts = self._sampled_counts(logits, truth, size, name)
            self.confusion += counts
            for groups, count in zip(self.sampled_groups, counts, strict=True):
                groups.add(count, self.images)
        if self.expected is not None:
            expected, log_absent = self._expected_counts(logits, truth, size, name)
            self.expected += expected
            self.expected_groups[0].add(expected, self.images, log_absent)
        self.images += 1

    def curve(self) -> SegmentationCurve:
        sampled = tuple(groups.finish(self.images) for groups in self.sampled_groups)
        expected = [groups.finish(self.images) for groups in self.expected_groups]
        return SegmentationCurve(
            self.levels,
            self.confusion,
            self.expected,
            sampled,
            expected[0] if expected else None,
            self.images,
        )

    def _sampled_counts(
        self, logits: Tensor, truth: Tensor, size: tuple[int, int], name: ImageKey
    ) -> Int64[Tensor, "draws levels truth predicted"]:
        shape = (self.draws, len(self.levels), self.classes + 1, self.classes)
        counts = torch.zeros(shape, dtype=torch.int64, device=logits.device)
        tiles = _sampled_tiles(logits, size, self.perturbator, self.levels, name, range(self.draws))
        for rows, draw, sampled in tiles:
            pixels = slice(rows.start * size[1], rows.stop * size[1])
            sampled.add_changes(truth[pixels], counts[draw])
        return counts.cumsum_(1)[:, :, : self.classes].cpu()

    def _expected_counts(
        self, logits: Tensor, truth: Tensor, size: tuple[int, int], name: ImageKey
    ) -> tuple[Float[Tensor, "levels truth predicted"], Float[Tensor, "levels predicted"]]:
        """Expected counts, and logs of the probabilities that no pixel is called a class."""
        shape = (len(self.levels), self.classes, self.classes)
        counts = torch.zeros(shape, dtype=torch.float64, device=logits.device)
        log_absent = counts.new_zeros(shape[:2])
        directions = self.perturbator.directions(self.classes)
        labelled = int((truth < self.classes).sum())
        budget = labelled if self.exact_pixels is None else self.exact_pixels
        # Without noise the law is an argmax, which costs little for all pixels.
        whole = self.levels.count(0.0) if budget < labelled else len(self.levels)
        for rows in tile_rows(self.classes, size) if whole else ():
            labels = truth[rows.start * size[1] : rows.stop * size[1]]
            pixels = (labels < self.classes).nonzero().squeeze(1)
            clean = upsample_rows(logits, size, rows).index_select(1, pixels)
            levels, parts = self.levels[:whole], (counts[:whole], log_absent[:whole])
            add_expected_counts(clean, labels[pixels], directions, levels, *parts)
        if noisy := self.levels[whole:]:
            seed = image_key(name) % 2**63
            pixels, weights = sample_pixels(truth, self.classes, budget, seed=seed)
            clean = upsample_pixels(logits, size, pixels)
            parts = (counts[whole:], log_absent[whole:])
            add_expected_counts(clean, truth[pixels], directions, noisy, *parts, weights)
        return counts.cpu(), log_absent.cpu()


class _RunCounts:
    """Counts of one draw, or of the exact law, by groups of images."""

    def __init__(self, levels: Sequence[float], classes: int) -> None:
        shape = (JACKKNIFE_GROUPS, len(levels), classes)
        self.hits, self.predicted, self.truth = torch.zeros(3, *shape, dtype=torch.float64)
        self.log_absent: Tensor | None = None

    def add(self, confusion: Tensor, image: int, log_absent: Tensor | None = None) -> None:
        group = image % JACKKNIFE_GROUPS
        self.hits[group] += confusion.diagonal(dim1=1, dim2=2)
        self.predicted[group] += confusion.sum(1)
        self.truth[group] += confusion.sum(2)
        if log_absent is not None:
            if self.log_absent is None:
                self.log_absent = torch.zeros_like(self.hits)
            self.log_absent[group] += log_absent

    def finish(self, images: int) -> GroupCounts:
        used = slice(min(images, JACKKNIFE_GROUPS))
        absent = None if self.log_absent is None else self.log_absent[used]
        return GroupCounts(self.hits[used], self.predicted[used], self.truth[used], absent)


def _sampled_tiles(
    logits: Tensor,
    size: tuple[int, int],
    perturbator: Perturbator,
    levels: Sequence[float],
    name: ImageKey,
    draws: Iterable[int],
) -> Iterator[tuple[range, int, Envelope | LevelArgmax]]:
    """The argmax of runs of rows, for each draw."""
    directions, key = perturbator.directions(len(logits)), image_key(name)
    for rows in tile_rows(len(logits), size):
        clean = upsample_rows(logits, size, rows)
        for draw in draws:
            yield (
                rows,
                draw,
                sampled_argmax(
                    clean,
                    directions,
                    levels,
                    key=key,
                    start=rows.start * size[1],
                    seed=perturbator.seed + draw,
                ),
            )


def _check_item(logits: Tensor, labels: Tensor, ignore_index: int | None) -> None:
    if logits.dim() != 3 or not logits.is_floating_point() or len(logits) < 2:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and {logits.dtype}: "
            "give floating-point numbers [classes, height, width] of at least two classes"
        )
    if labels.dim() != 2:
        raise ValueError(f"labels have shape {tuple(labels.shape)}: give a map [height, width]")
