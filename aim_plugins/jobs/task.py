"""One job as a task of an engine: what it runs, and the receipt it leaves.

    OUTPUT/NAME/
      results/      what the command writes to {output}
      log.txt       what it says, attempt by attempt
      receipt.json  how it ended, sealed; it belongs to one identity, and counts for no other

A receipt is written once the command has ended, whole or not at all. Where the identity has
changed, results of the former one are moved aside, to results-IDENTITY.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from aim_plugins.core.files import CorruptRecordError, seal, unseal, write_atomic
from aim_plugins.jobs.settings import RESULTS

LOG, RECEIPT = "log.txt", "receipt.json"
_BEGUN, _LOCK = "begun.txt", ".lock"
_REFUSED = 2
"""What commands end with that refuse their arguments."""
_ATTEMPT = "--"
"""Begins the line above each attempt in a log."""
_TAIL = 1 << 14
"""Bytes at the end of a log, among which is its last line."""
MINUTE = 60.0
_GRACE = 30.0
"""Seconds between asking a process to end and ending it."""


class AttemptFailed(RuntimeError):
    """A job ended with a status other than 0, and may be tried again."""


@dataclass(frozen=True)
class Receipt:
    """How a job ended.

    Attributes:
        identity: Of what was run.
        status: Exit status; below zero the signal that killed it.
        seconds: How long the last attempt took.
        host: Where it ran.
    """

    identity: str
    status: int
    seconds: float
    host: str

    @property
    def ended(self) -> bool:
        """Whether there is nothing to try again."""
        return self.status in (0, _REFUSED)


@dataclass(frozen=True)
class Task:
    """One job, ready to run anywhere that sees its folders.

    Attributes:
        name: Its name.
        folder: Its folder, absolute.
        argv: What is run, without a shell.
        cwd: Where.
        identity: Tells it from a job with other words, other files or another version.
        gpus: How many it gets to itself.
        cpus: The same of CPU cores.
        memory_gb: Main memory.
        minutes: Longest time.
        shown: Its words for readers, without secrets.
    """

    name: str
    folder: Path
    argv: tuple[str, ...]
    cwd: Path
    identity: str
    gpus: float = 0.0
    cpus: int = 1
    memory_gb: float | None = None
    minutes: int | None = None
    shown: tuple[str, ...] = field(default=())

    @property
    def results(self) -> Path:
        """Where its results go."""
        return self.folder / RESULTS

    @property
    def log(self) -> Path:
        """What it said."""
        return self.folder / LOG

    def receipt(self) -> Receipt | None:
        """How it ended; None if it didn't, or was another then."""
        try:
            content = unseal((self.folder / RECEIPT).read_text(encoding="utf-8"))
            receipt = Receipt(**content)
        except (OSError, CorruptRecordError, TypeError, UnicodeDecodeError):
            return None
        return receipt if receipt.identity == self.identity else None

    def prepare(self) -> None:
        """Makes way for a new attempt, before any other job writes into this one's folder.

        The receipt of an attempt that failed or was refused goes, and results of another identity
        are moved aside; but nothing is touched while a process is running the job.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(BlockingIOError), _alone(self.folder / _LOCK, wait=False):
            receipt = self.receipt()
            if receipt is None or receipt.status != 0:
                self._clear()

    def last_line(self) -> str:
        """The last line of its log that says anything."""
        try:
            with open(self.log, "rb") as file:
                file.seek(max(0, self.log.stat().st_size - _TAIL))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        said = [line.strip() for line in lines if not line.startswith(_ATTEMPT)]
        return next(filter(None, reversed(said)), "")

    def run(self) -> Receipt:
        """Runs it, unless it has ended already; waits for a process that is running it.

        Returns:
            How it ended.

        Raises:
            OSError: If its folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with _alone(self.folder / _LOCK) as lock:
            held = self.receipt()
            if held is not None and held.ended:
                return held
            self._clear()
            start = time.monotonic()
            status = self._attempt(lock)
            seconds = round(time.monotonic() - start, 1)
            receipt = Receipt(self.identity, status, seconds, platform.node())
            write_atomic(self.folder / RECEIPT, seal(asdict(receipt)))
            return receipt

    def run_or_fail(self) -> Receipt:
        """The same, for engines that try again what raises.

        Raises:
            AttemptFailed: If it failed, and not for its arguments.
        """
        receipt = self.run()
        if not receipt.ended:
            raise AttemptFailed(f"{self.name} ended with {receipt.status}: {self.log}")
        return receipt

    def _clear(self) -> None:
        """Removes a receipt, and moves results of another identity aside."""
        (self.folder / RECEIPT).unlink(missing_ok=True)
        begun = self.folder / _BEGUN
        former = begun.read_text(encoding="utf-8") if begun.exists() else self.identity
        if former != self.identity and self.results.exists():
            aside = self.folder / f"{RESULTS}-{former[:8]}"
            number = 1
            while aside.exists():
                number += 1
                aside = self.folder / f"{RESULTS}-{former[:8]}-{number}"
            os.replace(self.results, aside)
        write_atomic(begun, self.identity)

    def _attempt(self, lock: int) -> int:
        """Runs the command; returns its exit status."""
        leash = [sys.executable, "-m", "aim_plugins.jobs.leash", str(os.getpid())]
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with open(self.log, "ab") as log:
            log.write(f"{_ATTEMPT} {now} on {platform.node()}, job {self.identity[:8]}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [*leash, *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.cwd,
                pass_fds=[lock],  # held for as long as the command lives, even without this process
            )
            try:
                return process.wait(None if self.minutes is None else self.minutes * MINUTE)
            except subprocess.TimeoutExpired:
                log.write(f"== stopped after {self.minutes} minutes\n".encode())
                return _stop(process)
            finally:
                if process.poll() is None:
                    process.terminate()


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Ends a process, which has a while to do so itself; returns its exit status."""
    process.terminate()
    try:
        return process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@contextlib.contextmanager
def _alone(path: Path, wait: bool = True) -> Iterator[int]:
    """Holds a lock that the system drops with the last process that has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)
