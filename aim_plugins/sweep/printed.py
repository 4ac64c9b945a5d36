"""The curves of a sweep, printed for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from aim_plugins.core.strengths import format_strength
from aim_plugins.sweep.intervals import interval_texts
from aim_plugins.sweep.table import Point


def format_points(points: Iterable[Point]) -> str:
    """Lays curves out for a terminal: a block for each task, a line for each strength.

    Values have their standard errors, or 95 % intervals in brackets where shares of 0 or 1 would
    have an error of 0. Where the counts of documents differ, each metric has its own.

    >>> print(format_points([Point("quiz", "acc", 0.5, 0.75, 0.01, 100, 1)]))
    quiz (n=100)
    strength                 acc
         0.5     0.7500 ± 0.0100
    """
    tasks: dict[str, dict[str, list[Point]]] = {}
    for point in points:
        tasks.setdefault(point.task, {}).setdefault(point.metric, []).append(point)
    return "\n\n".join(_format_task(task, metrics) for task, metrics in tasks.items())


def _format_task(task: str, metrics: Mapping[str, Sequence[Point]]) -> str:
    members = [point for curve in metrics.values() for point in curve]
    counts = {point.n for point in members}
    cells: dict[float, dict[str, str]] = {}
    bracketed = False
    for metric, curve in metrics.items():
        for point, interval in zip(curve, interval_texts(curve), strict=True):
            cells.setdefault(point.strength, {})[metric] = _format_cell(point, interval)
            bracketed |= bool(interval)
    width = max(
        19, *map(len, metrics), *(len(text) for row in cells.values() for text in row.values())
    )
    legend = ", ± standard error or [95 % interval]" if bracketed else ""
    lines = [f"{task} (n={_format_counts(members)}){legend}"]
    lines.append(_format_line("strength", list(metrics), width))
    if len(counts) > 1:
        lines.append(_format_line("n", [_format_counts(one) for one in metrics.values()], width))
    for strength in sorted(cells):
        found = [cells[strength].get(metric, "") for metric in metrics]
        lines.append(_format_line(format_strength(strength), found, width))
    return "\n".join(lines)


def _format_line(name: str, cells: Sequence[str], width: int) -> str:
    return f"{name:>8} " + " ".join(f"{cell:>{width}}" for cell in cells)


def _format_counts(points: Sequence[Point]) -> str:
    low, high = min(point.n for point in points), max(point.n for point in points)
    return str(low) if low == high else f"{low} to {high}"


def _format_cell(point: Point, interval: str) -> str:
    number = f"{point.value:.4f}" if abs(point.value) < 1000 else f"{point.value:.4g}"
    if interval:
        return f"{number} {interval}"
    return number if point.stderr is None else f"{number} ± {point.stderr:.4f}"
