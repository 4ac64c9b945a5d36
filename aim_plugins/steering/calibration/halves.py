"""Two halves of texts: one to choose strengths and sites on, one to report on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Halves(Generic[_T]):
    """Texts in two parts that share none.

    Attributes:
        calibration: Those to choose on.
        held_out: Those to report on.
    """

    def __init__(self, calibration: Sequence[_T], held_out: Sequence[_T]) -> None:
        self.calibration = tuple(calibration)
        self.held_out = tuple(held_out)


def split_halves(texts: Sequence[str], seed: int, name: str) -> Halves[str]:
    """Deals texts out to two halves, each text to one however often it is given.

    Args:
        texts: At least four distinct ones.
        seed: Seed of the deal.
        name: Name of the argument, for the error.

    Raises:
        ValueError: If there are fewer.
    """
    distinct = list(dict.fromkeys(texts))
    if len(distinct) < 4:
        raise ValueError(
            f"{name} has {len(distinct)} distinct texts: give at least 4, of which half choose the "
            "strengths and half report"
        )
    order = random.Random(f"halves {seed}").sample(distinct, len(distinct))
    middle = len(order) // 2
    return Halves(order[:middle], order[middle:])


def split_matched(texts: Sequence[_T], weights: Sequence[float], seed: int) -> Halves[_T]:
    """Deals texts out to two halves that are alike in a property of theirs.

    Texts are ranked by it, and of every two neighbours one goes to either half by a coin.

    Args:
        texts: Texts, none twice.
        weights: The property, such as the plain model's loss per token.
        seed: Seed of the coins.
    """
    order = sorted(range(len(texts)), key=lambda index: (weights[index], index))
    coins = random.Random(f"matched {seed}")
    # Of an odd number the middle one has no partner, and moves the held-out half least.
    sides: tuple[list[int], list[int]] = (
        [],
        [order.pop(len(order) // 2)] if len(order) % 2 else [],
    )
    for start in range(0, len(order), 2):
        pair = order[start : start + 2]
        coins.shuffle(pair)
        for side, index in zip(sides, pair, strict=True):
            side.append(index)
    return Halves(*([texts[index] for index in sorted(side)] for side in sides))
