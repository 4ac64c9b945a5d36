"""Runs tasks by Ray, which places them by the GPUs, cores and memory that they ask for."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aim_plugins.core.commands import say
from aim_plugins.core.errors import ForeseenFailure
from aim_plugins.jobs.settings import JobsSettings
from aim_plugins.jobs.task import AttemptFailed, Receipt, Task

_QUIET = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.WARNING}
"""Of a Ray that is started here and ends with the jobs."""
_GB = 10**9


def run_by_ray(
    tasks: Sequence[Task], settings: JobsSettings, ended: Callable[[Task, str], None]
) -> None:
    """Runs tasks on the cluster that the settings name, or on one of this machine.

    Ray starts those again that failed, or whose node was lost.

    Args:
        tasks: What to run.
        settings: The cluster, and how often a task is tried again.
        ended: Called for each task once it has ended, with what Ray says if it says anything.

    Raises:
        ForeseenFailure: If there is no such cluster.
    """
    import ray

    begun = not ray.is_initialized()
    if begun:
        _connect(settings.ray)
    refs: dict[Any, Task] = {}
    try:
        _tell_impossible(tasks, ray.nodes())
        remote = ray.remote(_run)
        for task in tasks:
            asked: dict[str, Any] = {"num_gpus": task.gpus, "num_cpus": task.cpus}
            if task.memory_gb is not None:
                asked["memory"] = int(task.memory_gb * _GB)
            placed = remote.options(
                name=task.name,
                max_retries=settings.retries,
                retry_exceptions=[AttemptFailed],
                **asked,
            )
            refs[placed.remote(task)] = task
        while refs:
            (ref, *_), _ = ray.wait(list(refs), num_returns=1)
            said = ""
            try:
                ray.get(ref)
            except ray.exceptions.RayError as error:
                said = str(error).strip().splitlines()[-1]
            ended(refs.pop(ref), said)
    except BaseException:
        for ref in refs:
            ray.cancel(ref, force=True)
        raise
    finally:
        if begun:
            ray.shutdown()


def _run(task: Task) -> Receipt:
    return task.run_or_fail()


def _connect(options: Mapping[str, Any]) -> None:
    import ray

    elsewhere = options.get("address") or os.environ.get("RAY_ADDRESS")
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING} if elsewhere else _QUIET
    try:
        ray.init(**(quiet | dict(options)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"ray={dict(options)!r}: {error}") from error
    except Exception as error:  # Ray raises no narrower one where a node does not start in time
        raise ForeseenFailure(f"Ray did not start: {error}; its logs are in /tmp/ray") from error


def _tell_impossible(tasks: Sequence[Task], nodes: Sequence[Mapping[str, Any]]) -> None:
    """Says which tasks ask for more than any node has; a cluster may grow, so they wait."""
    there = [node["Resources"] for node in nodes if node["Alive"]]
    for task in tasks:
        asked = {"GPU": task.gpus, "CPU": task.cpus, "memory": (task.memory_gb or 0) * _GB}
        if not any(all(one.get(name, 0) >= asked[name] for name in asked) for one in there):
            say(
                f"jobs: {task.name} waits until a node joins with gpus={task.gpus:g}, "
                f"cpus={task.cpus}, memory_gb={task.memory_gb}: none has as much"
            )
