"""Pictures of an order of inputs: what it covers, and which mistakes it finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from aim_plugins.coverage.settings import GINI
from aim_plugins.sweep.figures import BLUE, DPI, GREY, SIZE, STYLE, VERMILLION, render


def draw_order(
    coverage: Mapping[str, Sequence[float]],
    faults: Mapping[str, Sequence[float]],
    *,
    criterion: str,
    taken: str = "inputs labelled",
) -> dict[str, bytes]:
    """Draws coverage, and where labels are known mistakes found, against inputs labelled.

    Args:
        coverage: Curves "inputs", "coverage", "random", "low" and "high", and "DeepGini" if there
            is one.
        faults: The same of mistakes found; empty without labels.
        criterion: What is covered.
        taken: What is done with the inputs.

    Returns:
        The content of the picture's files by suffix.
    """
    shown = [(coverage, criterion)] + ([(faults, "mistakes found")] if faults else [])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0] * 0.75 * len(shown), 3.2), dpi=DPI, layout="constrained")
        grid = figure.subplots(1, len(shown), squeeze=False)
        for axes, (curves, name) in zip(grid.flat, shown, strict=True):
            inputs = curves["inputs"]
            axes.fill_between(inputs, curves["low"], curves["high"], color=GREY, alpha=0.2, lw=0)
            axes.plot(inputs, curves["random"], color=GREY, lw=1.2, label="random, 95 % of orders")
            if GINI in curves:
                axes.plot(inputs, curves[GINI], color=VERMILLION, ls=(0, (5, 2)), label=GINI)
            axes.plot(inputs, curves["coverage"], color=BLUE, label=f"gain in {criterion}")
            axes.set_title(name)
            axes.set_xlabel(taken)
            axes.set_ylim(bottom=0)
        grid[0, 0].legend(loc="lower right", fontsize=8)
        return render(figure)
