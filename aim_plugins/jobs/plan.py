"""The tasks of a config: the words of each job filled in, its folder, and its identity."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from aim_plugins.core.identity import fingerprint
from aim_plugins.jobs.identity import named_files
from aim_plugins.jobs.settings import JOBS, OUTPUT, PROGRAMS, RESULTS, Job, JobsSettings
from aim_plugins.jobs.task import Task
from aim_plugins.sweep.manifest import redact

_DAY = 24 * 60
"""Minutes; Slurm kills a job at the end of its time, and submitit would say five."""


def plan(settings: JobsSettings) -> tuple[list[Task], list[Task]]:
    """The tasks that may start at once, and those that wait for all of them.

    The identity of the latter follows from those of the former too: what was made of old results is
    made again of new ones.
    """
    first = [_task(job, settings, ()) for job in settings.jobs]
    before = [task.identity for task in first]
    return first, [_task(job, settings, before) for job in settings.then]


def _task(job: Job, settings: JobsSettings, before: Sequence[str]) -> Task:
    folder, cwd = settings.output.resolve(), Path.cwd()
    own = folder / job.label
    words = [
        word.replace(JOBS, str(folder)).replace(OUTPUT, str(own / RESULTS)) for word in job.words
    ]
    told = {
        "words": list(job.words),
        "files": named_files(job.words, cwd),
        "version": version("aim-plugins"),
        "before": list(before),
    }
    minutes = settings.minutes if job.minutes is None else job.minutes
    return Task(
        name=job.label,
        folder=own,
        argv=(sys.executable, "-m", PROGRAMS[words[0]], *words[1:]),
        cwd=cwd,
        identity=fingerprint(told),
        gpus=settings.gpus if job.gpus is None else job.gpus,
        cpus=settings.cpus if job.cpus is None else job.cpus,
        memory_gb=settings.memory_gb if job.memory_gb is None else job.memory_gb,
        minutes=_DAY if minutes is None and settings.on == "slurm" else minutes,
        shown=tuple(redact(words)),
    )
