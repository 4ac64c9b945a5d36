"""What a segmentation sweep writes beside its table: every class, confusion matrices, overlays."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aim_plugins.core.strengths import format_strength
from aim_plugins.sweep.report import ImageSample
from vision_bench.confusion import MeanOver
from vision_bench.data.dataset import evenly
from vision_bench.data.labels import IGNORE, nearest
from vision_bench.data.segmentation import SegmentationData
from vision_bench.logits.pixels import CachedSegmentationLogits
from vision_bench.perturbators import Perturbator
from vision_bench.pictures import encode_picture, spread
from vision_bench.segmentation.curve import EXPECTED_METRICS, SegmentationCurve, predict_levels
from vision_bench.segmentation.group_counts import GroupCounts
from vision_bench.segmentation.overlays import class_palette, overlay, present_classes

_METRICS = ("iou", "recall", "precision", "f1")
_COLUMNS = ("class", "name", "law", "strength", "draw", "pixels", "predicted")

REPORT_LEVELS = 13
"""Strengths at which the report shows pictures, at most."""

_LEGEND_CLASSES = 14


def class_table(
    curves: Sequence[tuple[Mapping[str, float], SegmentationCurve]],
    names: Sequence[str],
    mean_over: MeanOver = "present",
) -> str:
    """The metrics of every class at every strength as CSV.

    Args:
        curves: Of each strength of a change, that strength by its name, and the curve along the
            noise; without a change one curve and no name.
        names: Names of the classes.
        mean_over: As in `SegmentationCurve.rows`.

    Classes that count for nothing in means have pixels but no metrics, and the law has none of
    precision and F1.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    errors = [f"{metric}_stderr" for metric in _METRICS]
    pairs = (name for pair in zip(_METRICS, errors, strict=True) for name in pair)
    writer.writerow([*curves[0][0], *_COLUMNS, *pairs])
    for change, curve in curves:
        runs = {str(draw): groups for draw, groups in enumerate(curve.sampled_groups)}
        if curve.expected_groups is not None:
            runs[""] = curve.expected_groups
        for draw, groups in runs.items():
            for line in _class_lines(groups, curve.stds, names, draw, mean_over):
                writer.writerow([*map(format_strength, change.values()), *line])
    return text.getvalue()


def confusion_arrays(
    curves: Sequence[tuple[Mapping[str, float], SegmentationCurve]], names: Sequence[str]
) -> bytes:
    """The confusion matrices as a compressed .npz file of plain arrays.

    `confusion` [draws, strengths, truth, predicted] counts pixels, `expected` [strengths, truth,
    predicted] is the law where it was computed, exact or estimated on sampled pixels; `strengths`
    and `classes` name their axes. Of a change both have an axis before these, which an array of the
    name of its strength names.

    Args:
        curves: As in `class_table`.
        names: Names of the classes.
    """
    arrays: dict[str, Any] = {
        name: np.array([change[name] for change, _ in curves]) for name in curves[0][0]
    }
    arrays |= {"strengths": np.array(curves[0][1].stds), "classes": np.array(list(names))}
    for name in ("confusion", "expected"):
        if (first := getattr(curves[0][1], name)) is not None:
            every = [getattr(curve, name).numpy() for _, curve in curves]
            arrays[name] = np.stack(every) if curves[0][0] else first.numpy()
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def lone_class(curve: SegmentationCurve, names: Sequence[str]) -> str:
    """What to think of where a single class is labelled; empty where several are."""
    labelled = _labelled(curve)
    if len(labelled) != 1:
        return ""
    return (
        f"every labelled pixel is {names[labelled[0]]!r}, as {IGNORE} means unlabelled: "
        f"masks of 0 and {IGNORE} are to be stored as 0 and 1"
    )


def shifted_classes(curve: SegmentationCurve, data: SegmentationData) -> str:
    """What to think of reduced labels without the last class; empty where nothing is in doubt."""
    names = data.classes
    if not data.files.reduced or len(names) - 1 in _labelled(curve) or not data.stores_zero():
        return ""
    return (
        "warning: label 0 is taken for unlabelled (reduce_labels=True), and no pixel is of the "
        f"last class, {names[-1]!r}: if 0 is {names[0]!r}, every class is one off; then give "
        "reduce_labels=False"
    )


class View(NamedTuple):
    """What pictures of an image show at one strength.

    Attributes:
        strength: Where it stands on the axis.
        cached: The logits.
        std: Of the noise on them.
    """

    strength: float
    cached: CachedSegmentationLogits
    std: float


def report_images(
    views: Sequence[View],
    perturbator: Perturbator,
    *,
    targets: Sequence[int],
    count: int,
    width: int,
    device: torch.device | str = "cpu",
) -> list[ImageSample]:
    """Draws overlays for the report.

    Args:
        views: What is shown, of the same images; of many, `REPORT_LEVELS` evenly chosen ones are.
        perturbator: The modulation of the logits.
        targets: Images with ground truth of these classes go first.
        count: Number of images.
        width: Width of the pictures at most, in pixels.
        device: Where to compute.

    Returns:
        One sample per image, spread over the data set.
    """
    levels = [views[index] for index in spread(len(views), REPORT_LEVELS)]
    return [
        _sample(levels, position, perturbator, targets, width, device)
        for position in _choose(views[0].cached, targets, count)
    ]


def _labelled(curve: SegmentationCurve) -> list[int]:
    """Classes with a labelled pixel."""
    groups = curve.sampled_groups[0] if curve.sampled_groups else curve.expected_groups
    assert groups is not None  # sampled or expected, one of the two is there
    return groups.truth.sum((0, 1)).nonzero().flatten().tolist()


def _class_lines(
    groups: GroupCounts,
    stds: Sequence[float],
    names: Sequence[str],
    draw: str,
    mean_over: MeanOver,
) -> Iterator[list[Any]]:
    """Lines of a draw, or of the law where `draw` is empty."""
    metrics, errors = groups.metrics(mean_over), groups.standard_errors(mean_over)
    truth, predicted = groups.truth.sum(0), groups.predicted.sum(0)
    law, shown = ("sampled", _METRICS) if draw else ("expected", EXPECTED_METRICS)
    for index, name in enumerate(names):
        for level, std in enumerate(stds):
            counts = [_count(counts[level, index]) for counts in (truth, predicted)]
            line = [index, name, law, format_strength(std), draw, *counts]
            for metric in _METRICS:
                for values in (metrics, errors):
                    value = float(values[metric][level, index])
                    left_out = np.isnan(value) or metric not in shown
                    line.append("" if left_out else repr(value))
            yield line


def _count(pixels: torch.Tensor) -> str:
    """Pixels, which are whole when counted and fractions when expected."""
    value = float(pixels)
    return str(int(value)) if value.is_integer() else repr(value)


def _choose(cached: CachedSegmentationLogits, targets: Sequence[int], count: int) -> list[int]:
    """Positions of images to show, spread over the data set, those with targets first."""
    count = min(count, len(cached))
    if count == 0:
        return []
    spread = evenly(len(cached), count)
    if not targets:
        return spread
    order = torch.randperm(len(cached), generator=torch.Generator().manual_seed(0)).tolist()
    wanted = torch.tensor(targets)
    found = []
    for position in order:
        if torch.isin(cached.read_labels(position), wanted).any():
            found.append(position)
        if len(found) == count:
            break
    return sorted([*found, *(p for p in order if p not in found)][:count])


def _sample(
    levels: Sequence[View],
    position: int,
    perturbator: Perturbator,
    targets: Sequence[int],
    width: int,
    device: torch.device | str,
) -> ImageSample:
    """What the report shows of an image; every pixel shown has noise of its own."""
    cached = levels[0].cached
    names, item = cached.data.classes, cached[position]
    photograph = cached.data.read_photograph(item.index)
    photograph.thumbnail((width, 4 * width), Image.Resampling.LANCZOS)
    size = (photograph.height, photograph.width)
    labels = nearest(cached.read_labels(position), size)
    maps: list[Tensor] = []
    for one, own in itertools.groupby(levels, lambda view: view.cached):
        stds = [view.std for view in own]
        logits = one[position].logits.to(device)
        maps += predict_levels(logits, perturbator, stds, size=size, key=item.key)
    truth = overlay(photograph, labels, names, legend=[])
    pictures = {
        view.strength: encode_picture(overlay(photograph, prediction, names, legend=[]))
        for view, prediction in zip(levels, maps, strict=True)
    }
    present = present_classes([labels, *maps], len(names))
    shown = [*targets, *(entry for entry in present if entry not in targets)][:_LEGEND_CLASSES]
    counted = labels != IGNORE
    captions = {}
    for view, prediction in zip(levels, maps, strict=True):
        hits = (prediction.long() == labels)[counted]
        right = float(hits.double().mean()) if counted.any() else 0.0
        captions[view.strength] = f"{100 * right:.1f} % of the labelled pixels shown are right"
    return ImageSample(
        name=item.name.rsplit("/", 1)[-1],
        pictures=pictures,
        captions=captions,
        references={"image": encode_picture(photograph), "ground truth": encode_picture(truth)},
        legend={names[entry]: _hex(entry) for entry in shown},
    )


def _hex(index: int) -> str:
    red, green, blue = (int(value) for value in class_palette(index + 1)[index])
    return f"#{red:02x}{green:02x}{blue:02x}"
