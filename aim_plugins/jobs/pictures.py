"""A picture for each metric of each task: a line for each job that measured it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from aim_plugins.core.strengths import Axis
from aim_plugins.sweep.figures import DPI, STYLE, look, render, wrap_label
from aim_plugins.sweep.intervals import point_intervals
from aim_plugins.sweep.table import Point

_SIZE = (7.2, 4.0)  # inches
_FAINT = 0.12


def draw(lines: Mapping[str, Sequence[Point]], axis: Axis) -> dict[str, bytes]:
    """Draws one metric of one task against the strength, in 95 % bands.

    Args:
        lines: Points of each job, by rising strength; at least one job.
        axis: The strength.

    Returns:
        The content of the picture's files by suffix.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=_SIZE, dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        for index, (label, points) in enumerate(lines.items()):
            colour, marker = look(index)
            strengths = [point.strength for point in points]
            ends = [
                (low, high) if math.isfinite(low) and math.isfinite(high) else (math.nan, math.nan)
                for low, high in point_intervals(points)
            ]
            axes.fill_between(
                strengths, [low for low, _ in ends], [high for _, high in ends],
                color=colour, alpha=_FAINT, linewidth=0,
            )  # fmt: skip
            axes.plot(
                strengths, [point.value for point in points],
                color=colour, marker=marker, markersize=3.5, linewidth=1.5,
                label=label.replace("$", r"\$"),  # a formula would begin there
            )  # fmt: skip
        first = next(iter(lines.values()))[0]
        axes.set_title(f"{first.task}, {first.metric}".replace("$", r"\$"))
        axes.set_xlabel(wrap_label(axis.label))
        axes.set_ylabel(first.metric.replace("$", r"\$"))
        axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), handlelength=1.6)
        return render(figure)
