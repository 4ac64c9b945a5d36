"""What a report says at its top: the data, and in one sentence what the curves do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aim_plugins.core.errors import first_few
from aim_plugins.core.strengths import Axis, format_strength
from aim_plugins.sweep.formats import format_value
from aim_plugins.sweep.heat_maps import Grid
from aim_plugins.sweep.intervals import point_intervals
from aim_plugins.sweep.plots import Curve
from aim_plugins.sweep.table import Point

_SHOWN_CHANGES = 3
_SHOWN_TASKS = 4

_Measured = tuple[Point, tuple[float, float]]
"""A point and its 95 % interval."""


def summarise(curves: Sequence[Curve], model: str, noun: str = "task") -> str:
    """Says in one sentence what was evaluated, and what the first curve of each task does.

    Args:
        curves: All curves.
        model: Name of the model.
        noun: What stands in the place of the tasks, such as transports that are compared.
    """
    strengths = sorted({point.strength for curve in curves for point in curve.points})
    names = task_names(curves)
    low, high = format_strength(strengths[0]), format_strength(strengths[-1])
    span = f"strength {low}" if len(strengths) == 1 else f"{len(strengths)} strengths"
    span += "" if len(strengths) == 1 else f" from {low} to {high}"
    sentence = f"{model} {'on' if noun == 'task' else 'with'} {_count(len(names), noun)} at {span}"
    changes = [describe_change(next(one for one in curves if one.task == name)) for name in names]
    changes = [change for change in changes if change]
    if not changes or len(strengths) == 1:
        return sentence + "."
    more = len(changes) - _SHOWN_CHANGES
    rest = f", and {_count(more, f'more {noun}')} below" if more > 0 else ""
    return f"{sentence}: {'; '.join(changes[:_SHOWN_CHANGES])}{rest}."


def summarise_grids(grids: Sequence[Grid], axes: Sequence[Axis], model: str) -> str:
    """Says in one sentence what was evaluated over two strengths, and where each task is best.

    Args:
        grids: All grids.
        axes: What the strengths are.
        model: Name of the model.
    """
    first = {grid.task: grid for grid in reversed(grids)}
    names = list(dict.fromkeys(grid.task for grid in grids))
    counts = (len(grids[0].strengths), len(grids[0].second_strengths))
    spans = [
        f"{count} {axis.quantity}{'' if count == 1 else 's'}"
        for count, axis in zip(counts, axes, strict=True)
    ]
    sentence = f"{model} on {_count(len(names), 'task')} at {' × '.join(spans)}"
    found = [_reach(first[name], axes) for name in names]
    more = len(found) - _SHOWN_CHANGES
    rest = f", and {_count(more, 'more task')} below" if more > 0 else ""
    return f"{sentence}: {'; '.join(found[:_SHOWN_CHANGES])}{rest}."


def _reach(grid: Grid, axes: Sequence[Axis]) -> str:
    finite = [point for point in grid.points.values() if math.isfinite(point.value)]
    if not finite:
        return f"{grid.metric} of {grid.task} is no finite number"
    ends = [max(finite, key=lambda point: point.value), min(finite, key=lambda point: point.value)]
    high, low = (
        f"{format_value(point.value)} ("
        + ", ".join(
            f"{axis.symbol} {format_strength(strength)}"
            for axis, strength in zip(axes, point.strengths, strict=True)
        )
        + ")"
        for point in ends
    )
    return f"{grid.metric} of {grid.task} lies between {low} and {high}"


def describe_change(curve: Curve) -> str:
    """Says what a curve does: stays, rises, falls, or turns on its way.

    Two values count as different where neither lies in the other's 95 % interval; an unknown
    interval is the value alone. A turn is a point that lies beyond both ends and differs from both.
    Errors of strengths on the same documents go together, so what is called within the intervals
    here may well be a change of every document.

    Returns:
        The sentence, or nothing where an end of the curve is no finite number.
    """
    series = curve.sampled or curve.exact or curve.published
    measured = list(zip(series, point_intervals(series), strict=True))
    finite = [one for one in measured if math.isfinite(one[0].value)]
    if len(finite) < 2 or finite[0] != measured[0] or finite[-1] != measured[-1]:
        return ""
    return f"{curve.metric} of {curve.task} {_course(finite)}"


def _course(measured: Sequence[_Measured]) -> str:
    first, last = measured[0], measured[-1]
    start, end = first[0].value, last[0].value
    inner = [one for one in measured[1:-1] if _differ(one, first)]
    turns = [one for one in inner if _differ(one, last) and _beyond(one[0].value, start, end)]
    if turns:
        turn = max(turns, key=lambda one: min(abs(one[0].value - end), abs(one[0].value - start)))
        back = "falls" if end < turn[0].value else "rises"
        return f"{_leg(start, turn[0])}, then {back} to {format_value(end)}"
    if _differ(first, last):
        return f"{'falls' if end < start else 'rises'} {_span(start, end)}"
    if inner:
        peak = max(inner, key=lambda one: abs(one[0].value - start))
        return f"{_leg(start, peak[0])} and ends at {format_value(end)}"
    values = [point.value for point, _ in measured]
    if min(values) == max(values):
        return f"stays at {format_value(start)}"
    reach = f"between {format_value(min(values))} and {format_value(max(values))}"
    return f"stays {reach}, within the 95 % intervals of {format_value(start)}"


def _leg(start: float, turn: Point) -> str:
    verb = "falls" if turn.value < start else "rises"
    return f"{verb} {_span(start, turn.value)} at strength {format_strength(turn.strength)}"


def _span(start: float, end: float) -> str:
    return f"from {format_value(start)} to {format_value(end)}"


def _beyond(value: float, start: float, end: float) -> bool:
    return value > max(start, end) or value < min(start, end)


def _differ(one: _Measured, other: _Measured) -> bool:
    return not (_holds(one, other[0].value) or _holds(other, one[0].value))


def _holds(one: _Measured, value: float) -> bool:
    point, (low, high) = one
    return low <= value <= high or point.value == value


def name_tasks(curves: Sequence[Curve]) -> str:
    """Names the tasks, the first few of many."""
    return first_few(task_names(curves), _SHOWN_TASKS)


def task_names(curves: Sequence[Curve]) -> list[str]:
    """The tasks of curves, in order of first appearance."""
    return list(dict.fromkeys(curve.task for curve in curves))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
