"""The tidy table of a sweep, and the points of its curves."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from aim_plugins.core.files import write_atomic
from aim_plugins.core.strengths import validate_strength

_EXPECTED_SUFFIX = "_expected"
_PUBLISHED_SUFFIX = "_published"


@dataclass(frozen=True)
class Row:
    """One measured value.

    Attributes:
        task: Name of the task, as the harness calls it.
        metric: Name of the metric; `X_expected` is the exact law of the metric `X`, and
            `X_published` what others report of it.
        strength: Strength of what is changed, for logit noise its std in logit units.
        draw: Index of the noise draw; None where nothing was drawn.
        value: The metric's value, a mean over `n` documents.
        stderr: Standard error of the value over documents; None or NaN where unknown.
        n: Number of documents.
        second_strength: Of a grid over two strengths, the second one.
    """

    task: str
    metric: str
    strength: float
    draw: int | None
    value: float
    stderr: float | None
    n: int
    second_strength: float | None = None

    def __post_init__(self) -> None:
        for name in ("strength", "second_strength"):
            if (strength := getattr(self, name)) is not None or name == "strength":
                validate_strength(strength, name=name, low=-math.inf)
        for name in ("value", "stderr"):
            number = getattr(self, name)
            if isinstance(number, str) or (number is None and name == "value"):
                raise ValueError(
                    f"{name}={number!r} of {self.task}/{self.metric} is not a number: "
                    "leave the row out, or give None for an unknown stderr"
                )
        if self.stderr is not None and self.stderr < 0:
            raise ValueError(
                f"stderr={self.stderr!r} of {self.task}/{self.metric} is negative: "
                "a standard error is 0 or more; give None where it is unknown"
            )


@dataclass(frozen=True)
class Point:
    """One point of a curve: a value pooled over draws.

    Attributes:
        task: Name of the task.
        metric: Name of the metric.
        strength: Strength of the modulation.
        value: Mean over draws.
        stderr: Standard error of that mean over documents, or None where unknown.
        n: Number of documents.
        draws: Number of draws pooled; 0 where nothing was drawn.
        second_strength: Of a grid over two strengths, the second one.
        freedom: Degrees of freedom of the error; None for those of n documents, n - 1.
    """

    task: str
    metric: str
    strength: float
    value: float
    stderr: float | None
    n: int
    draws: int
    second_strength: float | None = None
    freedom: float | None = None

    @property
    def strengths(self) -> tuple[float, ...]:
        """Its strength along each axis."""
        second = self.second_strength
        return (self.strength,) if second is None else (self.strength, second)


GRID_COLUMNS = tuple(field.name for field in fields(Row))
COLUMNS = GRID_COLUMNS[:-1]
DIFFERENCE_COLUMNS = ("difference", "difference_low", "difference_high", "p", "holm_p")
"""Of a table whose strengths are compared in pairs, over all draws."""

Differences = Mapping[tuple[str, str, float, float | None], Sequence[float]]
"""The values of those columns, by task, metric and strengths."""


def is_expected(metric: str) -> bool:
    """Tells whether a metric is an exact law, not sampled.

    >>> is_expected("acc_expected"), is_expected("acc_expected,none"), is_expected("acc")
    (True, True, False)
    """
    return metric.partition(",")[0].endswith(_EXPECTED_SUFFIX)


def is_published(metric: str) -> bool:
    """Tells whether a metric is what others report, not measured here.

    >>> is_published("acc_published"), is_published("acc")
    (True, False)
    """
    return metric.partition(",")[0].endswith(_PUBLISHED_SUFFIX)


def metric_family(metric: str) -> str:
    """Names the metric whose curve this one belongs to.

    A harness may append the name of a filter after a comma; it stays.

    >>> metric_family("acc_expected"), metric_family("exact_match,strict")
    ('acc', 'exact_match,strict')
    """
    name, comma, filter_name = metric.partition(",")
    return name.removesuffix(_EXPECTED_SUFFIX).removesuffix(_PUBLISHED_SUFFIX) + comma + filter_name


def write_table(
    path: str | Path, rows: Iterable[Row], differences: Differences | None = None
) -> Path:
    """Writes rows as CSV, atomically.

    Returns:
        The path written.
    """
    return write_atomic(path, format_table(rows, differences))


def format_table(rows: Iterable[Row], differences: Differences | None = None) -> str:
    """Rows in their order as CSV, whose floats read back exactly.

    The column of the second strength is there where a row has one, and those of differences where
    there are any: each draw's row has those of all draws together.
    """
    rows, differences = list(rows), differences or {}
    columns = GRID_COLUMNS if any(row.second_strength is not None for row in rows) else COLUMNS
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *(DIFFERENCE_COLUMNS if differences else ())])
    empty = [None] * len(DIFFERENCE_COLUMNS) if differences else []
    for row in rows:
        place = (row.task, row.metric, row.strength, row.second_strength)
        cells = [*(getattr(row, column) for column in columns), *differences.get(place, empty)]
        writer.writerow(map(table_cell, cells))
    return text.getvalue()


def table_cell(value: str | float | int | None) -> str | int:
    """A value as CSV holds it: floats read back exactly, and what is unknown is empty."""
    if value is None or isinstance(value, str | int):
        return "" if value is None else value
    return repr(float(value))


def read_table(path: str | Path) -> list[Row]:
    """Reads the rows that `write_table` wrote, without their differences.

    Raises:
        ValueError: If the columns are others, or a cell holds no number.
    """
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        known = tuple(header[: -len(DIFFERENCE_COLUMNS)])
        if tuple(header) != (*known, *DIFFERENCE_COLUMNS):
            known = tuple(header)
        if known not in (COLUMNS, GRID_COLUMNS):
            raise ValueError(
                f"{path}: the columns are {','.join(header)!r}, not {','.join(COLUMNS)!r}: "
                "give a table that a sweep wrote"
            )
        rows = []
        for cells in reader:
            try:
                rows.append(_row_from_cells(header, cells))
            except ValueError as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
        return rows


def pool_draws(rows: Iterable[Row]) -> list[Point]:
    """Pools the draws of each task, metric and strength into one point.

    Documents are the population, and draws are nested in documents: more draws of the same
    documents sharpen the mean only as far as the noise goes, never below the spread between
    documents. How far it goes is told by the spread of the draws' values, as the noise of one
    document is independent of another's: see `_pooled_error`.

    Args:
        rows: Rows of any number of tasks, metrics, strengths and draws.

    Returns:
        Points in order of first appearance of task and metric, then of rising strengths, the second
        one outside. Unknown standard errors are left out, and that of the mean stays None if every
        draw's is unknown.

    Raises:
        ValueError: If a draw occurs twice.
    """
    curves: dict[tuple[str, str], dict[tuple[float, float], list[Row]]] = {}
    for row in rows:
        place = (row.second_strength or 0.0, float(row.strength))
        cells = curves.setdefault((row.task, row.metric), {}).setdefault(place, [])
        if any(other.draw == row.draw for other in cells):
            raise ValueError(
                f"draw={row.draw} of {row.task}/{row.metric} at strength {row.strength} occurs "
                "twice: pass the rows of one sweep, each once"
            )
        cells.append(row)
    return [_pool(places[place]) for places in curves.values() for place in sorted(places)]


def _pool(draws: Sequence[Row]) -> Point:
    first = draws[0]
    return Point(
        task=first.task,
        metric=first.metric,
        strength=float(first.strength),
        value=_mean([row.value for row in draws]),
        stderr=_pooled_error(draws),
        n=min(row.n for row in draws),  # precision counts predictions, which vary by draw
        draws=0 if is_expected(first.metric) or is_published(first.metric) else len(draws),
        second_strength=first.second_strength,
    )


def _pooled_error(draws: Sequence[Row]) -> float | None:
    """Standard error over documents of a mean over D draws.

    One draw's variance v holds the spread between documents b and that of the noise w, both over n
    documents; the mean of all draws keeps b + w / D, and the draws' values scatter by w. So its
    variance is v - (1 - 1/D) w. The few values at hand are squared and summed for w, and divided by
    D + 1, for the least expected square of its error; what remains is at least v / D, as no noise
    exceeds v. Both lean towards too large an error, as few draws know little of w.
    """
    known = [row.stderr for row in draws if row.stderr is not None and not math.isnan(row.stderr)]
    if not known:
        return None
    if all(error == known[0] for error in known) and all(
        row.value == draws[0].value for row in draws
    ):
        return known[0]
    one = _mean([error**2 for error in known])
    values, count = [row.value for row in draws], len(draws)
    middle = _mean(values)
    noise = sum((value - middle) ** 2 for value in values) / (count + 1)
    if not math.isfinite(noise):
        return None
    return math.sqrt(max(one - (1 - 1 / count) * noise, one / count))


def _mean(values: Sequence[float]) -> float:
    if all(value == values[0] for value in values):
        return float(values[0])  # summing equal numbers would round
    if not all(math.isfinite(value) for value in values):
        return float(sum(values) / len(values))  # fsum refuses inf - inf
    return math.fsum(values) / len(values)


def _row_from_cells(header: Sequence[str], cells: Sequence[str]) -> Row:
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} cells instead of {len(header)}: the line is incomplete")
    found = dict(zip(header, cells, strict=True))
    second = found.get("second_strength", "")
    return Row(
        task=found["task"],
        metric=found["metric"],
        strength=float(found["strength"]),
        draw=int(found["draw"]) if found["draw"] else None,
        value=float(found["value"]),
        stderr=float(found["stderr"]) if found["stderr"] else None,
        n=int(found["n"]),
        second_strength=float(second) if second else None,
    )
