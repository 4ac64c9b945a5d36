"""Pictures of a calibration: effect at one budget, and effect against cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import matplotlib
import matplotlib.colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from aim_plugins.steering.calibration.entries import CurvePoint, Entry
from aim_plugins.steering.calibration.findings import Findings, shown_sites, spent_at
from aim_plugins.sweep.figures import BLUE, DPI, GREY, INK, STYLE, VERMILLION, look, render

_COLOURS = {"plain": GREY, "prompt": VERMILLION, "method": BLUE, "both": "#CC79A7"}
_STARS = ("#8C2D04", "#EC7014", "#FEB24C", "#CC79A7")


def draw_equal(found: Findings) -> dict[str, bytes]:
    """Draws the effect of every line of the table with its interval, the best at the top."""
    lower = found.settings.lower_is_better
    ordered = sorted(found.entries, key=lambda one: one.point.effect.value, reverse=lower)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.6, 1.1 + 0.3 * len(ordered)), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        for place, one in enumerate(ordered):
            effect, colour = one.point.effect, _COLOURS[one.kind]
            axes.plot([effect.low, effect.high], [place, place], color=colour, linewidth=1.6)
            axes.plot([effect.value], [place], "o", color=colour, markersize=5)
            axes.annotate(
                _paid(found, one),
                (1.01, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
                color=colour if one.kind != "plain" else INK,
                annotation_clip=False,
            )
        axes.set_yticks(range(len(ordered)), [_label(one) for one in ordered])
        axes.axvline(found.plain.point.effect.value, color=GREY, linewidth=1, linestyle=(0, (1, 2)))
        axes.grid(axis="x", color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel(found.metric)
        n = len(found.plain.point.effects)
        _title(axes, f"{found.metric} at {found.settings.budget_text}",
               f"{n} held-out prompts, 95 % intervals, costs on the right")  # fmt: skip
        return render(figure)


def draw_curves(found: Findings) -> dict[str, bytes]:
    """Draws the effect against the cost, a line for each method from the plain model on."""
    settings, line = found.settings, found.settings.budget
    label = "KL on plain text, nats per token"
    if settings.task:
        label = f"accuracy lost on {settings.task}"
    elif settings.budget_perplexity is not None:
        label, line = "log perplexity ratio", math.log(line)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.6, 4.2), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        for place, one in enumerate(found.of_kind("method")):
            _draw_curve(axes, found, one, *look(place))
        for one, colour in zip(found.of_kind("prompt", "both"), cycle(_STARS), strict=False):
            _draw_points(
                axes, found, [one.point], color=colour, fmt="*", markersize=11, label=one.name
            )
        axes.axvline(line, color=GREY, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
        axes.grid(color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xscale("symlog", linthresh=line, linscale=1.0)
        most = axes.dataLim.x1
        axes.set_xlim(min(-0.04 * line, axes.dataLim.x0 - 0.04 * line), 1.2 * most)
        ticks = [0.0, *(share * line for share in (0.25, 0.5, 1, 2, 5, 10, 20, 50))]
        axes.set_xticks([one for one in ticks if one <= 1.2 * most])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(label)
        axes.set_ylabel(found.metric)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), handlelength=1.6)
        note = f"rings at {found.settings.budget_text}, stars are prompts, 95 % intervals"
        _title(axes, f"{found.metric} against cost", note)
        return render(figure)


def _draw_curve(axes: Axes, found: Findings, one: Entry, colour: str, marker: str) -> None:
    """A method from the plain model on, with a ring around its calibrated strength."""
    points = [found.plain.point, *one.points]
    drawn = {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.6}
    _draw_points(axes, found, points, label=one.name, **drawn)
    cost, effect = spent_at(found, one.point), one.point.effect
    ring: dict[str, Any] = {
        "markersize": 9,
        "markerfacecolor": "none",
        "color": colour,
        "zorder": 4,
    }
    axes.plot([cost.value], [effect.value], "o", **ring)


def _draw_points(axes: Axes, found: Findings, points: Sequence[CurvePoint], **drawn: Any) -> None:
    """Effects at costs, with faint intervals."""
    effects = [point.effect for point in points]
    axes.errorbar(
        [spent_at(found, point).value for point in points],
        [effect.value for effect in effects],
        yerr=[
            [effect.value - effect.low for effect in effects],
            [effect.high - effect.value for effect in effects],
        ],
        elinewidth=0.8,
        ecolor=(*matplotlib.colors.to_rgb(drawn["color"]), 0.3),
        zorder=3,
        **drawn,
    )


def _label(one: Entry) -> str:
    if one.kind not in ("method", "both"):
        return one.name
    return f"{one.name}, {shown_sites(one)}"


def _paid(found: Findings, one: Entry) -> str:
    task = found.settings.task
    if one.kind == "plain":
        return "0 points" if task else "KL 0"
    text = f"KL {one.point.divergence.value:.3f}"
    if task:
        text = f"{-100 * found.drop(one.point).value:+.1f} points"
    if one.kind == "prompt":
        return text
    return f"{text}, λ {one.point.strength:.2g}" + ("" if one.reached else " (not reached)")


def _title(axes: Axes, title: str, note: str) -> None:
    axes.set_title(title.replace("$", r"\$"), pad=18)
    axes.annotate(
        note.replace("$", r"\$"),
        (0, 1),
        xytext=(0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        color=GREY,
        fontsize=9,
    )
