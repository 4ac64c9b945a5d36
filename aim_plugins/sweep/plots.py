"""Pictures of curves: one PNG and one SVG per task and metric family."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aim_plugins.core.files import safe_name, write_atomic
from aim_plugins.core.strengths import Axis
from aim_plugins.sweep.figures import (
    BLUE,
    DPI,
    GREY,
    INK,
    SIZE,
    STYLE,
    VERMILLION,
    label_decades,
    render,
    wrap_label,
)
from aim_plugins.sweep.intervals import point_intervals, value_range
from aim_plugins.sweep.table import Point, is_expected, is_published, metric_family

_CROWD = 30
"""More points than this are drawn without markers, which would touch and hide the curve."""
_LONG = 50
"""A curve whose largest value is more times its smallest has a logarithmic axis."""


@dataclass
class Curve:
    """What one picture shows: a sampled metric, and where known its law and what others report.

    Attributes:
        task: Name of the task.
        metric: Name of the metric family.
        sampled: Points of the metric itself, by rising strength.
        exact: Points of its exact law, by rising strength.
        published: Points that others report, by rising strength.
    """

    task: str
    metric: str
    sampled: list[Point] = field(default_factory=list)
    exact: list[Point] = field(default_factory=list)
    published: list[Point] = field(default_factory=list)

    @property
    def points(self) -> list[Point]:
        """All points."""
        return self.sampled + self.exact + self.published


def group_curves(points: Iterable[Point]) -> list[Curve]:
    """Groups points by task and metric family, in order of first appearance."""
    curves: dict[tuple[str, str], Curve] = {}
    for point in points:
        key = (point.task, metric_family(point.metric))
        curve = curves.setdefault(key, Curve(*key))
        _series(curve, point.metric).append(point)
    for curve in curves.values():
        for series in (curve.sampled, curve.exact, curve.published):
            series.sort(key=lambda point: point.strength)
    return list(curves.values())


def _series(curve: Curve, metric: str) -> list[Point]:
    if is_published(metric):
        return curve.published
    return curve.exact if is_expected(metric) else curve.sampled


def is_share(curve: Curve) -> bool:
    """Tells whether a curve's measure stays within 0 and 1, as accuracies do."""
    return value_range(curve.points) == (0.0, 1.0)


def logarithmic(curves: Sequence[Curve]) -> list[bool]:
    """Tells for each curve whether its values need a logarithmic axis.

    They do where noise multiplies them, such as a perplexity. Curves of one quantity are read side
    by side: where one needs such an axis all have it that can show all of it on one. Perplexities
    of any kind are one quantity.
    """
    positive = [
        not is_share(curve) and min(_shown_values(curve), default=0.0) > 0 for curve in curves
    ]
    asked = {
        _quantity(curve)
        for curve, fits in zip(curves, positive, strict=True)
        if fits and max(_finite_values(curve)) > _LONG * min(_finite_values(curve))
    }
    return [
        fits and _quantity(curve) in asked for curve, fits in zip(curves, positive, strict=True)
    ]


def _quantity(curve: Curve) -> str:
    return "perplexity" if curve.metric.endswith("perplexity") else curve.metric


def _finite_values(curve: Curve) -> list[float]:
    return [point.value for point in curve.points if math.isfinite(point.value)]


def describe_sample(curve: Curve) -> str:
    """Says on how many documents and draws a curve rests, such as `n = 240, 3 draws`."""
    counts = sorted({point.n for point in curve.sampled + curve.exact or curve.published})
    text = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    draws = max((point.draws for point in curve.sampled), default=0)
    return text if draws <= 1 else f"{text}, {draws} draws"


def plot_curves(
    points: Iterable[Point],
    folder: str | Path,
    *,
    axis: Axis,
    chance: Mapping[tuple[str, str], float] | None = None,
) -> list[Path]:
    """Draws quality against strength.

    Without an exact law the sampled metric is a line in its 95 % band; with one the law is a dashed
    line, and the samples lie over it as points with 95 % error bars. Where points would touch, the
    samples are a line in its band as well, under the dashes. What others report is shown as
    diamonds.

    Args:
        points: Points of any number of tasks and metrics, as `pool_draws` returns them.
        folder: Where the pictures go; made if missing.
        axis: The strength.
        chance: Value of a metric that guessing reaches, by task and metric.

    Returns:
        The files, a PNG and an SVG for each task and metric family. The same points give the same
        bytes.

    Raises:
        ValueError: If there are no points.
        OSError: If a file cannot be written.
    """
    curves = group_curves(points)
    if not curves:
        raise ValueError("points is empty: there is no curve to draw; evaluate at least one task")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    stems: set[str] = set()
    for curve, log in zip(curves, logarithmic(curves), strict=True):
        level = (chance or {}).get((curve.task, curve.metric))
        stem = f"{safe_name(curve.task)}-{safe_name(curve.metric)}"
        if stem in stems:  # "a-b" with "c", and "a" with "b-c"
            stem = safe_name(f"{stem}/{curve.metric}")
        stems.add(stem)
        for suffix, content in draw_curve(curve, axis, level, log=log).items():
            written.append(write_atomic(folder / f"{stem}.{suffix}", content))
    return written


def draw_curve(
    curve: Curve, axis: Axis, chance: float | None = None, *, log: bool = False
) -> dict[str, bytes]:
    """Draws one curve.

    Args:
        curve: What is drawn.
        axis: The strength.
        chance: Value that guessing reaches.
        log: Whether the vertical axis is logarithmic, as `logarithmic` says.

    Returns:
        The content of the picture file by its suffix, `png` and `svg`.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        draw_series(axes, curve)
        if chance is not None:
            axes.axhline(
                chance, color=GREY, linewidth=1, linestyle=(0, (1, 2)), zorder=1, label="chance"
            )
        _label(axes, curve, wrap_label(axis.label))
        _set_limits(axes, curve, log)
        return render(figure)


def draw_series(axes: Axes, curve: Curve) -> None:
    """Draws the law, the samples with their intervals, and what others report."""
    _draw_exact(axes, curve)
    _draw_sampled(axes, curve)
    _draw_published(axes, curve)


def _draw_exact(axes: Axes, curve: Curve) -> None:
    if not curve.exact:
        return
    axes.plot(
        [point.strength for point in curve.exact],
        [_finite(point.value) for point in curve.exact],
        color=VERMILLION,
        linestyle=(0, (5, 2)),
        linewidth=1.8,
        zorder=3,
        label="exact expectation",
    )


def _draw_sampled(axes: Axes, curve: Curve) -> None:
    if not curve.sampled:
        return
    strengths = np.array([point.strength for point in curve.sampled])
    values = np.array([_finite(point.value) for point in curve.sampled])
    low, high = np.array(point_intervals(curve.sampled)).T
    known = bool(np.isfinite(high).any())
    crowded = is_crowded(curve)
    if curve.exact and not crowded:
        axes.errorbar(
            strengths,
            values,
            yerr=np.nan_to_num([values - low, high - values], nan=0.0) if known else None,
            fmt="o",
            markersize=4,
            color=BLUE,
            elinewidth=1,
            zorder=4,
            label="sampled" + (", 95 % interval" if known else ""),
        )
        return
    axes.plot(
        strengths,
        values,
        color=BLUE,
        linewidth=1.8,
        marker="" if crowded else "o",
        markersize=3.5,
        label="sampled" if curve.exact else curve.metric,
    )
    if known:
        axes.fill_between(
            strengths, low, high, color=BLUE, alpha=0.18, linewidth=0, label="95 % interval"
        )


def _draw_published(axes: Axes, curve: Curve) -> None:
    if curve.published:
        axes.plot(
            [point.strength for point in curve.published],
            [_finite(point.value) for point in curve.published],
            color=INK,
            linestyle="",
            marker="D",
            markersize=5,
            markerfacecolor="none",
            zorder=5,
            label="published",
        )


def is_crowded(curve: Curve) -> bool:
    """Tells whether a curve has so many points that their markers would touch."""
    return len(curve.sampled) > _CROWD


def _label(axes: Axes, curve: Curve, strength_label: str) -> None:
    # Dollar signs would start a formula.
    axes.set_title(curve.task.replace("$", r"\$"), pad=18)
    axes.annotate(
        describe_sample(curve),
        (0, 1),
        xytext=(0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        color=GREY,
        fontsize=9,
    )
    axes.set_xlabel(strength_label)
    axes.set_ylabel(curve.metric.replace("$", r"\$"))
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=3)
    axes.legend(loc="best", handlelength=2.2)


def _set_limits(axes: Axes, curve: Curve, log: bool) -> None:
    limit_strengths(axes, [curve])
    if log:
        axes.set_yscale("log")
        label_decades(axes.yaxis)
    else:
        limit_shares(axes, [curve])


def limit_strengths(axes: Axes, curves: Sequence[Curve]) -> None:
    """Lets the horizontal axis end beyond the strengths of some curves."""
    strengths = [point.strength for curve in curves for point in curve.points]
    margin = 0.02 * (max(strengths) - min(strengths)) or 0.5
    axes.set_xlim(min(strengths) - margin, max(strengths) + margin)


def limit_shares(axes: Axes, curves: Sequence[Curve]) -> None:
    """Starts the vertical axis of shares at zero: a cut one would make small changes look large."""
    if all(map(is_share, curves)):
        axes.set_ylim(share_limits(curves))


def share_limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """The vertical axis of some shares, which holds their intervals."""
    top = max((value for curve in curves for value in _shown_values(curve)), default=1.0)
    return 0.0, min(1.02, 1.15 * top or 1.02)


def _shown_values(curve: Curve) -> list[float]:
    """All that a picture has to hold: values and ends of intervals."""
    ends = [end for pair in point_intervals(curve.sampled) for end in pair]
    return [end for end in ends if math.isfinite(end)] + _finite_values(curve)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan  # a gap in the line
