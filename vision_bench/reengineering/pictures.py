"""Pictures of a module: accuracy against what is retained, and how training got there."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
from vision_bench.reengineering.controls import MAGNITUDE, RANDOM
from vision_bench.reengineering.findings import (
    BASELINES,
    NEW_HEAD,
    RESTRICTED,
    WHOLE,
    Findings,
    Held,
)
from vision_bench.reengineering.smaller import MASKED, REMOVED, Smaller

_DECADES = 4.0
"""A largest share of so many times the smallest one needs a logarithmic axis."""
_GREEN = "#009E73"
_MARKS = {MAGNITUDE: (VERMILLION, "D"), RANDOM: (GREY, "s")}
_LINES = {RESTRICTED: "-", WHOLE: ":", NEW_HEAD: "--"}


def draw_modules(found: Findings) -> dict[str, bytes]:
    """Draws the accuracy of every module against its share, beside what it is held against.

    Returns:
        The content of the picture's files by suffix.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], SIZE[1] + 0.6), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        _draw_baselines(axes, found)
        for kind, controls in found.controls.items():
            colour, mark = _MARKS[kind]
            _draw_series(axes, found, controls, colour, mark, kind)
        _draw_series(axes, found, found.modules, BLUE, "o", "module")
        chosen = found.modules[found.selected]
        axes.plot(
            [found.share_of(chosen)], [chosen.answers.value], "o", markersize=11,
            markerfacecolor="none", markeredgecolor=BLUE, markeredgewidth=1.5, label="selected",
        )  # fmt: skip
        shares = [found.share_of(one) for one in found.modules]
        if max(shares) > _DECADES * min(shares):
            axes.set_xscale("log")
            label_decades(axes.xaxis)
            axes.set_xlabel(f"{found.share_name}, logarithmic")
        else:
            axes.set_xlabel(found.share_name)
        axes.set_ylabel("accuracy on test images")
        figure.legend(loc="outside upper left", ncols=3)
        return render(figure)


def draw_training(found: Findings) -> dict[str, bytes]:
    """Draws the share and the validation accuracy of every epoch.

    Returns:
        The content of the picture's files by suffix.
    """
    numbers = [one.number for one in found.epochs]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], SIZE[1]), dpi=DPI, layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        upper.plot(numbers, [one.accuracy for one in found.epochs], color=BLUE, linewidth=1.2)
        if found.choice.most is None:
            _draw_asked(
                upper,
                numbers[-1],
                found.choice.least,
                f"to be reached (of {found.validation_images} images)",
            )
        else:
            _draw_asked(lower, numbers[-1], found.choice.most, "at most")
        upper.set_ylabel("accuracy\n(validation)")
        lower.plot(numbers, [one.share for one in found.epochs], color=_GREEN, linewidth=1.2)
        lower.set_ylabel(found.share_name.replace(" ", "\n", 1))
        lower.set_ylim(0, 1.02)
        lower.set_xlabel("epoch")
        kept = [one.number for one in found.path]
        upper.plot(kept, [one.accuracy for one in found.path], "o", color=INK, markersize=4)
        lower.plot(kept, [one.share for one in found.path], "o", color=INK, markersize=4)
        return render(figure)


def draw_kept(found: Findings) -> dict[str, bytes]:
    """Draws what the selected module retains of each layer, in the order of the model.

    Returns:
        The content of the picture's files by suffix.
    """
    names, shares = list(found.kept), list(found.kept.values())
    places = range(len(names))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], 0.9 + 0.17 * len(names)), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        axes.barh(places, shares, color=BLUE, height=0.75)
        axes.set_yticks(places, names, fontsize=7)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_ylim(len(names) - 0.4, -0.6)
        of_what = "weights" if found.granularity == "weight" else "channels"
        axes.set_xlabel(f"retained share of the layer's {of_what}")
        return render(figure)


def draw_latency(smaller: Smaller) -> dict[str, bytes]:
    """Draws how many times faster than the whole model the module is, by runtime and batch.

    Returns:
        The content of the picture's files by suffix.
    """
    cases = [f"{one.runtime}\nbatch {one.batch}" for one in smaller.latencies]
    colours = {MASKED: GREY, REMOVED: BLUE}
    names = [name for name in smaller.latencies[0].speed_up if name in colours]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.2 + 0.95 * len(cases), 3.2), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        axes.axhline(1, color=INK, linewidth=1, linestyle=":")
        for place, name in enumerate(names):
            values = [one.speed_up[name] for one in smaller.latencies]
            ends = [one.spread[name] for one in smaller.latencies]
            errors = [
                [max(value - low, 0) for value, (low, _) in zip(values, ends, strict=True)],
                [max(high - value, 0) for value, (_, high) in zip(values, ends, strict=True)],
            ]
            middle = [case + (place - (len(names) - 1) / 2) * 0.36 for case in range(len(cases))]
            axes.bar(middle, values, 0.34, color=colours[name], yerr=errors, label=name,
                     error_kw={"elinewidth": 1})  # fmt: skip
        axes.set_xticks(range(len(cases)), cases, fontsize=8)
        axes.set_ylabel("times faster than\nthe whole model")
        figure.legend(loc="outside upper left", ncols=2)
        return render(figure)


def _draw_asked(axes: Axes, right: int, value: float, text: str) -> None:
    axes.axhline(value, color=GREY, linewidth=1, linestyle="--")
    axes.annotate(
        text, (right, value), xytext=(0, 3), ha="right", fontsize=8, textcoords="offset points",
        color=GREY,
    )  # fmt: skip


def _draw_baselines(axes: Axes, found: Findings) -> None:
    for name, style in _LINES.items():
        value = found.baselines[name].value
        axes.axhline(value, color=INK, linewidth=1, linestyle=style, label=BASELINES[name])
    low, high = found.baselines[RESTRICTED].interval
    axes.axhspan(low, high, color="#E6E6E6", zorder=0, linewidth=0)


def _draw_series(
    axes: Axes,
    found: Findings,
    series: Sequence[Held],
    colour: str,
    mark: str,
    label: str,
) -> None:
    shares = [found.share_of(one) for one in series]
    values = [one.answers.value for one in series]
    ends = [one.answers.interval for one in series]
    lows = [value - low for value, (low, _) in zip(values, ends, strict=True)]
    highs = [high - value for value, (_, high) in zip(values, ends, strict=True)]
    axes.errorbar(
        shares, values, yerr=[lows, highs], fmt=f"{mark}-", color=colour, markersize=4.5,
        linewidth=1.2, elinewidth=1, label=label,
    )  # fmt: skip
