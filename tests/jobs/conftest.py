"""Jobs that take a moment, and fronts that start them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from aim_plugins.jobs import by_submitit, settings

HERE = Path(__file__).parent

FRONT = """
import sys
from aim_plugins import cli
from aim_plugins.jobs import by_submitit, settings
settings.PROGRAMS["toy"], by_submitit.POLL = "toy", 0.2
sys.exit(cli.main(["jobs", *sys.argv[1:]]))
"""


@dataclass(frozen=True)
class Yard:
    """A folder with a config of jobs and all that they leave."""

    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / "out"

    @property
    def starts(self) -> Path:
        return self.folder / "marks" / "starts.txt"

    @property
    def gate(self) -> Path:
        return self.folder / "marks" / "gate"

    def toy(self, *seeds: int, **options: object) -> dict:
        """A job."""
        name = f"job{'-'.join(map(str, seeds))}"
        given = {
            "output": "{output}",
            "seeds": list(seeds),
            "marks": str(self.gate.parent),
        } | options
        return {"name": name, "command": "toy", "options": given}

    def write(self, jobs: list, **rest: object) -> Path:
        """A config."""
        path = self.folder / "jobs.json"
        path.write_text(json.dumps({"jobs": jobs, "output": str(self.output)} | rest))
        return path

    def front(self, config: Path, *options: str) -> subprocess.Popen:
        """The command in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", FRONT, str(config), *options],
            cwd=HERE,
            stderr=subprocess.PIPE,
            text=True,
            stdout=subprocess.DEVNULL,
        )

    def started(self) -> list[str]:
        """The jobs that were started, in order."""
        lines = self.starts.read_text().splitlines() if self.starts.exists() else []
        return [line.rpartition(" ")[0] for line in lines]

    def alive(self) -> list[int]:
        """Processes of jobs that are there still."""
        lines = self.starts.read_text().splitlines() if self.starts.exists() else []
        found = []
        for line in lines:
            number = int(line.rpartition(" ")[2])
            try:
                state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state != "Z":
                found.append(number)
        return found

    def rows(self) -> list[tuple[str, ...]]:
        """The merged table without the jobs' names, sorted."""
        with open(self.output / "results.csv", newline="") as file:
            return sorted(tuple(row[2:]) for row in csv.reader(file))

    def states(self) -> dict[str, str]:
        """Every job's state."""
        with open(self.output / "jobs.csv", newline="") as file:
            return {row["job"]: row["state"] for row in csv.DictReader(file)}


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for something to become true."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Yard:
    monkeypatch.setitem(settings.PROGRAMS, "toy", "toy")
    monkeypatch.setattr(by_submitit, "POLL", 0.2)
    monkeypatch.chdir(HERE)  # where `python -m toy` finds it
    (tmp_path / "marks").mkdir()
    return Yard(tmp_path)


@pytest.fixture
def alone(yard: Yard) -> Callable[..., list[tuple[str, ...]]]:
    """The table of one process that measures several seeds, as `Yard.rows` has it."""

    def measure(*seeds: int) -> list[tuple[str, ...]]:
        folder = yard.folder / "alone"
        words = [sys.executable, "-m", "toy", "--output", str(folder), "--seeds"]
        subprocess.run([*words, *map(str, seeds)], check=True, env=os.environ)
        with open(folder / "sweep.csv", newline="") as file:
            return sorted(tuple(row) for row in csv.reader(file))

    return measure
