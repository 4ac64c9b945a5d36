"""The picture of coverage against strength, beside the accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aim_plugins.core.strengths import Axis
from aim_plugins.sweep.figures import BLUE, DPI, GREY, STYLE, render
from aim_plugins.sweep.plots import Curve, group_curves
from aim_plugins.sweep.table import Point

_COLUMNS = 4
_MOST = 16
"""Criteria that are drawn; of more, the first ones."""


def draw_strengths(points: Sequence[Point], axis: Axis, quality: str) -> dict[str, bytes]:
    """Draws each criterion in a panel of its own, and behind it the model's quality.

    Args:
        points: Points of one task.
        axis: The strength.
        quality: The metric that is a share of right answers.

    Returns:
        The content of the picture's files by suffix; empty of a single strength.
    """
    curves = {curve.metric: curve for curve in group_curves(points)}
    right = curves.pop(quality)
    drawn = list(curves.values())[:_MOST]
    if len(right.points) < 2 or not drawn:
        return {}
    columns = min(_COLUMNS, len(drawn))
    rows = -(-len(drawn) // columns)
    with matplotlib.rc_context(STYLE | {"font.size": 8, "axes.titlesize": 9}):
        size = (0.4 + 1.9 * columns, 0.7 + 1.45 * rows)
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten()
        for place, axes in enumerate(grid):
            if place < len(drawn):
                _draw(axes, drawn[place], right, last=place % columns == columns - 1)
                axes.tick_params(labelbottom=place + columns >= len(drawn))
            else:
                axes.set_axis_off()
        handles = [
            grid[0].plot([], [], color=BLUE, label="coverage, left axis")[0],
            grid[0].plot([], [], color=GREY, linestyle=(0, (4, 2)), label="accuracy, right axis")[
                0
            ],
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=2)
        figure.supxlabel(axis.label, fontsize=9)
        return render(figure)


def _draw(axes: Axes, curve: Curve, right: Curve, *, last: bool) -> None:
    """One criterion in front, and the accuracy on an axis from 0 to 1 behind."""
    behind = axes.twinx()
    behind.plot(
        [point.strength for point in right.points],
        [point.value for point in right.points],
        color=GREY,
        linestyle=(0, (4, 2)),
        linewidth=1,
    )
    behind.set_ylim(0, 1.02)
    behind.set_yticks([0, 0.5, 1] if last else [])
    behind.tick_params(length=2, labelcolor=GREY)
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    values = [point.value for point in curve.points]
    axes.plot([point.strength for point in curve.points], values, color=BLUE, linewidth=1.6)
    top = max([*values, 0.0])
    axes.set_ylim(0, 1.15 * top or 1)
    axes.set_title(curve.metric.replace("$", r"\$"))
    axes.tick_params(length=2)
