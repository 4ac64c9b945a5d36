"""`aim-plugins sweep opencompass`: OpenCompass's own command, with a check before and after it.

OpenCompass runs as a process of its own, with every argument as given. Beforehand its configuration
is checked; afterwards its files are, because its exit status is 0 when tasks have failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from aim_plugins.core.commands import say
from aim_plugins.harnesses.opencompass.run import host
from aim_plugins.sweep.manifest import redact

COMMAND_VARIABLE = "AIM_PLUGINS_COMMAND"
"""Environment variable with the words of this command, as JSON, for the report."""

USAGE = """usage: aim-plugins sweep opencompass CONFIG [any argument of opencompass]

Runs `opencompass CONFIG ...` and checks what it does not: bad input is said before any model is
loaded (exit status 2), and what tasks did not finish is said with the log of each (exit status 1).
"""

_PROGRAM = ["aim-plugins", "sweep", "opencompass"]
_OPENCOMPASS = [sys.executable, "-m", host.__name__]
_DEFAULT_WORK_DIR = os.path.join("outputs", "default")  # OpenCompass's own
_STAGES = {"all": ("infer", "eval"), "infer": ("infer",), "eval": ("eval",), "viz": ()}
_TIMESTAMP = re.compile(r"\d{8}_\d{6}")
_TIMESTAMP_FORMAT = "%Y%m%d_%H%M%S"


class _OptionParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}: see opencompass --help")


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
    if not os.path.isfile(arguments[0]):
        raise FileNotFoundError(
            f"CONFIG={arguments[0]!r} is not there: name a configuration file (.py)"
        )
    say(f"checking {arguments[0]}")  # which imports for a while
    cfg = _load_config(arguments[0])
    _check(cfg, options)
    folder = _experiment_folder(cfg, options)
    # Of an option that is given twice the last one counts.
    command = [*_OPENCOMPASS, *arguments, "--reuse", folder.name]
    environment = {**os.environ, COMMAND_VARIABLE: json.dumps(redact([*_PROGRAM, *arguments]))}
    if not folder.exists():
        environment[host.NEW_RUN_VARIABLE] = "1"
    again = f"to go on, run the same command with -r {folder.name}"
    try:
        process_id, status = host.run_alone(command, environment, folder)
    except host.Stopped as stopped:
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
    print(f"results: {folder}")
    return 0
