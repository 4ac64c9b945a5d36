"""Pictures of several transports: effect against strength, and against perplexity."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox, blended_transform_factory

from aim_plugins.core.files import write_atomic
from aim_plugins.core.strengths import format_strength
from aim_plugins.steering.compare.labels import cover_line, place_label, spread
from aim_plugins.sweep.figures import DPI, GREY, STYLE, label_decades, look, render
from aim_plugins.sweep.intervals import point_intervals, value_range
from aim_plugins.sweep.table import Point
from aim_plugins.transport.change import Transport

_SIZE = (6.6, 4.2)  # inches
_BROKEN = 10
"""A model of so many times the plain perplexity is broken; a picture ends there."""
_NAMED_STRENGTHS = 5
"""Strengths written at the points of a line, at most."""


@dataclass(frozen=True)
class Line:
    """One transport in a picture.

    Attributes:
        label: Its name.
        effects: Points of the effect, by rising strength.
        costs: Points of the perplexity, by rising strength.
    """

    label: str
    effects: Sequence[Point]
    costs: Sequence[Point]

    @property
    def pairs(self) -> list[tuple[Point, Point]]:
        """Perplexity and effect of every strength that has both, by rising strength."""
        costs = {point.strength: point for point in self.costs}
        pairs = [(costs[one.strength], one) for one in self.effects if one.strength in costs]
        return [(x, y) for x, y in pairs if math.isfinite(x.value) and math.isfinite(y.value)]


def plot_effect(lines: Sequence[Line], path: Path) -> bytes:
    """Draws the effect against the strength, a line for each transport, named at its end.

    Args:
        lines: The transports.
        path: The picture's path without a suffix; a PNG and an SVG are written.

    Returns:
        The content of the PNG.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas()
        ends = []
        for index, line in enumerate(lines):
            colour, marker = look(index)
            points = [point for point in line.effects if math.isfinite(point.value)]
            values = [point.value for point in points]
            axes.plot(
                [point.strength for point in points],
                values,
                color=colour,
                marker=marker,
                markersize=4.5,
                linewidth=1.8,
                zorder=3,
            )
            # Points stand at their strengths; bars side by side, where they would cover each other.
            shift = (index - (len(lines) - 1) / 2) * _dodge(lines)
            axes.errorbar(
                [point.strength + shift for point in points],
                values,
                yerr=_bars(points),
                fmt="none",
                ecolor=_faint(colour),
                elinewidth=1.2,
                zorder=2,
            )
            if points:
                ends.append((points[-1].value, line.label, colour))
        first = lines[0].effects[0]
        beside = " beside their points" if len(lines) > 1 else ""
        _title(axes, first.metric, f"{first.task}, {_count(lines, 'effects')}", beside)
        axes.set_xlabel(Transport.axis.label)
        axes.set_ylabel(first.metric)
        axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
        _limit_effect(axes, lines)
        _name_ends(axes, ends)
        return _write(figure, path)


def plot_cost(lines: Sequence[Line], path: Path, *, bound: float) -> bytes:
    """Draws the effect against the perplexity, a line for each transport as its strength grows.

    Args:
        lines: The transports.
        path: The picture's path without a suffix; a PNG and an SVG are written.
        bound: Share by which the perplexity may grow, drawn as a line.

    Returns:
        The content of the PNG.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas()
        for index, line in enumerate(lines):
            colour, marker = look(index)
            axes.errorbar(
                [x.value for x, _ in line.pairs],
                [y.value for _, y in line.pairs],
                xerr=_bars([x for x, _ in line.pairs]),
                yerr=_bars([y for _, y in line.pairs]),
                color=colour,
                ecolor=_faint(colour),
                marker=marker,
                markersize=4.5,
                linewidth=1.8,
                elinewidth=1.2,
                zorder=3,
                label=line.label.replace("$", r"\$"),
            )
        effect, cost = lines[0].effects[0], lines[0].costs[0]
        counts = f"{_count(lines, 'effects')} and {_count(lines, 'costs')}"
        axes.set_xlabel(f"{cost.metric} of {cost.task}")
        axes.set_ylabel(f"{effect.metric} of {effect.task}")
        axes.grid(color="#E6E6E6", linewidth=0.8)
        _limit_effect(axes, lines)
        _limit_cost(axes, lines)
        missing = _mark_exits(axes, lines)
        title = f"{effect.metric} against {cost.metric}"
        _title(axes, title, f"λ at points, {counts}", missing)
        _name_points(axes, lines, bound)
        return _write(figure, path)


def _canvas() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.tick_params(length=3)
    return figure, axes


def _bars(points: Sequence[Point]) -> list[list[float]]:
    """Lengths of error bars below and above points; 0 where an error is unknown."""
    ends = point_intervals(points)
    return [
        [_known(point.value - low) for point, (low, _) in zip(points, ends, strict=True)],
        [_known(high - point.value) for point, (_, high) in zip(points, ends, strict=True)],
    ]


def _known(length: float) -> float:
    return max(0.0, length) if math.isfinite(length) else 0.0


def _count(lines: Sequence[Line], name: str) -> str:
    counts = sorted({point.n for line in lines for point in getattr(line, name)})
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def _title(axes: Axes, title: str, note: str, end: str = "") -> None:
    # Dollar signs would start a formula.
    axes.set_title(title.replace("$", r"\$"), pad=18)
    axes.annotate(
        f"{note}, 95 % intervals{end}".replace("$", r"\$"),
        (0, 1),
        xytext=(0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        color=GREY,
        fontsize=9,
    )


def _dodge(lines: Sequence[Line]) -> float:
    strengths = sorted({point.strength for line in lines for point in line.effects})
    steps = [high - low for low, high in zip(strengths, strengths[1:], strict=False)]
    return min(0.06 * min(steps), 0.3 * min(steps) / len(lines)) if steps else 0.0


def _faint(colour: str) -> tuple[float, float, float, float]:
    red, green, blue = matplotlib.colors.to_rgb(colour)
    return red, green, blue, 0.3


def _ink(colour: str) -> tuple[float, float, float]:
    """The colour for text, where pale ones would be hard to read."""
    red, green, blue = (0.7 * part for part in matplotlib.colors.to_rgb(colour))
    return red, green, blue


def _limit_effect(axes: Axes, lines: Sequence[Line]) -> None:
    if all(value_range(line.effects) == (0.0, 1.0) for line in lines):
        ends = [end for line in lines for pair in point_intervals(line.effects) for end in pair]
        values = [point.value for line in lines for point in line.effects]
        top = max(end for end in ends + values if math.isfinite(end))
        axes.set_ylim(0, min(1.03, 1.1 * top or 1.03))


def _limit_cost(axes: Axes, lines: Sequence[Line]) -> None:
    """Cuts the axis where a model is broken, and makes it logarithmic where it is long."""
    values = [x.value for line in lines for x, _ in line.pairs]
    plain = [point.value for line in lines for point in line.costs if point.strength == 0]
    if not values or min(values) <= 0:
        return
    ends = [
        end
        for line in lines
        for pair in point_intervals([x for x, _ in line.pairs])
        for end in pair
    ]
    known = [end for end in ends if math.isfinite(end) and end > 0]
    start, end = min(values + known), max(values + known)
    if plain and max(values) > _BROKEN * plain[0]:
        end = _BROKEN * plain[0]
        axes.set_xlabel(f"{axes.get_xlabel()}, up to {_BROKEN} times the plain model's")
    if max(values) > 3 * min(values):
        axes.set_xscale("log")
        label_decades(axes.xaxis)
        axes.set_xlim(start / 1.08, end * 1.15)
    else:
        margin = 0.08 * (end - start) or 0.5
        axes.set_xlim(start - margin, end + margin)


def _mark_exits(axes: Axes, lines: Sequence[Line]) -> str:
    """Marks where lines leave the frame on the right, and says how many points lie beyond."""
    edge = float(axes.get_xlim()[1])
    for index, line in enumerate(lines):
        for (x, y), (other, next_y) in zip(line.pairs, line.pairs[1:], strict=False):
            if (x.value > edge) == (other.value > edge):
                continue
            ends = axes.transData.transform([(x.value, y.value), (other.value, next_y.value)])
            right = axes.transData.transform((edge, 0))[0]
            # Lines are straight in the picture, whatever the axis.
            share = (right - ends[0][0]) / (ends[1][0] - ends[0][0])
            height = y.value + share * (next_y.value - y.value)
            axes.plot([edge], [height], ">", color=look(index)[0], clip_on=False, zorder=4)
    return _describe_missing(lines, edge)


def _describe_missing(lines: Sequence[Line], edge: float) -> str:
    beyond = sum(x.value > edge for line in lines for x, _ in line.pairs)
    absent = sum(len(line.effects) - len(line.pairs) for line in lines)
    parts = [f"▸ {beyond} point{'s' * (beyond != 1)} beyond"] if beyond else []
    parts += [f"{absent} without a number"] if absent else []
    return "".join(f", {part}" for part in parts)


def _plain_cost(lines: Sequence[Line]) -> float | None:
    """The plain model's perplexity, where all lines have the same."""
    plain = {point.value for line in lines for point in line.costs if point.strength == 0}
    return plain.pop() if len(plain) == 1 else None


def _draw_bound(axes: Axes, lines: Sequence[Line], bound: float, taken: list[Bbox]) -> None:
    """Draws the plain model's perplexity and its bound, named at an end that no curve covers."""
    plain = _plain_cost(lines)
    if plain is None or not math.isfinite(plain):
        return
    for value, text in ((plain, "λ = 0"), ((1 + bound) * plain, f"+{bound:.0%}")):
        axes.axvline(value, color=GREY, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
        sides = [(1, -2, "top"), (0, 4, "bottom")]
        across = [(-3, "right"), (3, "left")] if text == "λ = 0" else [(3, "left"), (-3, "right")]
        for (height, up, vertical), (right, horizontal) in itertools.product(sides, across):
            label = axes.annotate(
                text,
                (value, height),
                xytext=(right, up),
                xycoords=blended_transform_factory(axes.transData, axes.transAxes),
                textcoords="offset points",
                color=GREY,
                fontsize=8,
                ha=horizontal,
                va=vertical,
                rotation=90,
            )
            box = label.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()


def _name_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Writes names to the right of the lines' ends, moved apart where they would touch."""
    low, high = axes.get_ylim()
    gap = 0.055 * (high - low)
    ordered = sorted(ends)
    places = spread([value for value, _, _ in ordered], gap)
    right = axes.get_xlim()[1]
    for (value, label, colour), place in zip(ordered, places, strict=True):
        axes.annotate(
            label.replace("$", r"\$"),
            (right, value),
            xytext=(1.03, (place - low) / (high - low)),
            textcoords="axes fraction",
            color=_ink(colour),
            fontsize=9,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "shrinkA": 0,
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )


def _name_points(axes: Axes, lines: Sequence[Line], bound: float) -> None:
    """Names the lines beside the picture, and writes strengths at points where there is room."""
    handles, labels = axes.get_legend_handles_labels()
    legend = axes.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.0), handlelength=1.6
    )
    for index, name in enumerate(legend.get_texts()):
        name.set_color(_ink(look(index)[0]))
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # the layout decides where points lie
    taken = [
        box
        for line in lines
        for box in cover_line(axes, [(x.value, y.value) for x, y in line.pairs])
    ]
    _draw_bound(axes, lines, bound, taken)
    shown = _landmarks({y.strength for line in lines for _, y in line.pairs} - {0.0})
    if _plain_cost(lines) is None:
        shown.add(0.0)
    for index, line in enumerate(lines):
        for x, y in reversed(line.pairs):
            if y.strength in shown:
                text = format_strength(y.strength)
                place_label(axes, (x.value, y.value), text, _ink(look(index)[0]), 7.5, taken)


def _landmarks(strengths: set[float]) -> set[float]:
    """Strengths that are written at points: all of a few, else some evenly chosen ones."""
    ordered = sorted(strengths)
    step = -(-len(ordered) // _NAMED_STRENGTHS)
    return set(ordered[::-1][:: step or 1])


def _write(figure: Figure, path: Path) -> bytes:
    contents = render(figure)
    for suffix, content in contents.items():
        write_atomic(path.with_name(f"{path.name}.{suffix}"), content)
    return contents["png"]
