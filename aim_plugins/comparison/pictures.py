"""The differences of each metric, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aim_plugins.sweep.contrasts import Contrast, place_text
from aim_plugins.sweep.figures import BLUE, DPI, GREY, SIZE, STYLE, render, wrap_label

_MOST_LINES = 40
_LINE_INCHES = 0.26


def draw_differences(
    found: Sequence[Contrast], first: str, second: str
) -> dict[str, dict[str, bytes]]:
    """Draws the differences of each metric, a line for each task and strength.

    Those that are clear are filled. Of more than 40 the first are drawn; the table has all.

    Args:
        found: The differences.
        first: What counts as plain, for the axis.
        second: What is compared with it.

    Returns:
        By metric, the content of its picture's files by suffix.
    """
    metrics = dict.fromkeys(one.metric for one in found)
    return {
        metric: _draw([one for one in found if one.metric == metric][:_MOST_LINES], first, second)
        for metric in metrics
    }


def _draw(found: Sequence[Contrast], first: str, second: str) -> dict[str, bytes]:
    with matplotlib.rc_context(STYLE):
        height = max(1.6, 1.1 + _LINE_INCHES * len(found))
        figure = Figure(figsize=(SIZE[0], height), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=GREY, linewidth=1)
        for place, one in enumerate(found):
            told = one.difference
            ends = np.nan_to_num([told.low, told.high], nan=told.value)
            axes.plot(ends, [place, place], color=BLUE, linewidth=1.5)
            face = BLUE if one.is_clear else "white"
            axes.plot(told.value, place, "o", color=BLUE, markersize=5, markerfacecolor=face)
        axes.set_yticks(range(len(found)), [_label(one) for one in found])
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.set_xlabel(wrap_label(f"{found[0].metric}: {second} less {first}"))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_title("filled where clear (Holm's p below 0.05)", fontweight="normal", fontsize=9)
        return render(figure)


def _label(one: Contrast) -> str:
    here, there = place_text(one.strengths), place_text(one.reference)
    return f"{one.task}, {here}" if here == there else f"{one.task}, {here} against {there}"
