"""The processes that fill a cache of logits together, and the one run that writes it."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from aim_plugins.core.commands import say
from aim_plugins.core.devices import best_device


@dataclass(frozen=True)
class Processes:
    """This process among those that `accelerate launch` started; alone otherwise.

    Attributes:
        index: Its number, from 0.
        count: How many there are.
        wait: Waits for all of them.
        device: Its own device; None where it is alone.
    """

    index: int
    count: int
    wait: Callable[[], object]
    device: torch.device | None


def started_processes() -> Processes:
    """Those that this process belongs to.

    Raises:
        ImportError: If there are several, and accelerate is missing.
    """
    if "LOCAL_RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes(0, 1, lambda: None, None)
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ImportError(
            "several processes need accelerate: pip install 'aim-plugins[vision]'"
        ) from error
    # Without being told, accelerate takes processes on CPUs for independent ones.
    cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    cpu = cpu or best_device().type == "cpu"
    # A fast process waits for a slow one for as long as the pass takes.
    state = PartialState(cpu=cpu, timeout=datetime.timedelta(days=7))
    return Processes(
        state.process_index, state.num_processes, state.wait_for_everyone, state.device
    )


@contextlib.contextmanager
def only_writer(folder: Path, processes: Processes) -> Iterator[None]:
    """Waits until no other run writes this cache; the system frees a killed run's lock."""
    if processes.index != 0:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{folder}: another run computes these logits; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
