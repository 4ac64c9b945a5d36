"""Hands a table of columns to lm-evaluation-harness, one column at a time.

The harness has no notion of several answers to one request. Its own `evaluate` therefore runs once
for each column: in the first run the model answers every request under all columns, in the others
the finished table is replayed, which takes milliseconds. Metrics, filters, groups and standard
errors stay the harness's; bootstrapped errors are computed as it does, but faster.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from lm_eval import evaluator

from aim_plugins.core.strengths import format_strength
from aim_plugins.harnesses.lm_eval.arguments import cells_of
from aim_plugins.harnesses.lm_eval.bootstrap import shared_resamples
from aim_plugins.harnesses.lm_eval.receipts import file_receipts
from aim_plugins.modulation.arguments import swept_kinds
from aim_plugins.sweep.cells import Cell
from aim_plugins.sweep.table import Row, pool_draws

Evaluate = Callable[[Any], dict[str, Any] | None]
"""The harness's `evaluate` with everything given but the model."""

Consumer = Callable[[Any, dict[str, Any], Evaluate], dict[str, Any] | None]
"""Takes the model, the loaded tasks and `evaluate`; returns what the harness should report."""

_consumer: ContextVar[Consumer | None] = ContextVar("consumer", default=None)
_REQUEST_TYPES = ("loglikelihood", "loglikelihood_rolling", "generate_until")
_NOT_METRICS = frozenset({"alias", "name", "sample_len", "sample_count"})


class ColumnReplay:
    """Stands for a model under one of its columns.

    Args:
        lm: A model with `columns`, `table` and `answer`, such as `AimHFLM`.
        before_table: Called with a request type and its requests before their table is computed.

    Attributes:
        column: Index of the column that requests are answered with.
        tables: Answers under all columns, by request type.
        requests: The requests of each table.
    """

    def __init__(
        self, lm: Any, before_table: Callable[[str, list[Any]], None] | None = None
    ) -> None:
        self._lm = lm
        self._before_table = before_table
        self.column = 0
        self.tables: dict[str, list[Any]] = {}
        self.requests: dict[str, list[Any]] = {}

    def __getattr__(self, name: str) -> Any:
        if name in _REQUEST_TYPES:
            return functools.partial(self._replay, name)
        return getattr(self._lm, name)

    def _replay(self, request_type: str, requests: list[Any]) -> list[Any]:
        if request_type not in self.tables:
            if self._before_table is not None:
                self._before_table(request_type, requests)
            self.tables[request_type] = self._lm.table(request_type, requests)
            self.requests[request_type] = requests
        table = self.tables[request_type]
        return [self._lm.answer(request_type, row, self.column) for row in table]


def replay_columns(
    lm: ColumnReplay, tasks: dict[str, Any], evaluate: Evaluate, columns: Iterable[int]
) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Evaluates each column with the harness's own `evaluate`.

    Args:
        lm: The model.
        tasks: Task objects by name.
        evaluate: The harness's evaluation of the tasks with a given model.
        columns: Indices of the columns wanted.

    Yields:
        The column's index and the harness's results (None in all but the first process).

    Raises:
        ReceiptError: If an answer came without a receipt of its column.
    """
    built = False
    try:
        for column in columns:
            lm.column = column
            with shared_resamples():
                results = evaluate(lm)
            file_receipts((results or {}).get("samples") or {}, lm.columns[column])
            yield column, results
            for task in tasks.values():
                # New objects: the samples of the column just evaluated refer to the old ones.
                for instance in task.instances:
                    instance.resps, instance.filtered_resps = [], {}
                if not built:
                    task.build_all_requests = lambda **_: None
            built = True
    finally:
        for task in tasks.values():
            vars(task).pop("build_all_requests", None)


def install() -> None:
    """Lets `lm_eval.simple_evaluate`, and so the `lm_eval` command, evaluate tables of columns.

    Of a model of ours with one column the samples get their receipts; those of everybody else pass
    through untouched.
    """
    original = evaluator.evaluate
    if getattr(original, "replays_columns", False):
        return

    @functools.wraps(original)
    def evaluate(lm: Any, task_dict: dict[str, Any], **options: Any) -> Any:
        consumer = _consumer.get()
        columns = getattr(lm, "columns", ())
        if consumer is None and len(columns) > 1:
            consumer = merge_columns
        if consumer is None:
            results = original(lm, task_dict, **options)
            for column in columns:
                file_receipts((results or {}).get("samples") or {}, column)
            return results
        return consumer(lm, task_dict, lambda model: original(model, task_dict, **options))

    evaluate.replays_columns = True  # type: ignore[attr-defined]
    evaluator.evaluate = evaluate


@contextmanager
def consume_columns(consumer: Consumer) -> Iterator[None]:
    """Sends every evaluation within the context to `consumer`."""
    install()
    token = _consumer.set(consumer)
    try:
        yield
    finally:
        _consumer.reset(token)


def table_rows(results: dict[str, Any], cell: Cell) -> list[Row]:
    """The metrics in the harness's results as rows of the tidy table, tasks and groups."""
    rows = []
    for task, metrics in results["results"].items():
        count = _sample_count(results, task, metrics)
        for key, value in metrics.items():
            metric, _, filter_name = key.partition(",")
            if key in _NOT_METRICS or metric.endswith("_stderr") or not _is_number(value):
                continue
            stderr = metrics.get(f"{metric}_stderr,{filter_name}")
            label = metric if filter_name in ("", "none") else key
            rows.append(
                Row(
                    task,
                    label,
                    cell.strength,
                    cell.draw,
                    float(value),
                    float(stderr) if _is_number(stderr) else None,
                    count,
                    cell.second_strength,
                )
            )
    return rows


def merge_columns(lm: Any, task_dict: dict[str, Any], evaluate: Evaluate) -> dict[str, Any] | None:
    """One report for all columns: the metric `acc` at strength 0.5 is called `acc@0.5`.

    Draws are pooled into their mean.
    """
    tasks = task_dict["tasks"]
    columns = lm.columns
    cells = cells_of(columns, swept_kinds(columns))  # which may refuse them
    per_column = dict(replay_columns(ColumnReplay(lm), tasks, evaluate, range(len(columns))))
    merged = per_column[0]
    if merged is None:
        return None
    rows = [
        row
        for index, results in per_column.items()
        if results is not None
        for row in table_rows(results, cells[index])
    ]
    for section in ("results", "groups"):
        for task, metrics in merged.get(section, {}).items():
            for key in [key for key in metrics if "," in key]:
                del metrics[key]
            for point in pool_draws(row for row in rows if row.task == task):
                metric, _, filter_name = point.metric.partition(",")
                label = f"{metric}@{_written(point.strengths)}"
                metrics[f"{label},{filter_name or 'none'}"] = point.value
                stderr = "N/A" if point.stderr is None else point.stderr
                metrics[f"{label}_stderr,{filter_name or 'none'}"] = stderr
    for task, samples in merged.get("samples", {}).items():
        samples[:] = [
            sample | {"filter": f"{sample['filter']}@{_written(cells[index].strengths)}"}
            for index, results in per_column.items()
            if results is not None
            for sample in results["samples"][task]
        ]
    return merged


def _written(strengths: Sequence[float]) -> str:
    return "/".join(map(format_strength, strengths))  # a comma parts metric and filter


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sample_count(results: dict[str, Any], task: str, metrics: dict[str, Any]) -> int:
    if "sample_len" in metrics:
        return int(metrics["sample_len"])
    if task in results.get("n-samples", {}):
        return int(results["n-samples"][task]["effective"])
    return int(metrics.get("sample_count", {}).get("none", 0))
