"""Runs tasks by submitit: as arrays of Slurm, or as processes of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import as_completed as futures_as_completed
from pathlib import Path
from typing import Any

from aim_plugins.core.commands import say
from aim_plugins.core.errors import ForeseenFailure
from aim_plugins.core.files import CorruptRecordError, seal, unseal, write_atomic
from aim_plugins.jobs.settings import JobsSettings
from aim_plugins.jobs.task import Receipt, Task

_HANDED_OVER = "slurm.json"
"""In a task's folder: the job of Slurm that runs it, for a front that is started again."""
POLL = 10.0
"""Seconds between looks at Slurm's queue."""
_FOREVER = 10**6
"""Minutes; submitit would stop a process of this machine after five."""

Ended = Callable[[Task, str], None]


class Attempt:
    """Runs a task; one that is preempted or out of time is put back into the queue."""

    def __call__(self, task: Task) -> Receipt:
        return task.run()

    def checkpoint(self, task: Task) -> Any:
        """What submitit submits in its place."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, task)


def run_on_slurm(tasks: Sequence[Task], settings: JobsSettings, folder: Path, ended: Ended) -> None:
    """Submits an array for each kind of resources, and waits until all have ended.

    What a former front has submitted, and is queued or running still, is waited for in its place.

    Args:
        tasks: What to run.
        settings: What else Slurm is told.
        folder: Where submitit keeps its files.
        ended: Called for each task once it has ended, with what submitit says if it says anything.

    Raises:
        ForeseenFailure: If Slurm takes no jobs.
    """
    from submitit import SlurmJob

    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ForeseenFailure("sbatch and srun are not there: start this on a node of a cluster")
    jobs: dict[Any, Task] = {}
    queued = _queued()
    for task in tasks:
        if (known := _handed_over(task)) in queued:
            jobs[SlurmJob(folder, str(known))] = task
    if jobs:
        say(f"jobs: {len(jobs)} are queued or running already, and waited for")
    waited = {task.name for task in jobs.values()}
    try:
        for alike in _by_resources(task for task in tasks if task.name not in waited):
            executor = _executor("slurm", folder, alike[0], settings)
            try:
                submitted = executor.map_array(Attempt(), alike)
            except Exception as error:  # submitit raises kinds of its own, with sbatch's words
                raise ForeseenFailure(f"Slurm took no jobs: {error}") from error
            for job, task in zip(submitted, alike, strict=True):
                jobs[job] = task
                note = {"job": job.job_id, "identity": task.identity}
                write_atomic(task.folder / _HANDED_OVER, seal(note))
        for job in _as_they_end(list(jobs)):
            ended(jobs[job], _said_by(job))
    except KeyboardInterrupt:
        for job in jobs:
            job.cancel(check=False)
        raise


def run_here(tasks: Sequence[Task], settings: JobsSettings, folder: Path, ended: Ended) -> None:
    """Runs tasks as processes of this machine, as many at a time as the settings say.

    See `run_on_slurm`.
    """
    started: list[Any] = []
    lock, stopped = threading.Lock(), threading.Event()

    def one(task: Task) -> str:
        with lock:
            if stopped.is_set():
                return ""
            executor = _executor("local", folder, task, settings)
            with _stderr_into(folder / "controllers.txt"):
                job = executor.submit(Attempt(), task)
            started.append(job)
        job.wait()
        return _said_by(job)

    with ThreadPoolExecutor(settings.at_once or 1) as pool:
        futures = {pool.submit(one, task): task for task in tasks}
        try:
            for future in futures_as_completed(futures):
                said = future.result()
                with lock:
                    ended(futures[future], said)
        except BaseException:
            stopped.set()
            with lock:
                for job in started:
                    if not job.done():
                        job.cancel()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextlib.contextmanager
def _stderr_into(path: Path) -> Iterator[None]:
    """Gives processes that start meanwhile another standard error.

    Submitit's own process for each job would show its traceback on Ctrl-C.
    """
    kept, file = os.dup(2), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 2)
    os.close(file)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _as_they_end(jobs: Sequence[Any]) -> Iterator[Any]:
    """Yields jobs of Slurm once they have left a result, or the queue.

    The queue is asked in place of sacct, as submitit would, since many clusters keep no accounts.
    """
    left, gone = list(jobs), set[str]()
    while left:
        time.sleep(POLL)
        try:
            queued = _queued()
        except ForeseenFailure:  # its controller may be away for a while
            continue
        for job in list(left):
            # A job that has left the queue has a moment for its files to be seen from here.
            if job.paths.result_pickle.exists() or job.job_id in gone - queued:
                left.remove(job)
                yield job
        gone = {job.job_id for job in left} - queued


def _executor(cluster: str, folder: Path, task: Task, settings: JobsSettings) -> Any:
    from submitit import AutoExecutor

    executor = AutoExecutor(folder, cluster=cluster)
    executor.update_parameters(
        name="aim-plugins",
        cpus_per_task=task.cpus,
        gpus_per_node=int(task.gpus) or None,
        mem_gb=task.memory_gb,
        timeout_min=_FOREVER if cluster == "local" or task.minutes is None else task.minutes,
    )
    if cluster == "slurm":
        if settings.at_once is not None:
            executor.update_parameters(slurm_array_parallelism=settings.at_once)
        try:
            executor.update_parameters(**settings.slurm)
        except (NameError, ValueError, AssertionError, TypeError) as error:
            first = " ".join(str(error).split())
            raise ValueError(f"slurm={dict(settings.slurm)!r}: {first}") from error
    return executor


def _by_resources(tasks: Iterable[Task]) -> list[list[Task]]:
    """Tasks that ask for the same, as an array is of one kind."""
    kinds: dict[Any, list[Task]] = {}
    for task in tasks:
        kinds.setdefault((task.gpus, task.cpus, task.memory_gb, task.minutes), []).append(task)
    return list(kinds.values())


def _queued() -> set[str]:
    """Ids of this user's jobs that are queued or running; those of arrays one by one."""
    words = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    try:
        said = subprocess.run(words, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ForeseenFailure(f"squeue failed ({error}): jobs may be running already") from error
    return {line.strip() for line in said.stdout.splitlines()}


def _handed_over(task: Task) -> str | None:
    """The job of Slurm that a former front made of a task."""
    try:
        note = unseal((task.folder / _HANDED_OVER).read_text(encoding="utf-8"))
    except (OSError, CorruptRecordError, UnicodeDecodeError):
        return None
    return str(note["job"]) if note.get("identity") == task.identity else None


def _said_by(job: Any) -> str:
    """The end of what submitit's own process said, for a task that left no receipt."""
    try:
        return "\n".join(str(job.stderr() or "").strip().splitlines()[-3:])
    except Exception:  # it has no log, or was cancelled before it had one
        return ""
