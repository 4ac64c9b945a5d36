"""The files that `aim-plugins coverage` writes for programs: tables, and everything as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aim_plugins.coverage.gaps import Gap
from aim_plugins.coverage.results import Result, format_csv, to_json
from aim_plugins.task_coverage.additions import Additions, additions_csv
from aim_plugins.task_coverage.measure import Measured
from aim_plugins.task_coverage.settings import TaskCoverageSettings
from aim_plugins.task_coverage.suite import Suite


@dataclass(frozen=True, eq=False)
class Findings:
    """What a study found, for its front.

    Attributes:
        settings: What was asked.
        suite: The documents.
        measured: The views, that of neurons first.
        additions: What documents of other tasks add to one, where asked for.
    """

    settings: TaskCoverageSettings
    suite: Suite
    measured: Sequence[Measured]
    additions: Additions | None


def content_of(found: Findings) -> dict[str, str]:
    """The content of a study's files by name."""
    first, *others = found.measured
    files = {
        "coverage.json": json.dumps(_json(found), indent=2) + "\n",
        "coverage.csv": format_csv(first.results),
        "tasks.csv": _tasks_csv(first),
        "uncovered.csv": _gaps_csv(first.gaps, found.suite),
    }
    for one in others:
        files[f"{one.view.name}.csv"] = format_csv(one.results)
        files[f"{one.view.name}-tasks.csv"] = _tasks_csv(one)
    if found.additions is not None:
        files["priority.csv"] = additions_csv(found.additions)
    return files


def _tasks_csv(one: Measured) -> str:
    parts: list[list[str]] = []
    for task, results in one.tasks.items():
        rows = list(csv.reader(io.StringIO(format_csv(results))))
        parts += [["task", *rows[0]]] if not parts else []
        parts += [[task, *row] for row in rows[1:]]
    return _csv(parts)


def _gaps_csv(gaps: Sequence[Gap], suite: Suite) -> str:
    header = ["neurons", "combination", "reference_documents", "nearest", "distance"]
    rows = [
        [
            gap.label,
            gap.description,
            gap.training_inputs,
            suite.documents[gap.nearest].name,
            repr(gap.distance),
        ]
        for gap in gaps
    ]
    return _csv([header, *rows])


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _json(found: Findings) -> dict[str, Any]:
    return {
        "tasks": {name: len(positions) for name, positions in found.suite.tasks.items()},
        **{one.view.name: _view_json(one) for one in found.measured},
        "additions": None if found.additions is None else found.additions.to_json(),
    }


def _view_json(one: Measured) -> dict[str, Any]:
    tasks: Mapping[str, Sequence[Result]] = one.tasks
    return {
        "documents": one.profile.inputs,
        "results": to_json(one.results),
        "by_task": {name: to_json(results) for name, results in tasks.items()},
        "gaps": [asdict(gap) for gap in one.gaps],
    }
