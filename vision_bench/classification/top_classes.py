"""What a classifier says of unlabelled photographs under noise: its best classes at every strength.

The exact probability of a class to be the answer falls with its logit at any strength (all logits
receive noise of one law), so the most probable classes are those of the clean logits throughout;
what changes is how much probability they keep. One noisy run beside them shows an actual answer.

Without labels, the clean answer takes their place: `kept` is the share of images whose noisy answer
is the clean one, `kept_expected` its exact expectation, and `kept_top5` the share whose clean
answer is still among the five best.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from aim_plugins.core.strengths import format_strength, parse_strengths
from aim_plugins.modulation.noise import prefix_keys, standard_normal
from aim_plugins.modulation.ordering import argmax_probabilities
from aim_plugins.sweep.report import ImageSample
from aim_plugins.sweep.table import Row
from vision_bench.classification.curve import accuracy_curve

_METRICS = ("acc", "acc_expected", "acc_top")
"""Metrics of an accuracy curve that mean something where the clean answers are the labels."""


@dataclass(frozen=True)
class TopClasses:
    """The best classes of each image.

    Attributes:
        stds: Noise standard deviations in logit units.
        classes: Class indices, the most probable first, which are the same at every strength.
        probabilities: Exact probability of each to be the argmax of the noisy logits.
        drawn: Best classes of one noisy run.
    """

    stds: tuple[float, ...]
    classes: Int64[Tensor, "images top"]
    probabilities: Float[Tensor, "images strengths top"]
    drawn: Int64[Tensor, "images strengths top"]


def top_classes(
    logits: Float[Tensor, "images classes"],
    stds: str | Sequence[float],
    *,
    top: int = 5,
    seed: int = 0,
) -> TopClasses:
    """Finds the best classes, with the exact probability of each to win, and those of one run.

    Args:
        logits: Clean logits.
        stds: Noise standard deviations in logit units, or a grid such as "0:10:1".
        top: Number of classes.
        seed: Seed of the run; its noise is that of `vision_bench.classification.curve`.

    Returns:
        The classes.

    Raises:
        ValueError: If `top` is not between 1 and the number of classes, or logits or strengths are
            not usable.

    >>> found = top_classes(torch.tensor([[3.0, 0.0, 1.0]]), [0, 100], top=2)
    >>> found.classes.tolist(), [round(p, 2) for p in found.probabilities[0, 1].tolist()]
    ([[0, 2]], [0.34, 0.33])
    """
    levels = parse_strengths(stds, name="stds")
    images, count = logits.shape
    if not 1 <= top <= count:
        raise ValueError(f"top={top} is outside [1, {count}], the number of classes")
    classes = logits.argsort(dim=1, descending=True, stable=True)[:, :top]
    keys = prefix_keys(torch.arange(images)[:, None])[:, 0]
    noise = standard_normal(keys, count, seed=seed, dtype=logits.dtype)
    probabilities, drawn = [], []
    for std in levels:
        probabilities.append(argmax_probabilities(logits, std).gather(1, classes))
        noisy = logits if std == 0 else (noise * std).add_(logits)
        drawn.append(noisy.argsort(dim=1, descending=True, stable=True)[:, :top])
    return TopClasses(levels, classes, torch.stack(probabilities, 1), torch.stack(drawn, 1))


def kept_rows(
    logits: Float[Tensor, "images classes"],
    stds: Sequence[float],
    task: str,
    *,
    draws: int,
    seed: int = 0,
) -> list[Row]:
    """How often noise keeps the clean answers, as rows of a sweep's table.

    Args:
        logits: Clean logits.
        stds: Noise standard deviations in logit units.
        task: Name of the images in the table.
        draws: Sampled runs per strength.
        seed: Seed of the first.

    Returns:
        The metrics `kept`, `kept_expected` and `kept_top5`.
    """
    curve = accuracy_curve(logits, logits.argmax(1), stds, draws=draws, seed=seed)
    return [
        dataclasses.replace(row, metric=row.metric.replace("acc", "kept", 1))
        for row in curve.rows(task)
        if row.metric.startswith(_METRICS)
    ]


def image_sample(
    name: str, photograph: bytes, found: TopClasses, image: int, class_names: Sequence[str]
) -> ImageSample:
    """One image's best classes, for the report.

    Args:
        name: The image's name.
        photograph: The content of a small picture of it.
        found: Best classes of all images.
        image: Position of this one.
        class_names: Names of all classes.

    Returns:
        The photograph, bars of the probabilities at every strength, and the noisy run's classes.
    """
    names = [class_names[index] for index in found.classes[image].tolist()]
    pictures, captions = {}, {}
    for level, std in enumerate(found.stds):
        pictures[std] = _bars(names, found.probabilities[image, level].tolist(), std)
        run = found.drawn[image, level].tolist()
        captions[std] = "one noisy run: " + ", ".join(class_names[index] for index in run)
    # No scores: without labels no answer is right or wrong.
    return ImageSample(name, pictures, captions, references={"photograph": photograph})


def _bars(names: Sequence[str], probabilities: Sequence[float], std: float) -> bytes:
    """A PNG of horizontal bars: the classes, and all others together."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 2.3), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    labels = [*names, "all other classes"]
    # Below a millionth is the error of the quadrature.
    values = [*probabilities, max(0.0, 1 - sum(probabilities))]
    bars = axes.barh(range(len(labels)), values, color=["#3b6ea5"] * len(names) + ["#b0b0b0"])
    axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=3)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.set_xlabel(f"probability of the answer at σ = {format_strength(std)}")
    axes.spines[["top", "right"]].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
