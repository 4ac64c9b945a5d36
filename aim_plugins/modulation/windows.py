"""Windows: which tokens of a text a change of activations reaches.

A window is "all"; "prompt", the tokens that are given; "generation", those after them; "last", the
prompt's last token and all after it, from which everything that is decoded follows; or tokens
counted from 0, such as "0-15", "16-" or "3-3". Of what is scored, the context is the prompt.
"""

from __future__ import annotations

import re
import reprlib
from typing import Any

WORDS = ("all", "prompt", "generation", "last")

ENDLESS = 2**62
"""One past the last position of whatever has no end."""

_TOKENS = re.compile(r"(\d{1,9})-(\d{1,9})?")


def check_window(window: Any, name: str = "window") -> str:
    """Checks a window.

    >>> check_window("prompt"), check_window("0-15"), check_window("16-")
    ('prompt', '0-15', '16-')

    Raises:
        ValueError: If it is none.
    """
    if window in WORDS:
        return str(window)
    found = _TOKENS.fullmatch(window) if isinstance(window, str) else None
    if found is None or (found[2] is not None and int(found[1]) > int(found[2])):
        raise ValueError(
            f"{name}={reprlib.repr(window)} is no window: write {', '.join(WORDS)}, or tokens "
            "counted from 0, as in 0-15 or 16-"
        )
    return str(window)


def knows_prompt(window: str) -> bool:
    """Whether the tokens that a window reaches depend on where the prompt ends."""
    return window in WORDS and window != "all"


def reaches_prompt(window: str) -> bool:
    """Whether a window may reach tokens of a prompt before its last one."""
    return window not in ("generation", "last")


def window_bounds(window: str, prompt: Any, first: Any = 0) -> tuple[Any, Any]:
    """The first position that a window reaches, and one past the last.

    Args:
        window: The window.
        prompt: One past the position of the prompt's last token: a number, or a tensor of them.
        first: Position of the first token.

    >>> window_bounds("last", 5), window_bounds("prompt", 5), window_bounds("2-3", 5, first=1)
    ((4, 4611686018427387904), (0, 5), (3, 5))
    """
    if window == "all":
        return 0, ENDLESS
    if window == "last":
        return prompt - 1, ENDLESS
    if window == "generation":
        return prompt, ENDLESS
    if window == "prompt":
        return 0, prompt
    start, _, stop = window.partition("-")
    return first + int(start), first + int(stop) + 1 if stop else ENDLESS


def reached(window: str, prompt: int, read: int) -> int:
    """How many of the tokens that a model has read a window reaches.

    >>> reached("last", 5, 7), reached("prompt", 5, 7), reached("2-", 5, 7), reached("16-", 5, 7)
    (3, 5, 5, 0)
    """
    start, stop = window_bounds(window, prompt)
    return max(0, min(stop, read) - start)
