"""What finished jobs have found: the tables of their sweeps, and the reports of all."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aim_plugins.core.strengths import Axis
from aim_plugins.jobs.task import Task
from aim_plugins.sweep.front import TABLE
from aim_plugins.sweep.manifest import AXES, MANIFEST
from aim_plugins.sweep.table import (
    COLUMNS,
    GRID_COLUMNS,
    Point,
    Row,
    pool_draws,
    read_table,
    table_cell,
)

REPORT = "report.html"
_SUMMARY = re.compile(r'<p class="summary">(.*?)</p>', re.DOTALL)
_STRENGTH = Axis("strength", "s", "strength")
"""Of a table whose manifest names no axis, such as OpenCompass's."""


@dataclass(frozen=True)
class Found:
    """One folder of a job's results that has a table or a report.

    Attributes:
        job: The job.
        part: The folder below the job's results; empty for that itself.
        rows: Its table; empty where it has none of a sweep.
        axes: What varies in it.
        report: Its report, if it has one.
        summary: What the report says first.
    """

    job: str
    part: str
    rows: Sequence[Row]
    axes: Sequence[Axis]
    report: Path | None
    summary: str

    @property
    def label(self) -> str:
        """What a line of a picture is called."""
        return f"{self.job}/{self.part}" if self.part else self.job

    @property
    def points(self) -> list[Point]:
        """Its rows, pooled over draws."""
        return pool_draws(self.rows)


def find(task: Task) -> list[Found]:
    """What a finished job has found.

    Args:
        task: The job.

    Raises:
        ValueError: If a table is damaged.
    """
    places = {path.parent for name in (TABLE, REPORT) for path in task.results.rglob(name)}
    return [_read(task, folder) for folder in sorted(places)]


def _read(task: Task, folder: Path) -> Found:
    part = folder.relative_to(task.results).as_posix()
    report = folder / REPORT
    summary = ""
    if report.is_file():
        said = _SUMMARY.search(report.read_text(encoding="utf-8"))
        summary = " ".join(html.unescape(said[1]).split()) if said else ""
    return Found(
        job=task.name,
        part="" if part == "." else part,
        rows=read_table(folder / TABLE) if (folder / TABLE).is_file() else (),
        axes=_axes(folder),
        report=report if report.is_file() else None,
        summary=summary,
    )


def _axes(folder: Path) -> Sequence[Axis]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return tuple(Axis(**fields) for fields in manifest[AXES]) or (_STRENGTH,)
    except (OSError, ValueError, KeyError, TypeError):
        return (_STRENGTH,)


def merged_csv(found: Iterable[Found]) -> str:
    """The tables of all jobs as one, whose first columns name job and part."""
    found = list(found)
    grid = any(row.second_strength is not None for one in found for row in one.rows)
    columns = GRID_COLUMNS if grid else COLUMNS
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["job", "part", *columns])
    for one in found:
        for row in one.rows:
            cells = [table_cell(getattr(row, column)) for column in columns]
            writer.writerow([one.job, one.part, *cells])
    return text.getvalue()
