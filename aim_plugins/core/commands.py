"""What the commands of both packages share: how they fail, and how they read negative numbers."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Collection, Sequence

from aim_plugins.core.errors import ForeseenFailure

_FAILURE = 1
_BAD_INPUT = 2
_INTERRUPTED = 130

_BAD_INPUT_ERRORS = (ValueError, NotImplementedError, ArithmeticError, FileNotFoundError)
_FAILURES = (ImportError, ForeseenFailure)
_WORDED_FOR_USERS = (
    "aim_plugins",
    "vision_bench",
    "lm_eval._cli",
    "lm_eval.config",
    "lm_eval.api.registry",
)
"""Modules whose errors name the mend; the same error of another module may be anything."""

_NEGATIVE_NUMBER = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)


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
    except KeyboardInterrupt:
        print("\ninterrupted; finished work is kept: run the same command again", file=sys.stderr)
        return _INTERRUPTED
    except Exception as error:
        foreseen = _worded_for_users(error)
        if isinstance(error, OSError) or (
            foreseen and isinstance(error, _BAD_INPUT_ERRORS + _FAILURES)
        ):
            print(f"error: {error}", file=sys.stderr)
            return _BAD_INPUT if foreseen and isinstance(error, _BAD_INPUT_ERRORS) else _FAILURE
        traceback.print_exc()
        return _FAILURE


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


def _worded_for_users(error: BaseException) -> bool:
    """Whether the frame that raised the error belongs to a module that words its errors."""
    place = error.__traceback__
    if place is None:
        return False
    while place.tb_next is not None:
        place = place.tb_next
    names = place.tb_frame.f_globals
    # A module started with `python -m` is called "__main__", and only its spec knows its name.
    spec = names.get("__spec__") if names.get("__name__") == "__main__" else None
    module = str(spec.name if spec is not None else names.get("__name__"))
    return any(module == name or module.startswith(f"{name}.") for name in _WORDED_FOR_USERS)
