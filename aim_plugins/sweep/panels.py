"""Tasks that are parts of another, such as the classes of a data set: one panel under their task.

A few are small multiples, pictures of one kind on common axes; many are lines of a heat map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import matplotlib
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from aim_plugins.core.strengths import Axis
from aim_plugins.sweep.figures import DPI, GREY, SIZE, STYLE, render
from aim_plugins.sweep.heat_maps import draw_heat_map
from aim_plugins.sweep.plots import (
    Curve,
    describe_sample,
    draw_series,
    is_share,
    limit_shares,
    limit_strengths,
    share_limits,
)
from aim_plugins.sweep.table import Point

MANY = 24
"""More parts than this are a heat map."""
_COLUMNS = 5


@dataclass(frozen=True)
class Parts:
    """Which tasks of a sweep are parts of another one.

    Attributes:
        noun: What a part is, such as "class".
        owners: The task that a part belongs to, whose name that of the part starts with.
    """

    noun: str = "part"
    owners: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """One metric of all parts of a task.

    Attributes:
        task: The task.
        metric: The metric's family.
        noun: What a part is.
        curves: The curve of each part, by its name.
    """

    task: str
    metric: str
    noun: str
    curves: Mapping[str, Curve]

    @property
    def many(self) -> bool:
        """Whether the parts are too many for a picture each."""
        return len(self.curves) > MANY

    @property
    def lines(self) -> dict[str, list[Point]]:
        """The law of each part, or its samples, at all strengths; NaN where a part has none."""
        lines = {name: curve.exact or curve.sampled for name, curve in self.curves.items()}
        strengths = sorted({point.strength for line in lines.values() for point in line})
        found = {name: {point.strength: point for point in line} for name, line in lines.items()}
        return {
            name: [
                line.get(strength, Point(name, self.metric, strength, math.nan, None, 0, 0))
                for strength in strengths
            ]
            for name, line in found.items()
        }

    @property
    def limits(self) -> tuple[float, float] | None:
        """The vertical axis that all parts have in common; None where it follows their values."""
        curves = list(self.curves.values())
        return share_limits(curves) if all(map(is_share, curves)) else None


def split_panels(curves: Sequence[Curve], parts: Parts) -> tuple[list[Curve], list[Panel]]:
    """Parts curves of tasks from those of their parts, which become panels."""
    own: list[Curve] = []
    panels: dict[tuple[str, str], dict[str, Curve]] = {}
    for curve in curves:
        owner = parts.owners.get(curve.task)
        if owner is None:
            own.append(curve)
        else:
            name = curve.task.removeprefix(f"{owner}.")
            panels.setdefault((owner, curve.metric), {})[name] = curve
    return own, [Panel(*key, parts.noun, members) for key, members in panels.items()]


def draw_panel(panel: Panel, axis: Axis) -> dict[str, bytes]:
    """Draws the parts of a task.

    Returns:
        The content of the picture's files by suffix, `png` and `svg`.
    """
    title = f"{panel.task}: {panel.metric} by {panel.noun}"
    if panel.many:
        points = [replace(point, task=name) for name, line in panel.lines.items() for point in line]
        return draw_heat_map(points, axis=axis, title=title)
    columns = min(_COLUMNS, len(panel.curves))
    rows = -(-len(panel.curves) // columns)
    size = max(SIZE[0], 1.75 * columns + 0.6), 1.2 + (1.5 if rows > 1 else 2.1) * rows
    with matplotlib.rc_context(STYLE | {"font.size": 8}):
        figure = Figure(figsize=size, dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.1))
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for place, (name, curve) in enumerate(panel.curves.items()):
            axes = grid.flat[place]
            draw_series(axes, curve)
            # Dollar signs would start a formula.
            axes.set_title(name.replace("$", r"\$"), fontsize=9, fontweight="normal")
            sample = describe_sample(curve)
            axes.set_title(sample, loc="right", fontsize=7, fontweight="normal", color=GREY)
            axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.tick_params(length=3, labelbottom=place + columns >= len(panel.curves))
        curves = list(panel.curves.values())
        limit_strengths(grid[0, 0], curves)
        limit_shares(grid[0, 0], curves)
        for axes in grid.flat[len(panel.curves) :]:
            axes.set_visible(False)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), fontsize=8)
        figure.suptitle(
            title.replace("$", r"\$"), x=0.01, ha="left", fontsize=11, fontweight="bold"
        )
        figure.supxlabel(axis.label, fontsize=9)
        return render(figure)
