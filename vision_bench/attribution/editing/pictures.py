"""Pictures of an edit: how its size was chosen, what each strength does, and where it lies."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
    wrap_label,
)
from aim_plugins.sweep.paired import Interval
from vision_bench.attribution.editing.choices import EDITED, RANDOM, TUNED, WHOLE
from vision_bench.attribution.editing.findings import Findings

_ORANGE, _GREEN, _PURPLE, _SKY = "#E69F00", "#009E73", "#CC79A7", "#56B4E9"
_SERIES = (BLUE, VERMILLION, _GREEN, _ORANGE, _PURPLE, _SKY, GREY)
_MARKS = {
    WHOLE: (INK, "o"),
    EDITED: (BLUE, "D"),
    RANDOM: (GREY, "s"),
    TUNED: (VERMILLION, "^"),
}


def draw_choice(found: Findings) -> dict[str, bytes]:
    """Draws what every edit that was tried reaches on the images that select.

    Returns:
        The content of the picture's files by suffix.
    """
    choice, goal = found.choice, found.problem.goal
    orders = list(dict.fromkeys(one.order for one in found.trials))
    series = {
        goal.words: (BLUE, [one.goal for one in choice.scores], choice.before.goal),
        f"{' and '.join(goal.rest)}: right": (
            VERMILLION,
            [one.rest for one in choice.scores],
            choice.before.rest,
        ),
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], SIZE[1] + 0.6), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        for name, (colour, values, before) in series.items():
            axes.axhline(before, color=colour, linewidth=1, linestyle="--", alpha=0.6)
            for number, order in enumerate(orders):
                places = [at for at, one in enumerate(found.trials) if one.order == order]
                axes.plot(
                    [len(found.trials[at].components) for at in places],
                    [values[at] for at in places],
                    "o-" if number == 0 else "s:", color=colour, markersize=4.5, linewidth=1.2,
                    label=f"{name} ({order})",
                )  # fmt: skip
        least = choice.before.rest - choice.tolerance
        axes.axhline(least, color=GREY, linewidth=1, linestyle=":", label="the rest, at least")
        chosen = found.trials[choice.chosen]
        axes.plot(
            [len(chosen.components)], [choice.scores[choice.chosen].goal], "o", markersize=11,
            label="chosen", markerfacecolor="none", markeredgecolor=BLUE, markeredgewidth=1.5,
            clip_on=False,
        )  # fmt: skip
        if len({len(one.components) for one in found.trials}) > 1:
            axes.set_xscale("log")
            label_decades(axes.xaxis)
        axes.set_xlabel(f"ablated components of {found.total}, logarithmic")
        axes.set_ylabel("share of the images that select")
        axes.set_ylim(-0.02, 1.02)
        figure.legend(loc="outside upper left", ncols=2)
        return render(figure)


def draw_strength(found: Findings) -> dict[str, bytes]:
    """Draws every measure against the strength of the edit.

    Returns:
        The content of the picture's files by suffix.
    """
    strengths = list(found.tested.edited)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], SIZE[1] + 0.4), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        for place, name in enumerate(found.measures):
            points = [found.measure(name, one) for one in found.tested.edited.values()]
            colour = _SERIES[place % len(_SERIES)]
            axes.plot(
                strengths, [one.value for one in points], "o-", color=colour, markersize=4,
                linewidth=1.2, label=name,
            )  # fmt: skip
            axes.fill_between(
                strengths, [one.low for one in points], [one.high for one in points],
                color=colour, alpha=0.15, linewidth=0,
            )  # fmt: skip
        axes.set_xlabel("strength of the edit (1: its components are ablated)")
        axes.set_ylabel("share of the images tested")
        axes.set_ylim(-0.02, 1.02)
        figure.legend(loc="outside upper left", ncols=3)
        return render(figure)


def draw_arms(found: Findings) -> dict[str, bytes]:
    """Draws every measure of every arm.

    Returns:
        The content of the picture's files by suffix.
    """
    measures = found.measures
    arms = [WHOLE, *([RANDOM] if found.tested.random else []), *list(found.tested.arms)[1:]]
    arms.sort(key=list(_MARKS).index)
    with matplotlib.rc_context(STYLE):
        height = 1.1 + 0.19 * len(measures) * (len(arms) + 1)
        figure = Figure(figsize=(SIZE[0], height), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        for number, arm in enumerate(arms):
            points = [_measured(found, name, arm) for name in measures]
            at = [place + (number - (len(arms) - 1) / 2) * 0.18 for place in range(len(measures))]
            _draw_points(axes, points, at, arm)
        axes.set_yticks(range(len(measures)), [wrap_label(one) for one in measures])
        axes.set_ylim(len(measures) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.grid(axis="x", color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("share of the images tested")
        figure.legend(loc="outside upper left", ncols=len(arms))
        return render(figure)


def draw_layers(found: Findings) -> dict[str, bytes]:
    """Draws how many components of each layer are ablated, in the order of the model.

    Returns:
        The content of the picture's files by suffix.
    """
    names = list(found.layers)
    counts = [count for count, _ in found.layers.values()]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], 0.9 + 0.19 * len(names)), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(names)), counts, color=BLUE, height=0.7)
        for place, (count, total) in enumerate(found.layers.values()):
            axes.annotate(
                f"{count} of {total}", (count, place), xytext=(3, 0), va="center", fontsize=7,
                textcoords="offset points", color=INK if count else GREY,
            )  # fmt: skip
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, 1.15 * max(counts))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("ablated components")
        return render(figure)


def _measured(found: Findings, name: str, arm: str) -> Interval:
    return found.of_random(name) if arm == RANDOM else found.measure(name, found.tested.arms[arm])


def _draw_points(axes: Axes, points: Sequence[Interval], at: Sequence[float], arm: str) -> None:
    colour, mark = _MARKS[arm]
    low = [max(one.value - one.low, 0) for one in points]
    high = [max(one.high - one.value, 0) for one in points]
    axes.errorbar(
        [one.value for one in points], at, xerr=[low, high], fmt=mark, color=colour, markersize=5,
        elinewidth=1, label=arm,
    )  # fmt: skip
