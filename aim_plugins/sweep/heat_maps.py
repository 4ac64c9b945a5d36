"""Heat maps: one metric of many tasks against a strength, or of one task against two strengths."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from aim_plugins.core.files import safe_name, write_atomic
from aim_plugins.core.strengths import Axis, format_strength
from aim_plugins.sweep.figures import DPI, GREY, SIZE, STYLE, render, wrap_label
from aim_plugins.sweep.plots import Curve, describe_sample, logarithmic
from aim_plugins.sweep.table import Point

_TICKS = 8
"""So many strengths have a tick each."""

_NAMES = 40
"""Names beside a heat map; of more tasks, evenly chosen ones are named."""

_LARGEST = 20.0
"""Inches that a matrix is wide or high at most."""

_WRITTEN_CELLS = 150
"""A grid of more cells has colours alone."""


@dataclass(frozen=True)
class Grid:
    """One metric of one task over two strengths.

    Attributes:
        task: Name of the task.
        metric: Name of the metric; that of an exact law is a grid of its own.
        points: Its points by (second strength, strength).
    """

    task: str
    metric: str
    points: dict[tuple[float, float], Point]

    @property
    def strengths(self) -> list[float]:
        """Strengths along the first axis, rising."""
        return sorted({strength for _, strength in self.points})

    @property
    def second_strengths(self) -> list[float]:
        """Strengths along the second axis, rising."""
        return sorted({second for second, _ in self.points})

    @property
    def values(self) -> list[list[float]]:
        """Values [second strengths][strengths]; NaN where one is missing."""
        return [
            [
                self.points[second, strength].value
                if (second, strength) in self.points
                else math.nan
                for strength in self.strengths
            ]
            for second in self.second_strengths
        ]

    @property
    def curve(self) -> Curve:
        """All its points as one curve, which has their counts and their range."""
        return Curve(self.task, self.metric, sampled=list(self.points.values()))


def group_grids(points: Iterable[Point]) -> list[Grid]:
    """Groups the points of a sweep over two strengths by task and metric."""
    grids: dict[tuple[str, str], Grid] = {}
    for point in points:
        key = (point.task, point.metric)
        grid = grids.setdefault(key, Grid(*key, {}))
        grid.points[point.second_strength or 0.0, point.strength] = point
    return list(grids.values())


def plot_grids(
    points: Iterable[Point], folder: str | Path, *, axes: tuple[Axis, Axis]
) -> list[Path]:
    """Draws a heat map for each task and metric of a sweep over two strengths.

    Args:
        points: The points, each with both strengths.
        folder: Where the pictures go; made if missing.
        axes: What the strengths are, the horizontal one first.

    Returns:
        The files, a PNG and an SVG each.

    Raises:
        OSError: If a file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    grids = group_grids(points)
    written = []
    for grid, log in zip(grids, logarithmic([grid.curve for grid in grids]), strict=True):
        stem = safe_name(f"{safe_name(grid.task)}-{safe_name(grid.metric)}")
        for suffix, content in _draw_grid(grid, axes, log).items():
            written.append(write_atomic(folder / f"{stem}.{suffix}", content))
    return written


def _draw_grid(grid: Grid, axes: tuple[Axis, Axis], log: bool) -> dict[str, bytes]:
    values = np.array(grid.values)
    return draw_matrix(
        values,
        [format_strength(one) for one in grid.second_strengths],
        [format_strength(one) for one in grid.strengths],
        title=f"{grid.metric} of {grid.task}",
        note=describe_sample(grid.curve),
        labels=(wrap_label(axes[0].label), axes[1].label),
        norm=_norm(grid.curve, values, log),
    )


def draw_matrix(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    note: str,
    norm: Normalize,
    labels: tuple[str, str] = ("", ""),
    slanted: bool = False,
) -> dict[str, bytes]:
    """Draws a matrix as colours, with its numbers where there are few.

    Args:
        values: The numbers [rows, columns]; NaN leaves a cell empty.
        rows: What each row is called, from below.
        columns: What each column is called.
        title: What it shows.
        note: Below the title.
        norm: Which numbers the ends of the colours stand for.
        labels: What columns and rows are.
        slanted: Whether columns have names too long to stand side by side.

    Returns:
        The content of the picture's files by suffix, `png` and `svg`.
    """
    with matplotlib.rc_context(STYLE):
        height = min(_LARGEST, max(SIZE[1], 1.5 + 0.36 * len(rows)))
        width = min(_LARGEST, max(SIZE[0], 1.6 + 0.5 * len(columns)))
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        plot = figure.add_subplot()
        mesh = plot.pcolormesh(values, cmap="viridis", norm=norm)
        turned: Any = {"rotation": 30, "ha": "right"} if slanted else {}
        plot.set_xticks(*_ticks(columns), **turned)
        plot.set_yticks(*_ticks(rows))
        plot.tick_params(length=0)
        if values.size <= _WRITTEN_CELLS:
            _write_values(plot, values, mesh)
        plot.set_xlabel(labels[0])
        plot.set_ylabel(labels[1])
        _title(plot, title, note)
        plot.spines[:].set_visible(False)
        figure.colorbar(mesh, ax=plot, pad=0.02, aspect=30).outline.set_visible(False)
        return render(figure)


def _ticks(names: Sequence[str]) -> tuple[list[float], list[str]]:
    """Where names stand beside a matrix; of many, evenly chosen ones."""
    shown = range(0, len(names), -(-len(names) // _NAMES))
    # Dollar signs would start a formula.
    return [place + 0.5 for place in shown], [names[place].replace("$", r"\$") for place in shown]


def _norm(curve: Curve, values: np.ndarray, log: bool) -> Normalize:
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    if log:
        return LogNorm(low, high)
    if low >= 0 and high <= 1:
        return Normalize(0, 1)
    return Normalize(low, high)


def _write_values(plot: Axes, values: np.ndarray, mesh: Any) -> None:
    for (row, column), value in np.ndenumerate(values):
        if math.isfinite(value):
            bright = mesh.norm(value) > 0.6
            text = f"{value:.3g}" if abs(value) >= 1 else f"{value:.2f}"
            plot.text(
                column + 0.5,
                row + 0.5,
                text,
                ha="center",
                va="center",
                fontsize=8,
                color="black" if bright else "white",
            )


def _title(plot: Axes, title: str, note: str) -> None:
    # Dollar signs would start a formula.
    plot.set_title(title.replace("$", r"\$"), pad=18)
    below = plot.annotate(
        note,
        (0, 1),
        xytext=(0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        color=GREY,
        fontsize=9,
    )
    # A long note would make room for itself by narrowing the matrix.
    below.set_in_layout(False)


def draw_heat_map(points: Iterable[Point], *, axis: Axis, title: str) -> dict[str, bytes]:
    """Draws one metric of many tasks against strength, a line of colours for each task.

    Args:
        points: Points of one metric between 0 and 1; all tasks have the same strengths. The part of
            a task's name that all share is left out.
        axis: The strength.
        title: What it shows.

    Returns:
        The content of the picture's files by suffix, `png` and `svg`.

    Raises:
        ValueError: If there are no points, or a task lacks a strength.
    """
    rows: dict[str, list[Point]] = {}
    for point in points:
        rows.setdefault(point.task, []).append(point)
    for row in rows.values():
        row.sort(key=lambda point: point.strength)
    strengths = [point.strength for point in next(iter(rows.values()), [])]
    if not strengths or any([p.strength for p in row] != strengths for row in rows.values()):
        raise ValueError("points hold no task, or tasks of different strengths: give a whole sweep")
    values = np.array([[point.value for point in row] for row in rows.values()])
    with matplotlib.rc_context(STYLE):
        height = min(10.0, max(SIZE[1], 1.4 + 0.24 * len(rows)))
        figure = Figure(figsize=(SIZE[0], height), dpi=DPI, layout="constrained")
        plot = figure.add_subplot()
        _draw_tasks(plot, strengths, values, _without_shared_prefix(list(rows)))
        plot.set_title(wrap_label(title.replace("$", r"\$")))
        plot.set_xlabel(wrap_label(axis.label))
        return render(figure)


def _draw_tasks(
    plot: Axes, strengths: Sequence[float], values: np.ndarray, names: Sequence[str]
) -> None:
    middles = np.array(strengths)
    # A cell reaches half way to its neighbours, which need not be equally far.
    inner = (middles[1:] + middles[:-1]) / 2
    first = 2 * middles[0] - inner[0] if len(inner) else middles[0] - 0.5
    last = 2 * middles[-1] - inner[-1] if len(inner) else middles[-1] + 0.5
    edges = np.concatenate([[first], inner, [last]])
    mesh = plot.pcolormesh(
        edges,
        np.arange(len(names) + 1) - 0.5,
        values,
        vmin=0,
        vmax=1,
        cmap="viridis",
        rasterized=True,
    )
    plot.invert_yaxis()
    # The outer cells reach beyond the strengths, to where none was measured.
    between = [one for one in plot.get_xticks() if middles[0] <= one <= middles[-1]]
    plot.set_xticks(strengths if len(strengths) <= _TICKS else between)
    plot.set_xlim(first, last)
    step = -(-len(names) // _NAMES)
    shown = range(0, len(names), step)
    # Dollar signs would start a formula.
    labels = [names[index].replace("$", r"\$") for index in shown]
    plot.set_yticks(list(shown), labels, fontsize=8)
    plot.tick_params(length=0)
    plot.figure.colorbar(mesh, ax=plot, pad=0.02, aspect=30).outline.set_visible(False)


def _without_shared_prefix(names: Sequence[str]) -> list[str]:
    shared = len(os.path.commonprefix(list(names)).rpartition(".")[0])
    return [name[shared + 1 :] if shared else name for name in names]
