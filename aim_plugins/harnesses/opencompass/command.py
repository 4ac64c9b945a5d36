"""`aim-plugins sweep opencompass`: OpenCompass's own command, with a check before and after it.

OpenCompass runs as a process of its own, with every argument as given. Beforehand its configuration
is checked; afterwards its files are, because its exit status is 0 when tasks have failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from aim_plugins.sweep.manifest import redact

COMMAND_VARIABLE = "AIM_PLUGINS_COMMAND"
"""Environment variable with the words of this command, as JSON, for the report."""

USAGE = """usage: aim-plugins sweep opencompass CONFIG [any argument of opencompass]

Runs `opencompass CONFIG ...` and checks what it does not: bad input is said before any model is
loaded (exit status 2), and what tasks did not finish is said with the log of each (exit status 1).
"""

_PROGRAM = ["aim-plugins", "sweep", "opencompass"]
_OPENCOMPASS = [sys.executable, "-m", "opencompass.cli.main"]
_DEFAULT_WORK_DIR = os.path.join("outputs", "default")  # OpenCompass's own
_STAGES = {"all": ("infer", "eval"), "infer": ("infer",), "eval": ("eval",), "viz": ()}
_TIMESTAMP = re.compile(r"\d{8}_\d{6}")
_TIMESTAMP_FORMAT = "%Y%m%d_%H%M%S"
_SECONDS_TO_END = 10.0
_STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")


class _OptionParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}: see opencompass --help")


class _Stopped(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: Sequence[str]) -> int:
    """Runs OpenCompass on a configuration file.

    Args:
        arguments: A configuration file and any arguments of `opencompass`.

    Returns:
        0 if every cell is finished; 1 if cells are missing or OpenCompass failed; 128 and the
        signal's number if it was stopped, such as 130 for Ctrl-C.

    Raises:
        ValueError: If the configuration or an argument is wrong.
        FileNotFoundError: If a file or folder that it names does not exist.
    """
    if {"-h", "--help"} & set(arguments):
        print(USAGE, flush=True)
        return subprocess.call([*_OPENCOMPASS, "--help"])
    if not arguments or arguments[0].startswith("-"):
        given = f"{arguments[0]!r} stands" if arguments else "nothing stands"
        raise ValueError(
            f"CONFIG: {given} in its place: write {' '.join(_PROGRAM)} CONFIG, and any arguments "
            "of opencompass after it"
        )
    options = _read_options(arguments[1:])
    cfg = _load_config(arguments[0])
    _check(cfg, options)
    folder = _experiment_folder(cfg, options)
    # Of an option that is given twice the last one counts.
    command = [*_OPENCOMPASS, *arguments, "--reuse", folder.name]
    environment = {**os.environ, COMMAND_VARIABLE: json.dumps(redact([*_PROGRAM, *arguments]))}
    again = f"to go on, run the same command with -r {folder.name}"
    try:
        process_id, status = _run(command, environment)
    except _Stopped as stopped:
        print(f"\ninterrupted; finished work is kept: {again}", file=sys.stderr)
        return 128 + stopped.number
    if status == 2:
        print("error: opencompass does not take these arguments, see above", file=sys.stderr)
        return status
    if status:
        print(f"error: opencompass ended with status {status}; {again}", file=sys.stderr)
        return 1
    if options.dry_run:
        return 0
    return _report(folder, process_id, options, again)


def _read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the few arguments of OpenCompass that matter here, as it does."""
    # What is unambiguous among all options of OpenCompass is so among these.
    parser = _OptionParser(add_help=False)
    parser.add_argument("-m", "--mode", default="all")
    parser.add_argument("-r", "--reuse", nargs="?", const="latest")
    parser.add_argument("-w", "--work-dir")
    for flag in ("--dry-run", "--slurm", "--dlc", "--read-from-station"):
        parser.add_argument(flag, action="store_true")
    options, _ = parser.parse_known_args(list(arguments))
    if options.mode not in _STAGES:
        raise ValueError(f"--mode={options.mode!r} is not one of {', '.join(_STAGES)}")
    needs_run = options.mode in ("eval", "viz") and not options.read_from_station
    if needs_run and options.reuse is None:
        raise ValueError(
            f"--mode {options.mode} works on a run that is there: add -r for the latest one, or "
            "-r TIME for another"
        )
    return options


def _load_config(path: str) -> Any:
    from mmengine.config import Config

    if not os.path.isfile(path):
        raise FileNotFoundError(f"CONFIG={path!r} is not there: name a configuration file (.py)")
    try:
        cfg = Config.fromfile(path, format_python_code=False)
    except SyntaxError as error:
        raise ValueError(
            f"CONFIG={path!r}, line {error.lineno}: {error.msg}: mend the file"
        ) from error
    except RuntimeError as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == path
        ]
        if str(error) or not lines:
            raise
        raise ValueError(
            f"CONFIG={path!r}, line {lines[-1]}: it calls something it has imported, which a "
            "configuration file cannot: compute the value with Python's own functions"
        ) from error
    for name in ("models", "datasets"):
        if not cfg.get(name):
            raise ValueError(f"CONFIG={path!r} has no {name}: set {name} = [dict(...), ...]")
    return cfg


def _check(cfg: Any, options: argparse.Namespace) -> None:
    from aim_plugins.harnesses.opencompass.config.check import (
        check_config,
        check_processes,
        type_name,
    )

    infers = options.mode in ("all", "infer") and not (options.slurm or options.dlc)
    # A resumed run may need no GPU any more, which the partitioner finds out.
    check_config(cfg, runs_here=infers and not options.dry_run and options.reuse is None)
    partitioner = (cfg.get("infer") or {}).get("partitioner") or {}
    if infers and type_name(partitioner.get("type", "")) == "SweepInferPartitioner":
        check_processes(cfg["models"])


def _experiment_folder(cfg: Any, options: argparse.Namespace) -> Path:
    """The folder of the run, which OpenCompass would name by itself."""
    work_dir = Path(options.work_dir or cfg.get("work_dir") or _DEFAULT_WORK_DIR)
    stamp = options.reuse
    if stamp == "latest":
        # OpenCompass takes whichever name sorts last, were it no run at all.
        runs = [path.name for path in work_dir.glob("*") if _TIMESTAMP.fullmatch(path.name)]
        stamp = max(runs, default=None)
        if stamp is None and options.mode in ("eval", "viz"):
            raise FileNotFoundError(f"-r: there is no run in {work_dir}: run it with -m all first")
    elif stamp is not None and not (work_dir / stamp).is_dir():
        raise FileNotFoundError(
            f"-r {stamp}: there is no such run in {work_dir}: mend the time, or leave -r away to "
            "start a new run"
        )
    return work_dir / (stamp or datetime.now().strftime(_TIMESTAMP_FORMAT))


def _run(command: Sequence[str], environment: dict[str, str]) -> tuple[int, int]:
    """Runs OpenCompass; its tasks end with it when this process is told to end.

    Returns:
        Its process id and exit status.

    Raises:
        _Stopped: If a signal has ended it.
    """
    with _stopping_signals():
        # A session of its own, so that its tasks, which it starts in shells, can be ended with it.
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            return process.pid, process.wait()
        except BaseException:
            _end_group(process)
            raise


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


@contextlib.contextmanager
def _stopping_signals() -> Iterator[None]:
    """Turns the signals that end a process into an exception."""

    def stop(number: int, frame: object) -> None:
        raise _Stopped(number)

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


def _report(folder: Path, process_id: int, options: argparse.Namespace, again: str) -> int:
    """Says where the results are, or what is missing."""
    from mmengine.config import Config

    from aim_plugins.harnesses.opencompass.run.missing import describe_missing, missing_cells

    dumps = list((folder / "configs").glob(f"*_{process_id}.py"))
    if not dumps:
        raise FileNotFoundError(f"{folder} has no configuration of this run: it cannot be checked")
    cfg = Config.fromfile(dumps[-1], format_python_code=False)
    if options.slurm or options.dlc:
        # OpenCompass replaces these by its own after it has dumped the configuration.
        for stage in ("infer", "eval"):
            cfg.pop(stage, None)
    missing = missing_cells(cfg, _STAGES[options.mode], since=dumps[-1].stat().st_mtime)
    if missing:
        print(f"\nerror: unfinished cells in {folder}: {len(missing)}", file=sys.stderr)
        print(*describe_missing(missing), again, sep="\n", file=sys.stderr)
        return 1
    reports = sorted(folder.glob("summary/sweep/*/report.html")) if options.mode != "infer" else []
    for path in reports or [folder]:
        print(f"{'report' if reports else 'results'}: {path}")
    return 0
