"""Several computations that meet at steps, and compute one at a time between them.

Forward passes of parts of a batch advance together: each stops in the hook of a module until all
have arrived, so that something can be computed from all parts before any of them goes on. A pass is
a call that cannot be left halfway, hence one thread for each part. Only the thread that holds the
turn computes; the turn goes round in the order of the parts, so that every run is the same.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

Meeting = Callable[[str, list[Any]], list[Any]]
"""Takes a step's name and what each part brought; returns what each part gets."""

_END = ""


class Lockstep:
    """Runs parts in lockstep.

    Args:
        parts: Computations, each of which calls `meet` at the same steps.
        meeting: Called once for each step, when all parts have arrived.

    A single part runs in the calling thread.
    """

    def __init__(self, parts: Sequence[Callable[[], object]], meeting: Meeting) -> None:
        self._parts = list(parts)
        self._meeting = meeting
        self._turns = [threading.Semaphore(0) for _ in self._parts]
        self._finished = threading.Semaphore(0)
        self._step = _END
        self._brought: list[Any] = []
        self._taken: list[Any] = []
        self._stopped = False
        self._error: BaseException | None = None

    def run(self) -> None:
        """Runs all parts to their ends.

        Raises:
            ValueError: If parts meet at different steps.
            BaseException: Whatever a part or the meeting raised, or an interrupt of the calling
                thread. All threads have ended by then.
        """
        if len(self._parts) == 1:
            self._parts[0]()
            return
        threads = [
            threading.Thread(target=self._run_part, args=[index], name=f"part {index}")
            for index in range(len(self._parts))
        ]
        started = []
        try:
            for thread in threads:
                thread.start()
                started.append(thread)
            self._turns[0].release()
            self._finished.acquire()
        finally:
            # Nothing to stop after a regular end. After Ctrl-C the part that computes goes on to
            # its next step, the others leave at once.
            self._stop(None)
            for thread in started:
                thread.join()
        if self._error is not None:
            raise self._error

    def meet(self, index: int, step: str, brought: Any) -> Any:
        """Waits until all parts have arrived at a step.

        Args:
            index: Index of the part that calls.
            step: Name of the step.
            brought: What the part brings.

        Returns:
            What the meeting has for this part.
        """
        if len(self._parts) == 1:
            return self._meeting(step, [brought])[0]
        self._arrive(index, step)
        self._brought.append(brought)
        if index == len(self._parts) - 1:
            arrived, self._brought = self._brought, []
            self._taken = self._meeting(step, arrived)
        self._pass_turn(index)
        self._await_turn(index)
        taken, self._taken[index] = self._taken[index], None
        return taken

    def _run_part(self, index: int) -> None:
        try:
            self._await_turn(index)
            self._parts[index]()
            self._arrive(index, _END)
        except _Stopped:
            return
        except BaseException as error:
            self._stop(error)
            return
        if index == len(self._parts) - 1:
            self._finished.release()
        else:
            self._pass_turn(index)

    def _arrive(self, index: int, step: str) -> None:
        if self._stopped:
            raise _Stopped
        if index == 0:
            self._step = step
        elif step != self._step:
            raise ValueError(
                f"modules: one batch reaches {self._step or 'the end'!r} where another reaches "
                f"{step or 'the end'!r}, so that no map can be fitted to all: leave modules that "
                "only some inputs use out of the pattern"
            )

    def _pass_turn(self, index: int) -> None:
        self._turns[(index + 1) % len(self._turns)].release()

    def _await_turn(self, index: int) -> None:
        self._turns[index].acquire()
        if self._stopped:
            raise _Stopped

    def _stop(self, error: BaseException | None) -> None:
        """Wakes all threads, which then leave."""
        self._error = self._error or error
        self._stopped = True
        for turn in self._turns:
            turn.release()
        self._finished.release()


class ThreadSettings:
    """Settings of torch that belong to a thread, as they are where this is made.

    Args:
        device: Where the threads compute, beside the CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._devices = {"cpu", device.type}
        self._autocast = {
            device: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
            for device in sorted(self._devices)
        }
        self._cache = torch.is_autocast_cache_enabled()
        self._cuda = torch.cuda.current_device() if "cuda" in self._devices else None

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Makes them hold in the current thread, without gradients."""
        with contextlib.ExitStack() as settings:
            settings.enter_context(torch.no_grad())
            if self._cuda is not None:
                settings.enter_context(torch.cuda.device(self._cuda))
            for device, (enabled, dtype) in self._autocast.items():
                if enabled != torch.is_autocast_enabled(device):
                    settings.enter_context(
                        torch.autocast(
                            device, dtype=dtype, enabled=enabled, cache_enabled=self._cache
                        )
                    )
            yield


class _Stopped(BaseException):
    """Another part failed. No `Exception`, lest a model's own code catch it."""
