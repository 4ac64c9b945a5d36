"""The tidy table of a sweep, and the points of its curves."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
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
        strength: Strength of the modulation, for logit noise its std in logit units.
        draw: Index of the noise draw; None where nothing was drawn.
        value: The metric's value, a mean over `n` documents.
        stderr: Standard error of the value over documents; None or NaN where unknown.
        n: Number of documents.
    """

    task: str
    metric: str
    strength: float
    draw: int | None
    value: float
    stderr: float | None
    n: int

    def __post_init__(self) -> None:
        validate_strength(self.strength, name="strength", signed=True)
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
    """

    task: str
    metric: str
    strength: float
    value: float
    stderr: float | None
    n: int
    draws: int


COLUMNS = tuple(field.name for field in fields(Row))


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


def write_table(path: str | Path, rows: Iterable[Row]) -> Path:
    """Writes rows as CSV, atomically; floats read back exactly.

    Args:
        path: The file to write.
        rows: The rows, kept in their order.

    Returns:
        The path written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(
            [
                row.task,
                row.metric,
                repr(float(row.strength)),
                "" if row.draw is None else int(row.draw),
                repr(float(row.value)),
                "" if row.stderr is None else repr(float(row.stderr)),
                int(row.n),
            ]
        )
    return write_atomic(path, text.getvalue())


def read_table(path: str | Path) -> list[Row]:
    """Reads what `write_table` wrote.

    Raises:
        ValueError: If the columns are others, or a cell holds no number.
    """
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            raise ValueError(
                f"{path}: the columns are {','.join(header)!r}, not {','.join(COLUMNS)!r}: "
                "give a table that a sweep wrote"
            )
        rows = []
        for cells in reader:
            try:
                rows.append(_row_from_cells(cells))
            except ValueError as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
        return rows


def pool_draws(rows: Iterable[Row]) -> list[Point]:
    """Pools the draws of each task, metric and strength into one point.

    Documents are the population, and draws are nested in documents: more draws of the same
    documents sharpen the mean only as far as the noise goes, never below the spread between
    documents. The rows hold each draw's own standard error but not the covariance between draws,
    so the pooled standard error is their mean: an upper bound whatever that covariance is (a
    standard deviation is a norm: sd(Σ x_d / D) ≤ Σ sd(x_d) / D), reached when noise does not
    matter, as at strength 0.

    Args:
        rows: Rows of any number of tasks, metrics, strengths and draws.

    Returns:
        Points in order of first appearance of task and metric, then of rising strength. An unknown
        standard error is left out of the mean, and stays None if every draw's is unknown.

    Raises:
        ValueError: If a draw occurs twice.
    """
    curves: dict[tuple[str, str], dict[float, list[Row]]] = {}
    for row in rows:
        cells = curves.setdefault((row.task, row.metric), {}).setdefault(float(row.strength), [])
        if any(other.draw == row.draw for other in cells):
            raise ValueError(
                f"draw={row.draw} of {row.task}/{row.metric} at strength {row.strength} occurs "
                "twice: pass the rows of one sweep, each once"
            )
        cells.append(row)
    return [
        _pool(strengths[strength])
        for strengths in curves.values()
        for strength in sorted(strengths)
    ]


def _pool(draws: Sequence[Row]) -> Point:
    first = draws[0]
    known = [row.stderr for row in draws if row.stderr is not None and not math.isnan(row.stderr)]
    return Point(
        task=first.task,
        metric=first.metric,
        strength=float(first.strength),
        value=_mean([row.value for row in draws]),
        stderr=_mean(known) if known else None,
        n=first.n,
        draws=0 if is_expected(first.metric) or is_published(first.metric) else len(draws),
    )


def _mean(values: Sequence[float]) -> float:
    if all(value == values[0] for value in values):
        return float(values[0])  # summing equal numbers would round
    if not all(math.isfinite(value) for value in values):
        return float(sum(values) / len(values))  # fsum refuses inf - inf
    return math.fsum(values) / len(values)


def _row_from_cells(cells: Sequence[str]) -> Row:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{len(cells)} cells instead of {len(COLUMNS)}: the line is incomplete")
    task, metric, strength, draw, value, stderr, n = cells
    return Row(
        task=task,
        metric=metric,
        strength=float(strength),
        draw=int(draw) if draw else None,
        value=float(value),
        stderr=float(stderr) if stderr else None,
        n=int(n),
    )
