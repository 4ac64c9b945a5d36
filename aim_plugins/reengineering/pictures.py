"""The picture of a curve: accuracy against the share of neurons that are kept."""

from __future__ import annotations

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aim_plugins.reengineering.curve import Curve
from aim_plugins.sweep.figures import BLUE, DPI, GREY, INK, SIZE, STYLE, VERMILLION, render


def draw_accuracy(curve: Curve, task: str) -> dict[str, bytes]:
    """Draws accuracies on the test documents, with those of removal at random.

    Args:
        curve: The models.
        task: The task.

    Returns:
        The content of the picture's files by suffix.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        _draw_path(axes, curve)
        for place, step in enumerate(curve.steps):
            values = [one.accuracy for one in step.removals]
            axes.plot([step.share] * len(values), values, "x", color=VERMILLION, markersize=5)
            if place == 0:
                axes.plot([], [], "x", color=VERMILLION, label="removed at random, each draw")
        chosen = curve.steps[curve.selected]
        axes.plot(
            chosen.share, chosen.test.accuracy, "o", color=BLUE, markersize=11, fillstyle="none",
            label="chosen on validation documents",
        )  # fmt: skip
        axes.axhline(curve.whole.test.chance, color=GREY, linestyle=":", linewidth=1)
        axes.text(1.0, curve.whole.test.chance + 0.01, "guessing", color=INK, fontsize=8, ha="left")
        axes.invert_xaxis()
        axes.set_ylim(0, 1.04)
        axes.set_xlabel(_what_is_kept(curve))
        axes.set_ylabel(f"accuracy, {len(curve.whole.test.right)} held-out documents")
        axes.set_title(task)
        axes.legend(loc="lower left")
        return render(figure)


def draw_others(curve: Curve, task: str) -> dict[str, bytes]:
    """Draws the accuracies of the same models on the task and on others."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        _draw_path(axes, curve, task)
        colours = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
        steps = [curve.whole, *curve.steps]
        shares = [one.share for one in steps]
        for place, name in enumerate(curve.whole.others):
            answers = [one.others[name] for one in steps]
            colour = colours[place % len(colours)]
            axes.plot(shares, [one.accuracy for one in answers], "s-", color=colour, label=name)
            low, high = zip(*(one.interval for one in answers), strict=True)
            axes.fill_between(shares, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.invert_xaxis()
        axes.set_ylim(0, 1.04)
        axes.set_xlabel(f"{_what_is_kept(curve)}, ranked for {task}")
        axes.set_ylabel("accuracy")
        axes.legend(loc="lower left")
        return render(figure)


def _draw_path(axes: Axes, curve: Curve, label: str = "ranked by importance for the task") -> None:
    steps = [curve.whole, *curve.steps]
    shares = [one.share for one in steps]
    values = [one.test.accuracy for one in steps]
    low, high = zip(*(one.test.interval for one in steps), strict=True)
    axes.plot(shares, values, "o-", color=BLUE, label=label)
    axes.fill_between(shares, low, high, color=BLUE, alpha=0.15, linewidth=0)
    counts = [f"\n{one.head_groups}" * bool(curve.whole.head_groups) for one in steps]
    axes.set_xticks(shares, [f"{one:g}{heads}" for one, heads in zip(shares, counts, strict=True)])


def _what_is_kept(curve: Curve) -> str:
    """What stands at the ticks: of heads the count, as a share of few is rounded up."""
    heads = curve.whole.head_groups
    return "share of neurons kept" + f"; below, key-value heads of {heads}" * bool(heads)
