"""What `aim-plugins jobs` shows: one table and one page of what all jobs found, and what failed."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aim_plugins.core.errors import first_few
from aim_plugins.core.files import safe_name
from aim_plugins.core.strengths import Axis, format_strength
from aim_plugins.jobs.found import Found, find, merged_csv
from aim_plugins.jobs.pictures import draw
from aim_plugins.jobs.task import Task
from aim_plugins.sweep.formats import format_value
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.page import Link, Page, Section, Table, publish_page
from aim_plugins.sweep.table import Point, is_expected, is_published

FINISHED, FAILED, REFUSED, LOST, WAITING = "finished", "failed", "refused", "lost", "not started"
_SHOWN = 7
"""Strengths in a table of the page; `results.csv` has all."""


@dataclass(frozen=True)
class State:
    """How one job stands.

    Attributes:
        task: The job.
        word: In a word.
        status: Exit status; None if it left none.
        seconds: How long its last attempt took.
        host: Where it ran.
    """

    task: Task
    word: str
    status: int | None = None
    seconds: float | None = None
    host: str = ""

    @property
    def says(self) -> str:
        """How it ended, with the last line of its log."""
        how = self.word
        if self.status is not None and self.status < 0:
            how = f"killed by signal {-self.status}"
        elif self.word == FAILED:
            how = f"failed with status {self.status}"
        return ": ".join(filter(None, [how, self.task.last_line()]))


def state_of(task: Task, started: bool = True) -> State:
    """How a job stands, by its receipt."""
    receipt = task.receipt()
    if receipt is None:
        return State(task, LOST if started else WAITING)
    word = FINISHED if receipt.status == 0 else REFUSED if receipt.ended else FAILED
    return State(task, word, receipt.status, receipt.seconds, receipt.host)


def publish(folder: Path, states: Sequence[State], manifest: Mapping[str, Any]) -> Path:
    """Writes and prints what all jobs found.

    Args:
        folder: The folder of all jobs.
        states: Every job.
        manifest: The folder's manifest.

    Returns:
        The report's path.

    Raises:
        OSError: If a file cannot be written.
        ValueError: If the table of a job is damaged.
    """
    found = {one.task.name: find(one.task) if one.word == FINISHED else [] for one in states}
    every = [one for several in found.values() for one in several]
    failed = [one for one in states if one.word != FINISHED]
    curves = _curves(every)
    drawn = {_stem(*key): draw(lines, key[0]) for key, lines in curves.items() if _varies(lines)}
    sections = [_failed_section(folder, failed)] if failed else []
    sections += [
        Section(
            f"{task}: {metric}",
            pictures={f"{task}, {metric}": drawn[stem]["png"]} if stem in drawn else {},
            tables=[_values(lines, axis)],
        )
        for (axis, task, metric), lines in curves.items()
        for stem in [_stem(axis, task, metric)]
    ]
    sections.append(Section("Jobs", tables=[_jobs_table(folder, states, found)]))
    summary = _summary(states, failed)
    table = Overview("Jobs", columns=("job", "state"), rows=[(s.task.name, s.says) for s in failed])
    return publish_page(
        folder,
        Page("Jobs", folder.resolve().name, f"{len(states)} jobs", summary, sections),
        manifest,
        files={"results.csv": merged_csv(every), "jobs.csv": _jobs_csv(states, found)},
        pictures={
            f"{stem}.{kind}": content
            for stem, files in drawn.items()
            for kind, content in files.items()
        },
        table=table.as_text() if failed else "",
        sentences=[*(f"log of {one.task.name}: {one.task.log}" for one in failed), summary],
    )


def _summary(states: Sequence[State], failed: Sequence[State]) -> str:
    text = f"{len(states) - len(failed)} of {len(states)} jobs have finished"
    names = [one.task.name for one in failed]
    return f"{text}; without results: {first_few(names)}." if failed else f"{text}."


def _curves(found: Sequence[Found]) -> dict[tuple[Axis, str, str], dict[str, list[Point]]]:
    """The points of each task and metric along one axis, by job; those of grids stay in files."""
    curves: dict[tuple[Axis, str, str], dict[str, list[Point]]] = {}
    for one in found:
        for point in one.points if len(one.axes) == 1 else ():
            if not is_expected(point.metric) and not is_published(point.metric):
                lines = curves.setdefault((one.axes[0], point.task, point.metric), {})
                lines.setdefault(one.label, []).append(point)
    return curves


def _varies(lines: Mapping[str, Sequence[Point]]) -> bool:
    return any(len(points) > 1 for points in lines.values())


def _stem(axis: Axis, task: str, metric: str) -> str:
    return safe_name(f"{task}-{metric}-{axis.name}")


def _values(lines: Mapping[str, Sequence[Point]], axis: Axis) -> Table:
    strengths = sorted({point.strength for points in lines.values() for point in points})
    last = len(strengths) - 1
    count = min(_SHOWN, len(strengths))
    shown = [strengths[round(place * last / max(1, count - 1))] for place in range(count)]
    rows = []
    for label, points in lines.items():
        values = {point.strength: format_value(point.value) for point in points}
        rows.append([label, *(values.get(one, "–") for one in shown), str(points[0].n)])
    names = [f"{axis.symbol} = {format_strength(one)}" for one in shown]
    return Table(["job", *names, "n"], rows)


def _beside(folder: Path, path: Path, text: str) -> Link:
    return Link(text, Path(os.path.relpath(path, folder.resolve())))


def _failed_section(folder: Path, failed: Sequence[State]) -> Section:
    rows = [
        [one.task.name, one.says, _beside(folder, one.task.log, "log") if one.task.log.exists()
         else "–"]
        for one in failed
    ]  # fmt: skip
    note = "The same command starts them again, and leaves the others as they are."
    return Section("Without results", note, tables=[Table(["job", "how it ended", "log"], rows)])


def _jobs_table(
    folder: Path, states: Sequence[State], found: Mapping[str, Sequence[Found]]
) -> Table:
    rows: list[list[str]] = []
    for one in states:
        minutes = "–" if one.seconds is None else f"{one.seconds / 60:.1f}"
        log = _beside(folder, one.task.log, "log") if one.task.log.exists() else "–"
        start = [one.task.name, one.word, minutes, one.host or "–", log]
        reports = [
            [part.label, *start[1:], _beside(folder, part.report, "report"), part.summary]
            for part in found[one.task.name]
            if part.report is not None
        ]
        rows += reports or [[*start, "–", ""]]
    return Table(["job", "state", "minutes", "host", "log", "report", "what it says"], rows)


def _jobs_csv(states: Sequence[State], found: Mapping[str, Sequence[Found]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["job", "state", "status", "seconds", "host", "identity", "log", "reports"])
    for one in states:
        task = one.task
        reports = [str(part.report) for part in found[task.name] if part.report is not None]
        numbers = ["" if value is None else value for value in (one.status, one.seconds)]
        writer.writerow(
            [task.name, one.word, *numbers, one.host, task.identity, task.log, " ".join(reports)]
        )
    return text.getvalue()
