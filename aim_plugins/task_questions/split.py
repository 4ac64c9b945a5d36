"""The documents of a study: those that are learned from, chosen on and tested on are different."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from aim_plugins.task_documents import Document

_FEWEST = 2
"""Documents of each part, at least: one says nothing of its error."""


@dataclass(frozen=True)
class Split:
    """Places of documents, in three parts.

    Attributes:
        learning: What is learned from.
        validation: What is chosen on.
        test: What results are of.
    """

    learning: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


def split_documents(documents: Sequence[Document], shares: Sequence[float], seed: int) -> Split:
    """Draws the parts. Documents that ask the same stand in the same part.

    Args:
        documents: The documents.
        shares: Of the three parts, in their order; they add up to 1.
        seed: Seed of the draw.

    Raises:
        ValueError: If a part has fewer than two documents.
    """
    same: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for place, one in enumerate(documents):
        same.setdefault(tuple(sorted(one.options)), []).append(place)
    kinds = list(same.values())
    random.Random(seed).shuffle(kinds)
    ends = [round(len(kinds) * one) for one in (shares[0], shares[0] + shares[1], 1.0)]
    parts = [
        tuple(sorted(place for kind in kinds[start:end] for place in kind))
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    if min(map(len, parts)) < _FEWEST:
        listed = ", ".join(str(len(part)) for part in parts)
        raise ValueError(
            f"split: {len(documents)} documents give parts of {listed}: each needs {_FEWEST} at "
            "least; take more documents, or other shares"
        )
    return Split(*parts)
