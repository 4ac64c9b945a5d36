"""What errors of both packages have in common: foreseen failures, near names, and long lists.

A mistake in what a user wrote is a `ValueError` or a `FileNotFoundError`, wherever it is found.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

SIMILARITY = 0.6
"""difflib's own bound on the likeness of two names, from 0 to 1."""


class ForeseenFailure(RuntimeError):
    """A failure that no argument causes and whose text is for users: commands print it alone."""


class ReceiptError(ValueError):
    """An answer was not changed as it was asked to be, or nothing shows that it was."""


def nearest(
    name: object, known: Iterable[object], *, count: int = 1, cutoff: float = SIMILARITY
) -> list[str]:
    """The known names that are most like one that is unknown, the best first.

    Capitals do not tell names apart, and a name that is no text is compared as it is printed.

    >>> nearest("STEP_SISE", ["STEP_SIZE", "STEP_LIMIT"]), nearest("seed", ["draws"])
    (['STEP_SIZE'], [])
    """
    spelt: dict[str, str] = {}
    for one in map(str, known):
        spelt.setdefault(one.lower(), one)
    near = difflib.get_close_matches(str(name).lower(), list(spelt), n=count, cutoff=cutoff)
    return [spelt[one] for one in near]


def first_few(names: Sequence[str], most: int = 3) -> str:
    """Names in a row; of more than a few the first, and how many there are besides.

    >>> first_few(["a", "b"]), first_few(["a", "b", "c", "d", "e"])
    ('a, b', 'a, b, c and 2 more')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def did_you_mean(
    name: object,
    known: Iterable[object],
    *,
    count: int = 1,
    cutoff: float = SIMILARITY,
    otherwise: str = "",
) -> str:
    """The end of an error about an unknown name.

    Args:
        name: The unknown name.
        known: All there are.
        count: How many of the most similar to show.
        cutoff: How like they have to be, from 0 (any) to 1.
        otherwise: What to say if none is like it; by default all names there are.

    >>> did_you_mean("methd", ["method", "seed"])
    "did you mean 'method'?"
    >>> did_you_mean("x", ["method", "seed"])
    "choose one of 'method', 'seed'"
    """
    known = list(map(str, known))
    everything = f"choose one of {', '.join(map(repr, known))}" if known else "there are none"
    if near := nearest(name, known, count=count, cutoff=cutoff):
        return f"did you mean {' or '.join(map(repr, near))}?"
    return otherwise or everything
