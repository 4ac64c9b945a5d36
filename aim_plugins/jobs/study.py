"""`aim-plugins jobs`: runs what is missing, and merges what is there.

OUTPUT/
  NAME/          a folder for each job, see `task`
  results.csv    the tables of all jobs' sweeps
  jobs.csv       how each job ended, where, and its log
  curves/        a picture for each metric of each task, with a line for each job
  report.html    all of it on one page, what failed first
  manifest.json
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aim_plugins.core.commands import say
from aim_plugins.jobs.by_ray import run_by_ray
from aim_plugins.jobs.by_submitit import run_here, run_on_slurm
from aim_plugins.jobs.front import FINISHED, State, publish, state_of
from aim_plugins.jobs.plan import plan
from aim_plugins.jobs.settings import JobsSettings
from aim_plugins.jobs.task import Task
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers

_SUBMITIT = ".submitit"


class JobsStudy(FolderStudy):
    """Jobs in one folder, whose list may change between runs.

    Args:
        settings: The jobs, and where they run.
        command: The words that repeat it, for the report.
    """

    packages = ("aim-plugins",)

    def __init__(self, settings: JobsSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command, self.output = settings, command, settings.output
        self.first, self.then = plan(settings)
        self.states: list[State] = []

    @property
    def arguments(self) -> dict[str, Any]:
        return {"command": "jobs"}

    def measure(self, store: SweepStore) -> None:
        tasks = [*self.first, *self.then]
        self._ended, self._count = sum(map(_is_finished, tasks)), len(tasks)
        if self._ended:
            say(f"jobs: {self._ended} of {self._count} have finished already")
        for task in tasks:
            task.prepare()
        self._run(self.first)
        go_on = all(map(_is_finished, self.first))
        if go_on:
            self._run(self.then)
        elif self.then:
            say("jobs: those of `then` wait until all of `jobs` have finished")
        self.states = [
            *(state_of(task) for task in self.first),
            *(state_of(task, started=go_on) for task in self.then),
        ]

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        return publish(self.output, self.states, store.manifest)

    @property
    def failed(self) -> bool:
        """Whether any job has not finished."""
        return any(state.word != FINISHED for state in self.states)

    def _run(self, tasks: Sequence[Task]) -> None:
        left = [task for task in tasks if not _is_finished(task)]
        if self.settings.on == "ray":
            if left:
                run_by_ray(left, self.settings, self._tell)
            return
        run = run_on_slurm if self.settings.on == "slurm" else run_here
        folder = self.output.resolve() / _SUBMITIT
        for _ in range(1 + self.settings.retries):
            if left:
                run(left, self.settings, folder, self._tell)
            left = [task for task in left if not _has_ended(task)]
        shutil.rmtree(folder, ignore_errors=True)

    def _tell(self, task: Task, said: str) -> None:
        """Says how a task has ended; what its engine says goes into the log of one without."""
        state = state_of(task)
        if state.word == FINISHED:
            self._ended += 1
            say(f"jobs: {self._ended} of {self._count} have finished: {task.name}")
            return
        if state.status is None and said:
            with open(task.log, "a", encoding="utf-8") as log:
                log.write(f"== lost; {self.settings.on} says: {said}\n")
        say(f"jobs: {task.name} {state_of(task).says} ({task.log})")


def _is_finished(task: Task) -> bool:
    return state_of(task).word == FINISHED


def _has_ended(task: Task) -> bool:
    receipt = task.receipt()
    return receipt is not None and receipt.ended
