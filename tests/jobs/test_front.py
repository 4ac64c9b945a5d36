"""What the page and the table of all jobs hold."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from aim_plugins.core.strengths import Axis
from aim_plugins.jobs.found import find, merged_csv
from aim_plugins.jobs.front import publish, state_of
from aim_plugins.jobs.task import RECEIPT, Receipt, Task
from aim_plugins.sweep.table import Row, write_table

SIGMA = Axis("std", "σ", "noise std", "logits", low=0.0)
EVIL = "<script>alert(1)</script>"


def finished(folder: Path, name: str, rows: list[Row], part: str = "") -> Task:
    """A job that has left a table, a manifest and a report."""
    from dataclasses import asdict

    from aim_plugins.core.files import seal

    task = Task(name, folder / name, ("true",), folder, "identity")
    place = task.results / part
    place.mkdir(parents=True)
    write_table(place / "sweep.csv", rows)
    (place / "manifest.json").write_text(json.dumps({"axes": [SIGMA.to_json()]}))
    (place / "report.html").write_text(f'<p class="summary">It falls &amp; {EVIL}</p>')
    (task.folder / RECEIPT).write_text(seal(asdict(Receipt("identity", 0, 90.0, "node7"))))
    return task


def curve(task: str, *values: float) -> list[Row]:
    return [Row(task, "acc", place / 2, 0, one, 0.01, 50) for place, one in enumerate(values)]


def test_curves_of_one_task_stand_in_one_picture_and_one_table(tmp_path: Path, capsys) -> None:
    tasks = [
        finished(tmp_path, "llama", curve("quiz", 0.75, 0.5, 0.25)),
        finished(tmp_path, "qwen", [*curve("quiz", 0.875, 0.625), *curve("other", 1.0)]),
    ]
    publish(tmp_path, [state_of(task) for task in tasks], {})
    page = (tmp_path / "report.html").read_text()
    assert page.count("<h2>quiz: acc</h2>") == 1 and "σ = 0.5" in page
    assert page.count("data:image/png") == 1  # one point makes no curve
    assert {path.name for path in (tmp_path / "curves").iterdir()} == {
        "quiz-acc-std.png",
        "quiz-acc-std.svg",
    }
    line = page.split('<tr><th scope="row">qwen</th>')[1].split("</tr>")[0]
    assert "0.875" in line and "0.625" in line and "–" in line
    assert 'href="llama/results/report.html"' in page and "node7" in page
    assert "It falls &amp;" in page and EVIL not in page


def test_parts_of_a_job_are_told_apart(tmp_path: Path) -> None:
    task = finished(tmp_path, "both", curve("quiz", 0.5), part="20260101/summary/sweep/llama")
    write_table(task.results / "sweep.csv", curve("quiz", 0.25))
    rows = list(csv.DictReader(merged_csv(find(task)).splitlines()))
    assert [(row["part"], row["value"]) for row in rows] == [
        ("", "0.25"),
        ("20260101/summary/sweep/llama", "0.5"),
    ]


def test_a_job_of_another_identity_counts_as_lost(tmp_path: Path) -> None:
    finished(tmp_path, "one", curve("quiz", 0.5))
    other = Task("one", tmp_path / "one", ("true",), tmp_path, "another")
    assert state_of(other).word == "lost" and state_of(other, started=False).word == "not started"
