"""The picture of what important neurons are worth, against random ones."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aim_plugins.coverage.relevance.effects import Drop, Effect
from aim_plugins.sweep.figures import BLUE, DPI, GREY, STYLE, VERMILLION, render

_COLUMNS = 3
_APART = 0.12
"""How far marks of the same number of neurons stand apart, in places of the axis."""


def draw_effects(effects: Sequence[Effect]) -> dict[str, bytes]:
    """Draws the drop of accuracy against the number of neurons, a panel for each attributor.

    Args:
        effects: Of every attributor at every number of neurons.

    Returns:
        The content of the picture's files by suffix.
    """
    names = list(dict.fromkeys(one.attributor for one in effects))
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    with matplotlib.rc_context(STYLE):
        size = (2.6 * columns + 1.2 + (1.4 if columns == 1 else 0), 2.5 * rows + 0.9)
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            _draw_panel(axes, [one for one in effects if one.attributor == name])
            axes.set_title(name)
        for axes in grid.flat[len(names) :]:
            axes.set_visible(False)
        figure.supxlabel("neurons taken out", fontsize=10)
        figure.supylabel("drop of accuracy", fontsize=10)
        marks = ((BLUE, "o", "most relevant"), (VERMILLION, "D", "random, same layers"))
        handles = [
            grid.flat[0].plot([], [], mark, color=colour, markersize=5, label=label)[0]
            for colour, mark, label in (*marks, (GREY, "s", "random, network"))
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=3 if columns > 1 else 2)
        return render(figure)


def _draw_panel(axes: Axes, effects: Sequence[Effect]) -> None:
    axes.axhline(0, color="#E6E6E6", linewidth=1, zorder=0)
    for place, one in enumerate(effects):
        for shift, colour, draws in ((0, VERMILLION, one.matched), (_APART, GREY, one.random)):
            axes.plot([place + shift] * len(draws), draws, ".", color=colour, alpha=0.35, zorder=1)
    series = (
        (-_APART, BLUE, "o", [one.drop for one in effects]),
        (0, VERMILLION, "D", [Drop.mean_of(one.matched) for one in effects]),
        (_APART, GREY, "s", [Drop.mean_of(one.random) for one in effects]),
    )
    for shift, colour, mark, drops in series:
        axes.errorbar(
            [place + shift for place in range(len(drops))],
            [one.value for one in drops],
            yerr=[[one.value - one.low for one in drops], [one.high - one.value for one in drops]],
            fmt=f"{mark}-",
            color=colour,
            markersize=4,
            linewidth=1.2,
            elinewidth=1,
            zorder=2,
        )
    axes.set_xticks(range(len(effects)), [str(one.neurons) for one in effects])
    axes.set_xlim(-0.4, len(effects) - 0.6)


def spread_text(values: Sequence[float]) -> str:
    """Random choices for a table: their mean, least and most.

    >>> spread_text([0.25, 0.75])
    '0.500 [0.250, 0.750]'
    """
    return f"{statistics.fmean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"
