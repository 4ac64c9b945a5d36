"""What a model answers to questions of multiple choice, and how it compares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aim_plugins.sweep.intervals import wilson_interval
from aim_plugins.sweep.paired import PairedDifference, paired_difference


@dataclass(frozen=True)
class Answers:
    """Log-likelihoods of choices, by question.

    Attributes:
        scores: Of each question's choices, in nats.
        right: The place of the right one of each.
    """

    scores: Sequence[Sequence[float]]
    right: Sequence[int]

    @property
    def hits(self) -> list[bool]:
        """Whether the right choice has the largest log-likelihood (of equals the first)."""
        return [
            max(range(len(row)), key=row.__getitem__) == place
            for row, place in zip(self.scores, self.right, strict=True)
        ]

    @property
    def accuracy(self) -> float:
        """Share of right answers, the harness's `acc`."""
        return sum(self.hits) / len(self.right)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy over documents (Wilson)."""
        return wilson_interval(self.accuracy, len(self.right))

    def against(self, other: Answers) -> PairedDifference:
        """By how much its accuracy is above that of other answers to the same questions."""
        return paired_difference(self.hits, other.hits)

    @property
    def losses(self) -> list[float]:
        """Cross-entropies of the right choices among all, in nats."""
        found = []
        for row, place in zip(self.scores, self.right, strict=True):
            largest = max(row)
            found.append(
                largest + math.log(math.fsum(math.exp(one - largest) for one in row)) - row[place]
            )
        return found

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        return math.fsum(self.losses) / len(self.right)

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""
        return math.fsum(1 / len(row) for row in self.scores) / len(self.right)
