"""OpenCompass as a process below the command: alone in its folder, and gone with the command.

`run_alone` starts it. The process inherits a lock on the run's folder, which the system drops with
the last process that has it, and the reading end of a pipe, which ends with the command however the
command ends: `kill -9` runs no handler, but closes pipes.

python -m aim_plugins.harnesses.opencompass.run.host [any argument of opencompass]
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from aim_plugins.core.commands import say
from aim_plugins.core.errors import ForeseenFailure

NEW_RUN_VARIABLE = "AIM_PLUGINS_NEW_RUN"
"""Environment variable that is set where OpenCompass is to name a folder that is new."""

_PIPE_VARIABLE = "AIM_PLUGINS_PIPE"
_LOCK = ".lock"
_SECONDS_TO_END = 10.0
_STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")


class Stopped(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class RunLockedError(ForeseenFailure):
    """Another process works in the run's folder."""


def run_alone(
    command: Sequence[str], environment: Mapping[str, str], folder: Path
) -> tuple[int, int]:
    """Runs OpenCompass; whatever it has started ends with it, and with this process.

    Args:
        command: The command.
        environment: Its environment variables.
        folder: The run's folder; made where it is not there, and removed where nothing came of it.

    Returns:
        Its process id and exit status.

    Raises:
        RunLockedError: If another process works in the folder.
        Stopped: If a signal has ended it.
    """
    with stopping_signals(), _locked(folder) as lock:
        say(f"starting OpenCompass, which writes to {folder}")  # and imports first
        reading, writing = os.pipe()
        # A session of its own, so that its tasks, which it starts in shells, can be ended with it.
        process = subprocess.Popen(
            command,
            env={**environment, _PIPE_VARIABLE: str(reading)},
            start_new_session=True,
            pass_fds=[reading, lock],
        )
        os.close(reading)
        try:
            os.pwrite(lock, str(process.pid).encode(), 0)
            status = process.wait()
        except BaseException:
            _end_group(process)
            raise
        finally:
            os.close(writing)
        if status:
            _end_group(process)  # tasks outlive an OpenCompass that was killed
        return process.pid, status


def end_with_command() -> None:
    """Ends this process and all it has started once the command that started it is gone."""
    pipe = os.environ.pop(_PIPE_VARIABLE, None)
    if pipe is not None:
        threading.Thread(target=_wait_for_end, args=(int(pipe),), daemon=True).start()


@contextlib.contextmanager
def stopping_signals() -> Iterator[None]:
    """Turns the signals that end a process into an exception."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():  # Python forbids handlers there
        yield
        return
    numbers = [getattr(signal, name) for name in _STOPPING if hasattr(signal, name)]
    # Under nohup a hang-up is ignored, and has to stay so.
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    former = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Locks a folder for this process and those that inherit the descriptor."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _LOCK
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 32, 0).decode()
            who = f"process {holder}" if holder else "another process"
            end = f", or end it and its tasks with kill -- -{holder}" if holder else ""
            raise RunLockedError(
                f"{folder} is being written by OpenCompass, {who}: wait for it{end}"
            ) from error
        except OSError:  # a disk without locks, where nothing can be refused
            pass
        os.ftruncate(lock, 0)  # of a killed process
        try:
            yield lock
        finally:
            with contextlib.suppress(OSError):  # it is not empty
                path.unlink()
                folder.rmdir()
    finally:
        os.close(lock)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + _SECONDS_TO_END
        while time.monotonic() < deadline:
            process.poll()  # a process that nobody has waited for keeps its group alive
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.05)


def _wait_for_end(pipe: int) -> None:
    os.read(pipe, 1)  # nothing is ever written
    os.killpg(os.getpgrp(), signal.SIGTERM)


def _is_true_of_new_runs(record: logging.LogRecord) -> bool:
    # The command names the folder, which OpenCompass can only be told as one to reuse.
    return not str(record.msg).startswith("Reusing exp")


def main() -> None:
    """Runs OpenCompass's own command in this process."""
    end_with_command()
    from opencompass.cli.main import main as opencompass
    from opencompass.utils import get_logger

    if os.environ.pop(NEW_RUN_VARIABLE, None):
        get_logger().addFilter(_is_true_of_new_runs)
    sys.argv[0] = "opencompass"  # which its usage names
    opencompass()


if __name__ == "__main__":
    main()
