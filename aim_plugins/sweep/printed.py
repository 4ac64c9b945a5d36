"""The curves of a sweep, printed for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from aim_plugins.core.strengths import Axis, format_strength
from aim_plugins.sweep.formats import estimate_texts
from aim_plugins.sweep.table import Point


def format_points(points: Iterable[Point], axes: Sequence[Axis] = ()) -> str:
    """Lays curves out for a terminal: a block for each task, a line for each strength.

    Of a grid over two strengths, `axes` name both.

    Values have their 95 % intervals in brackets, the ones of the pictures. Where the counts of
    documents differ, each metric has its own.

    >>> print(format_points([Point("quiz", "acc", 0.5, 0.75, 0.0435, 100, 1)]))
    quiz (n=100), [95 % interval]
    strength                  acc
         0.5 0.750 [0.655, 0.826]
    """
    tasks: dict[str, dict[str, list[Point]]] = {}
    for point in points:
        tasks.setdefault(point.task, {}).setdefault(point.metric, []).append(point)
    names = [axis.name for axis in axes] if len(axes) == 2 else ["strength"]
    return "\n\n".join(_format_task(task, metrics, names) for task, metrics in tasks.items())


def _format_task(task: str, metrics: Mapping[str, Sequence[Point]], names: Sequence[str]) -> str:
    members = [point for curve in metrics.values() for point in curve]
    counts = {point.n for point in members}
    cells: dict[tuple[float, ...], dict[str, str]] = {}
    bracketed = False
    for metric, curve in metrics.items():
        for point, (value, interval) in zip(curve, estimate_texts(curve), strict=True):
            cells.setdefault(point.strengths, {})[metric] = f"{value} {interval}".rstrip()
            bracketed |= bool(interval)
    width = max(
        19, *map(len, metrics), *(len(text) for row in cells.values() for text in row.values())
    )
    legend = ", [95 % interval]" if bracketed else ""
    lines = [f"{task} ({_describe_sample(members)}){legend}"]
    lines.append(_format_line(names, list(metrics), width))
    if len(counts) > 1:
        label = [*[""] * (len(names) - 1), "n"]
        lines.append(_format_line(label, [_format_counts(one) for one in metrics.values()], width))
    for strengths in sorted(cells, key=lambda one: one[::-1]):
        found = [cells[strengths].get(metric, "") for metric in metrics]
        lines.append(_format_line([format_strength(one) for one in strengths], found, width))
    return "\n".join(lines)


def _format_line(names: Sequence[str], cells: Sequence[str], width: int) -> str:
    return " ".join([*(f"{name:>8}" for name in names), *(f"{cell:>{width}}" for cell in cells)])


def _describe_sample(points: Sequence[Point]) -> str:
    draws = max(point.draws for point in points)
    return f"n={_format_counts(points)}" + (f", {draws} draws" if draws > 1 else "")


def _format_counts(points: Sequence[Point]) -> str:
    low, high = min(point.n for point in points), max(point.n for point in points)
    return str(low) if low == high else f"{low} to {high}"
