"""What the report of scored images shows beside its curves: the exchange, and the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from aim_plugins.core.strengths import format_strength
from aim_plugins.sweep.figures import BLUE, DPI, GREY, INK, STYLE, render
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.paired import Interval, show_p
from aim_plugins.sweep.report import ImageSample
from vision_bench.pictures import encode_picture, spread
from vision_bench.text_to_image.findings import changes, effect_of, shown, signed
from vision_bench.text_to_image.images import ImageFile
from vision_bench.text_to_image.scores import DIRECTION, IMAGE, PRESENCE, PROMPT, ImageScores

REPORT_STRENGTHS = 13
"""Strengths at which the report shows images, at most."""
_SIZE = (9.6, 4.0)  # inches
_APART = 22.0, 11.0
"""Points between two labels, across or up; λ whose label would be nearer to another have none."""


def show_exchange(
    scores: ImageScores, task: str, pictures: Mapping[str, bytes], units: str
) -> Overview:
    """The table of what every strength reaches at what similarity, with the picture of it.

    Args:
        scores: The scores.
        task: What the prompts are called.
        pictures: What `draw_exchange` made.
        units: What intervals are over, in words.
    """
    effect = effect_of(scores)
    strengths = sorted(scores.strengths)
    columns: dict[str, list[str]] = {"λ": [format_strength(one) for one in strengths]}
    if effect is not None:
        means, found = scores.means(effect), {one.strength: one for one in changes(scores, effect)}
        columns[_words(effect)] = [shown(means[one]) for one in strengths]
        moved = [found.get(one) for one in strengths]
        columns["change"] = ["–" if one is None else signed(one.difference) for one in moved]
        columns["p"] = ["–" if one is None else show_p(one.p).removeprefix("p = ") for one in moved]
    left, lost = scores.means(IMAGE), scores.changes(PROMPT)
    columns[_words(IMAGE)] = [shown(left[one]) for one in strengths]
    columns[f"change of {_words(PROMPT)}"] = [
        signed(lost[one]) if one in lost else "–" for one in strengths
    ]
    return Overview(
        "Effect against similarity",
        f"{units[:1].upper()}{units[1:]}. Each is its own control: changes are from the image of "
        "the same noise at λ = 0, with 95 % intervals, and p, of signs dealt out at random, is "
        "corrected for the number of strengths (Holm). Further to the right, more is as it was.",
        {f"{task}: effect against similarity": pictures["png"]} if pictures else {},
        list(columns),
        list(zip(*columns.values(), strict=True)),
        data=task,
    )


def draw_exchange(scores: ImageScores, task: str, concept: str | None) -> dict[str, bytes]:
    """Draws the effect of every strength against the similarities that are left at it.

    Args:
        scores: The scores.
        task: What the prompts are called.
        concept: What the transport leads into images or out of them.

    Returns:
        The content of the files by suffix, `png` and `svg`; none without a score of the effect.
    """
    metric = effect_of(scores)
    if metric is None:
        return {}
    strengths = sorted(scores.strengths)
    count = len(scores.values[metric])
    effect = [scores.means(metric)[one] for one in strengths]
    name = f"presence of {concept}" if metric == PRESENCE else _words(metric)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=_SIZE, dpi=DPI, layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, other in zip(panels, (IMAGE, PROMPT), strict=True):
            axes.set_xlabel(f"{_words(other)}{' to λ = 0' if other == IMAGE else ''}")
            axes.grid(color="#E6E6E6", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.tick_params(length=3)
            axes.margins(x=0.08)
            _draw(axes, [scores.means(other)[one] for one in strengths], effect)
        panels[0].set_ylabel(_plain(name))
        if metric == PRESENCE:
            panels[0].set_ylim(-0.03, 1.03)
        panels[0].set_title(_plain(task), pad=18)
        panels[0].annotate(
            f"n = {count}, bars are 95 % intervals, numbers are λ",
            (0, 1),
            xytext=(0, 5),
            xycoords="axes fraction",
            textcoords="offset points",
            color=GREY,
            fontsize=9,
        )
        figure.draw_without_rendering()  # where points lie is known then, and labels fit
        for axes, other in zip(panels, (IMAGE, PROMPT), strict=True):
            _label(axes, strengths, [scores.means(other)[one] for one in strengths], effect)
        return render(figure)


def report_images(
    folder: Path,
    images: Sequence[Sequence[ImageFile]],
    scores: ImageScores,
    *,
    count: int,
    side: int,
) -> list[ImageSample]:
    """Images for the slider of the report, each beside what it is at strength 0.

    Args:
        folder: Where the files lie.
        images: The files of each image, by strength.
        scores: The scores of every image.
        count: How many images, evenly chosen.
        side: Their longer side in pixels, at most.
    """
    chosen = [images[index] for index in spread(len(images), count)] if count else []
    return [_sample(folder, files, scores, side) for files in chosen]


def _sample(
    folder: Path, files: Sequence[ImageFile], scores: ImageScores, side: int
) -> ImageSample:
    rising = sorted(files, key=lambda one: one.strength)
    kept = [rising[index] for index in spread(len(rising), REPORT_STRENGTHS)]
    plain = next(one for one in files if one.strength == 0)
    captions = {}
    for one in kept:
        place = scores.strengths.index(one.strength)
        found = {name: table[one.number, place].item() for name, table in scores.values.items()}
        if one.strength == 0:
            found.pop(DIRECTION, None)
        said = "\n".join(f"{_words(name)} {value:.3f}" for name, value in found.items())
        captions[one.strength] = f"{one.prompt}\n{said}"
    return ImageSample(
        name=f"{plain.number}: {plain.prompt}",
        pictures={one.strength: _read(folder, one, side) for one in kept},
        captions=captions,
        references={"at strength 0": _read(folder, plain, side)},
    )


def _read(folder: Path, one: ImageFile, side: int) -> bytes:
    with Image.open(folder / one.file) as image:
        picture = image.convert("RGB")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return encode_picture(picture)


def _draw(axes: Axes, across: Sequence[Interval], up: Sequence[Interval]) -> None:
    axes.errorbar(
        [one.value for one in across],
        [one.value for one in up],
        xerr=_reach(across),
        yerr=_reach(up),
        color=BLUE,
        ecolor="#8CB8D6",
        elinewidth=1,
        linewidth=1.6,
        marker="o",
        markersize=4.5,
        zorder=3,
    )


def _reach(found: Sequence[Interval]) -> np.ndarray:
    """Lengths of error bars, below and above; none where nothing is known."""
    pairs = [(one.value - one.low, one.high - one.value) for one in found]
    return np.nan_to_num(np.array(pairs).T, nan=0.0).clip(min=0.0)


def _label(
    axes: Axes, strengths: Sequence[float], across: Sequence[Interval], up: Sequence[Interval]
) -> None:
    """Writes λ beside points, both ends first, where there is room."""
    points = [(one.value, other.value) for one, other in zip(across, up, strict=True)]
    places = axes.transData.transform(points) * 72 / axes.figure.dpi
    taken: list[np.ndarray] = []
    last = len(strengths) - 1
    for index in dict.fromkeys((last, 0, *range(last - 1, 0, -1))):
        if any((np.abs(place - places[index]) < _APART).all() for place in taken):
            continue
        taken.append(places[index])
        axes.annotate(
            format_strength(strengths[index]),
            points[index],
            xytext=(5, 4),
            textcoords="offset points",
            color=INK,
            fontsize=8.5,
            zorder=5,
        )


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # dollar signs would start a formula
