"""Pictures of the questions' answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

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
)
from aim_plugins.sweep.paired import Interval
from vision_bench.coverage.questions.front import show_number

GREEN = "#009E73"
"""Okabe and Ito's, beside those of `aim_plugins.sweep.figures`."""

_KINDS = {
    "important pixels": (BLUE, "o"),
    "random pixels": (VERMILLION, "s"),
    "real images": (GREY, "D"),
}
_SERIES = (BLUE, VERMILLION, GREEN)


def draw_added(gains: Mapping[str, Mapping[str, Interval]]) -> dict[str, bytes]:
    """Draws what images of each kind add, each criterion on a line and in units of the largest.

    Args:
        gains: By criterion and kind, the coverage added.

    Returns:
        The content of the picture's files by suffix.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure((SIZE[0] + 0.6, 0.42 * len(gains) + 1.1), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color="#BBBBBB", linewidth=1, zorder=0)
        lowest = -0.1
        for place, kinds in enumerate(gains.values()):
            most = max((abs(one.value) for one in kinds.values()), default=0.0)
            for lane, (kind, one) in enumerate(kinds.items()):
                colour, mark = _KINDS[kind]
                _draw_interval(axes, one, place + 0.2 * (lane - 1), most or 1.0, colour, mark)
            axes.text(1.18, place, show_number(most), va="center", fontsize=8, color=INK)
            lowest = min([lowest, *(one.value / (most or 1.0) for one in kinds.values())])
        axes.text(1.18, -0.85, "1 is", fontsize=8, color=INK)
        _name_lines(axes, list(gains))
        axes.set_xlim(lowest - 0.15, 1.15)
        axes.set_xlabel("coverage added to the suite, in units of the largest mean")
        handles = [
            axes.plot([], [], mark, color=colour, markersize=5, label=kind)[0]
            for kind, (colour, mark) in _KINDS.items()
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=3)
        return render(figure)


def draw_changes(
    changes: Mapping[str, Mapping[str, Sequence[Interval]]], shares: Sequence[float], size: int
) -> dict[str, bytes]:
    """Draws NCov against the share that is replaced, a panel for each criterion.

    Args:
        changes: By criterion and by what inputs are replaced by, NCov at each share.
        shares: The shares.
        size: Inputs of a suite.

    Returns:
        The content of the picture's files by suffix.
    """
    with matplotlib.rc_context(STYLE | {"font.size": 8}):
        figure, grid = _panels(len(changes))
        names = list(next(iter(changes.values())))
        colours = dict(zip(names, (GREY, *_SERIES), strict=False))
        for axes, (label, series) in zip(grid, changes.items(), strict=False):
            axes.axhline(0, color="#DDDDDD", linewidth=1, zorder=0)
            for lane, (name, points) in enumerate(series.items()):
                # Side by side, so that no interval hides another.
                shift = 0.13 * (lane - (len(series) - 1) / 2)
                places = [place + shift for place in range(len(points))]
                low, high = [one.low for one in points], [one.high for one in points]
                axes.vlines(places, low, high, color=colours[name], linewidth=1.2)
                values = [one.value for one in points]
                axes.plot(places, values, ".-", color=colours[name], linewidth=0.8, markersize=5)
            axes.set_title(label, fontsize=9)
            axes.set_ylim(-1.05, 1.05)
            axes.set_xticks(range(len(shares)), [f"{100 * one:g}" for one in shares])
        handles = [
            grid[0].plot([], [], color=colour, label=name)[0] for name, colour in colours.items()
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
        figure.supxlabel(f"replaced of {size} inputs, in percent", fontsize=9)
        figure.supylabel("NCov", fontsize=9)
        return render(figure)


@dataclass(frozen=True)
class Correlations:
    """One criterion's correlations, as they are drawn.

    Attributes:
        label: The criterion.
        panels: By what coverage is held against, the correlation under each condition.
    """

    label: str
    panels: Mapping[str, Mapping[str, Interval]]


def draw_correlations(found: Sequence[Correlations]) -> dict[str, bytes]:
    """Draws correlations with their intervals, a panel for what coverage is held against.

    Returns:
        The content of the picture's files by suffix.
    """
    titles = list(found[0].panels)
    conditions = list(next(iter(found[0].panels.values())))
    styles = dict(zip(conditions, ((GREY, "D"), (BLUE, "o"), (VERMILLION, "s")), strict=False))
    with matplotlib.rc_context(STYLE | {"font.size": 9}):
        size = (2.1 * len(titles) + 1.4, 0.42 * len(found) + 1.2)
        figure = Figure(size, dpi=DPI, layout="constrained")
        grid = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
        for axes, title in zip(grid, titles, strict=True):
            axes.axvline(0, color="#BBBBBB", linewidth=1, zorder=0)
            for place, one in enumerate(found):
                for lane, (name, value) in enumerate(one.panels[title].items()):
                    colour, mark = styles[name]
                    _draw_interval(axes, value, place + 0.2 * (lane - 1), 1.0, colour, mark)
            axes.set_xlim(-1.06, 1.06)
            axes.set_title(title, fontsize=9)
            _name_lines(axes, [one.label for one in found])
        figure.supxlabel("Pearson's r with coverage", fontsize=9)
        handles = [
            grid[0].plot([], [], mark, color=colour, markersize=5, label=name)[0]
            for name, (colour, mark) in styles.items()
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
        return render(figure)


def draw_suites(
    points: Mapping[str, Sequence[tuple[float, float, str]]], groups: Sequence[str], noun: str
) -> dict[str, bytes]:
    """Draws coverage of suites against something else, a panel for each criterion.

    Args:
        points: By criterion, (x, coverage, group) of each suite.
        groups: Names of the groups, at most three.
        noun: What x is.

    Returns:
        The content of the picture's files by suffix.
    """
    colours = dict(zip(groups, _SERIES, strict=False))
    with matplotlib.rc_context(STYLE | {"font.size": 8}):
        figure, grid = _panels(len(points))
        for axes, (label, suites) in zip(grid, points.items(), strict=False):
            for group, colour in colours.items():
                own = [(x, y) for x, y, name in suites if name == group]
                axes.plot(*zip(*own, strict=True), ".", color=colour, markersize=5, alpha=0.7)
            axes.set_title(label, fontsize=9)
        handles = [
            grid[0].plot([], [], "o", color=colour, markersize=5, label=name)[0]
            for name, colour in colours.items()
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
        figure.supxlabel(noun, fontsize=9)
        figure.supylabel("coverage", fontsize=9)
        return render(figure)


def draw_costs(
    alone: Mapping[str, Interval], together: Interval, plain: Interval, inputs: int
) -> dict[str, bytes]:
    """Draws CPU seconds of measuring each criterion alone, all in turn, and all in one pass.

    Args:
        alone: By criterion, its seconds with the pass of the model; the median and its extremes.
        together: Those of all in one pass.
        plain: Those of the model alone.
        inputs: Number of images.

    Returns:
        The content of the picture's files by suffix.
    """
    with matplotlib.rc_context(STYLE):
        lines = [*alone.items(), ("all in one pass", together)]
        figure = Figure((SIZE[0] + 0.4, 0.3 * len(lines) + 1.1), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        for place, (label, one) in enumerate(lines):
            colour = BLUE if label in alone else VERMILLION
            _draw_interval(axes, one, place, 1.0, colour, "o")
            text = f"{one.value:.2f}"
            axes.annotate(
                text, (one.high, place), (5, 0), textcoords="offset points", va="center", fontsize=8
            )
        axes.axvline(plain.value, color=GREY, linestyle="--", linewidth=1.2, zorder=0)
        axes.axvspan(plain.low, plain.high, color=GREY, alpha=0.12, linewidth=0, zorder=0)
        axes.annotate(
            f"the model alone, {plain.value:.2f}",
            (plain.high, -0.62),
            (3, 2),
            textcoords="offset points",
            fontsize=8,
            color=GREY,
        )
        _name_lines(axes, [label for label, _ in lines])
        axes.set_ylim(len(lines) - 0.4, -1.0)
        axes.set_xscale("log")
        every = [plain, *(one for _, one in lines)]
        axes.set_xlim(0.8 * min(x.low for x in every), 1.4 * max(x.high for x in every))
        label_decades(axes.xaxis)
        axes.set_xlabel(f"CPU seconds for {inputs} images")
        return render(figure)


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    columns = min(count, 5 if count % 4 == 1 else 4)
    rows = -(-count // columns)
    figure = Figure((1.9 * columns + 0.4, 1.45 * rows + 0.8), dpi=DPI, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    for axes in grid.flat:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return figure, list(grid.flat)


def _draw_interval(
    axes: Axes, one: Interval, place: float, unit: float, colour: str, mark: str
) -> None:
    if not math.isfinite(one.value):
        return
    if math.isfinite(one.low):
        axes.hlines(place, one.low / unit, one.high / unit, color=colour, linewidth=1.4)
    axes.plot(one.value / unit, place, mark, color=colour, markersize=4)


def _name_lines(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
