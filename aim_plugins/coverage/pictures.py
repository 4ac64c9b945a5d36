"""Pictures of coverage: against random suites, by layer and class, and along the suite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from aim_plugins.coverage.results import IMAGES, NOISE, TRAINING, Result, Words, show_value
from aim_plugins.sweep.figures import BLUE, DPI, GREY, INK, SIZE, STYLE, VERMILLION, render

_COLUMNS = 4
_NAMES = 40
"""Rows of a heat map that are named; of more, evenly chosen ones are."""
_WRITTEN = 24
"""A heat map of more rows has colours alone."""


def draw_comparison(results: Sequence[Result], words: Words = IMAGES) -> dict[str, bytes]:
    """Draws each criterion on a line of its own, from 0 to what any suite of the size can reach.

    Args:
        results: The criteria.
        words: What random suites consist of.

    Returns:
        The content of the picture's files by suffix.
    """
    with matplotlib.rc_context(STYLE):
        height = 0.34 * len(results) + 0.9
        figure = Figure(figsize=(SIZE[0] + 1, height), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        for place, one in enumerate(results):
            _draw_line(axes, place, one)
        axes.set_yticks(range(len(results)), [one.label for one in results])
        axes.set_ylim(len(results) - 0.5, -0.6)
        axes.set_xlim(-0.02, 1.3)
        axes.set_xticks([0, 0.5, 1], ["0", "half", "most"])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        handles = [axes.plot([], [], "o", color=BLUE, label="suite")[0]]
        kinds = {kind for one in results for kind in one.random}
        if TRAINING in kinds:
            handles += axes.plot([], [], "|", color=GREY, markersize=10, label=words.training)
        if NOISE in kinds:
            handles += axes.plot([], [], "x", color=VERMILLION, label=words.noise)
        figure.legend(handles=handles, loc="outside upper left", ncols=3)
        return render(figure)


def _draw_line(axes: Axes, place: int, one: Result) -> None:
    most = scale_of(one)
    axes.hlines(place, 0, 1, color="#E6E6E6", linewidth=1, zorder=0)
    for kind, mark, colour in ((TRAINING, "|", GREY), (NOISE, "x", VERMILLION)):
        if kind not in one.random or most == 0:
            continue
        spread = one.random[kind]
        low, high = (min(max(end / most, 0), 1.05) for end in (spread.low, spread.high))
        if math.isfinite(spread.low):
            axes.hlines(place, low, high, color=colour, linewidth=5, alpha=0.25, zorder=1)
        axes.plot(spread.mean / most, place, mark, color=colour, markersize=8, zorder=2)
    if most:
        axes.plot(one.value / most, place, "o", color=BLUE, markersize=5, zorder=3)
    text = show_value(one.value, one.unit)
    if math.isfinite(one.ceiling):
        text += f" of {show_value(most, one.unit)}"
    axes.text(1.06, place, text, va="center", fontsize=8, color=INK)


def scale_of(one: Result) -> float:
    """What a criterion's line ends at: its ceiling, or the largest value where there is none."""
    if math.isfinite(one.ceiling):
        return one.ceiling
    means = [spread.mean for spread in one.random.values()]
    return max([one.value, *means, 0.0])


def draw_heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    *,
    noun: str,
) -> dict[str, bytes]:
    """Draws values of rows and columns; each column has the colours of its own range.

    Args:
        rows: Their names, such as layers.
        columns: Names of criteria.
        values: [rows][columns]; NaN where a criterion says nothing of a row.
        noun: What a row is.

    Returns:
        The content of the picture's files by suffix.
    """
    table = np.array(values, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        most = np.nanmax(np.where(np.isfinite(table), table, np.nan), axis=0)
        # Of a column of zeros, every row is the lowest.
        scaled = np.where(most > 0, table / most, np.where(np.isfinite(table), 0.0, np.nan))
    with matplotlib.rc_context(STYLE | {"font.size": 8}):
        size = (1.6 + 0.62 * len(columns) + 0.9, 0.9 + 0.24 * min(len(rows), _NAMES))
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(scaled, aspect="auto", cmap="cividis", vmin=0, vmax=1)
        axes.set_xticks(range(len(columns)), columns)
        axes.xaxis.tick_top()
        step = -(-len(rows) // _NAMES)
        named = range(0, len(rows), step)
        axes.set_yticks(named, [_shorten(rows[place]) for place in named])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if len(rows) <= _WRITTEN:
            for (row, column), value in np.ndenumerate(table):
                if math.isfinite(value):
                    dark = scaled[row, column] < 0.6
                    axes.text(
                        column,
                        row,
                        show_value(value),
                        ha="center",
                        va="center",
                        fontsize=7,
                        color="white" if dark else INK,
                    )
        bar = figure.colorbar(image, ax=axes, shrink=0.6, ticks=[0, 1])
        bar.ax.set_yticklabels(["0", f"highest {noun}"])
        bar.outline.set_visible(False)
        return render(figure)


def draw_growth(
    growth: Sequence[Mapping[str, float]], results: Sequence[Result]
) -> dict[str, bytes]:
    """Draws coverage against the number of inputs, in the random order of measuring.

    Args:
        growth: Values by label at rising sizes of the suite, with "inputs".
        results: The criteria, with random suites of the whole size.

    Returns:
        The content of the picture's files by suffix.
    """
    columns = min(_COLUMNS, len(results))
    rows = -(-len(results) // columns)
    inputs = [one["inputs"] for one in growth]
    with matplotlib.rc_context(STYLE | {"font.size": 8}):
        size = (1.9 * columns + 0.3, 1.35 * rows + 0.6)
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
        grid.flat[0].set_xscale("log")  # the axis of all
        for place, one in enumerate(results):
            axes = grid.flat[place]
            axes.xaxis.set_minor_locator(NullLocator())  # dozens of marks in each small panel
            axes.plot(inputs, [point[one.label] for point in growth], color=BLUE, linewidth=1.6)
            if (spread := one.random.get(TRAINING)) is not None and math.isfinite(spread.low):
                axes.errorbar(
                    inputs[-1:],
                    [spread.mean],
                    yerr=[[spread.mean - spread.low], [spread.high - spread.mean]],
                    fmt="_",
                    color=GREY,
                    markersize=7,
                )
            axes.set_ylim(bottom=0)
            axes.set_title(one.label, fontsize=9)
        for axes in grid.flat[len(results) :]:
            axes.set_visible(False)
        figure.supxlabel("inputs, in random order", fontsize=9)
        return render(figure)


def _shorten(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"
