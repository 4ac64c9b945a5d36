"""Repetition in generated texts, the sign of a model that a strong steering has broken.

Source: distinct-n, arXiv 1510.03055, section 4; here for each text, so that its mean has an error.
"""

from __future__ import annotations


def distinct_share(text: str, size: int) -> float | None:
    """Share of a text's n-grams of words that are distinct; None if it is too short to have any.

    >>> distinct_share("the cat and the cat", 2)
    0.75
    """
    words = text.casefold().split()
    grams = [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
    return len(set(grams)) / len(grams) if grams else None


def repeated_share(text: str, size: int = 3) -> float | None:
    """Share of a text's n-grams of words that occurred before in it.

    >>> repeated_share("so so so so so")
    0.6666666666666667
    """
    distinct = distinct_share(text, size)
    return None if distinct is None else 1 - distinct
