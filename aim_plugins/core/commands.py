"""What the commands of both packages share: their systems, how they fail, negative numbers."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from aim_plugins.core.devices import is_main_process
from aim_plugins.core.errors import ForeseenFailure, did_you_mean, nearest

_FAILURE = 1
_BAD_INPUT = 2
_INTERRUPTED = 130

_BAD_INPUT_ERRORS = (ValueError, NotImplementedError, ArithmeticError, FileNotFoundError)
_FAILURES = (ImportError, ForeseenFailure)
_OWN = ("aim_plugins", "vision_bench")
_WORDED_FOR_USERS = ("lm_eval._cli", "lm_eval.config", "lm_eval.api.registry")
"""Others' modules whose errors name the mend, as ours do; of another it may be anything."""

_NEGATIVE_NUMBER = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)


@dataclass(frozen=True)
class System:
    """One system of a command line.

    Attributes:
        words: The words that call it, such as "sweep lm-eval".
        summary: What it is for, in a line.
        target: "module:function" that takes the words behind, and returns the exit status.
        needs: Extras of this package by the module that they install.
        guarded: Whether foreseen failures become one line; a command of others fails as it does.
    """

    words: str
    summary: str
    target: str
    needs: Mapping[str, str] = field(default_factory=dict)
    guarded: bool = True

    def run(self, arguments: Sequence[str]) -> int:
        """Runs it.

        Raises:
            ImportError: If a package is missing, with the command that installs it.
        """
        for module, extra in self.needs.items():
            if find_spec(module) is None:
                raise ImportError(f"{module} is not installed: pip install 'aim-plugins[{extra}]'")
        name, _, function = self.target.partition(":")
        return getattr(import_module(name), function)(arguments)


class CommandParser(argparse.ArgumentParser):
    """Names the option that a mistyped one is most like."""

    def error(self, message: str) -> NoReturn:
        """Ends the program as argparse does; of an unknown option it says more."""
        text, _, words = message.partition("unrecognized arguments: ")
        known = [one for one in self._option_string_actions if one.startswith("--")]
        for word in words.split() if not text else ():
            if word.startswith("--") and (near := nearest(word.partition("=")[0], known)):
                message += f"; did you mean {near[0]}?"
                break
        super().error(message)


def run_system(
    program: str, about: str, systems: Sequence[System], arguments: Sequence[str]
) -> int:
    """Runs the system that a command line names, or lists them.

    Args:
        program: Name of the command.
        about: What it is for.
        systems: Its systems.
        arguments: The words behind the command.

    Returns:
        The exit status.
    """
    for system in systems:
        words = system.words.split()
        if list(arguments[: len(words)]) == words:
            run = partial(system.run, list(arguments[len(words) :]))
            return guarded(run) if system.guarded else run()
    asked = [word for word in arguments if not word.startswith("-")]
    below = [one for one in systems if one.words.split()[: len(asked)] == asked]
    width = max(len(system.words) for system in systems)
    lines = [f"  {system.words:{width}}  {system.summary}" for system in below or systems]
    usage = f"usage: {program} COMMAND ...\n\n{about}\n\ncommands:\n" + "\n".join(lines)
    if {"-h", "--help"} & set(arguments) and below:
        print(f"{usage}\n\n{program} COMMAND --help says more of one.")
        return 0
    print(usage, file=sys.stderr)
    if not below:
        hint = did_you_mean(" ".join(asked), [system.words for system in systems])
        print(f"error: {' '.join(asked)!r} is no command: {hint}", file=sys.stderr)
    return _BAD_INPUT


def guarded(run: Callable[[], int]) -> int:
    """Runs a command and turns the failures it foresees into one line on standard error.

    One line is written for bad input and failures that our own code or the checks of lm-eval's
    command line raise, and for any error of the system, such as a full disk. Every other
    exception, such as a division by zero in a task, is a bug somewhere and keeps its traceback.

    Args:
        run: The command; returns its exit status.

    Returns:
        The command's own status; 2 for bad input, 1 for a failure, 130 for Ctrl-C.
    """
    try:
        return run()
    except KeyboardInterrupt as interrupt:
        print("\n" + "; ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        return _INTERRUPTED
    except Exception as error:
        foreseen = _raised_in(error, _OWN + _WORDED_FOR_USERS)
        if isinstance(error, OSError) or (
            foreseen and isinstance(error, _BAD_INPUT_ERRORS + _FAILURES)
        ):
            print(f"error: {error}", file=sys.stderr)
            return _BAD_INPUT if foreseen and isinstance(error, _BAD_INPUT_ERRORS) else _FAILURE
        traceback.print_exc()
        return _FAILURE


@contextlib.contextmanager
def keeping_finished_work() -> Iterator[None]:
    """Stands around work of which a command keeps what is finished, so that Ctrl-C says so."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.args = ("what was finished is kept; the same command goes on from there",)
        raise


def say(message: str) -> None:
    """Tells at once how far a command is, in the first of its processes, on standard error."""
    if is_main_process():
        print(message, file=sys.stderr, flush=True)


def speak_plainly() -> None:
    """Lets the program print what our code foresees in a line, without code and files.

    Errors and warnings of others stay as they are. It is called where a program starts, never by
    what others may call; a second call changes nothing.
    """
    if getattr(sys.excepthook, "speaks_plainly", False):
        return
    show_error, show_warning = sys.excepthook, warnings.showwarning

    def error_in_a_line(kind: Any, error: BaseException, trace: Any) -> None:
        if isinstance(error, _BAD_INPUT_ERRORS + _FAILURES) and _raised_in(error, _OWN):
            print(f"error: {error}", file=sys.stderr)
        else:
            show_error(kind, error, trace)

    def warning_in_a_line(
        message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        root = Path(__file__).parents[2]  # both packages lie side by side
        if any(Path(filename).is_relative_to(root / package) for package in _OWN):
            print(f"warning: {message}", file=file or sys.stderr)
        else:
            show_warning(message, category, filename, lineno, file, line)

    error_in_a_line.speaks_plainly = True  # type: ignore[attr-defined]
    sys.excepthook, warnings.showwarning = error_in_a_line, warning_in_a_line


def join_negative_values(arguments: Sequence[str], options: Collection[str]) -> list[str]:
    """Writes an option and a value that starts with a minus as one word.

    argparse takes `-1,0` and `-1e-3` for options, and would only say that an argument is missing.

    >>> join_negative_values(["--noise-std", "-1,0", "--draws", "2"], {"--noise-std"})
    ['--noise-std=-1,0', '--draws', '2']
    """
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in options and _NEGATIVE_NUMBER.match(argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _raised_in(error: BaseException, modules: Sequence[str]) -> bool:
    """Whether the frame that raised the error belongs to one of some modules."""
    place = error.__traceback__
    if place is None:
        return False
    while place.tb_next is not None:
        place = place.tb_next
    names = place.tb_frame.f_globals
    # A module started with `python -m` is called "__main__", and only its spec knows its name.
    spec = names.get("__spec__") if names.get("__name__") == "__main__" else None
    module = str(spec.name if spec is not None else names.get("__name__"))
    return any(module == name or module.startswith(f"{name}.") for name in modules)
