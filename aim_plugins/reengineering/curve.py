"""What models of several sizes answer, and what follows: accuracies, differences, the choice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from aim_plugins.sweep.estimates import mean
from aim_plugins.sweep.intervals import student_factor, wilson_interval


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
    def hits(self) -> list[float]:
        """1 where the right choice has the largest log-likelihood (of equals the first), else 0."""
        return [
            float(max(range(len(row)), key=row.__getitem__) == place)
            for row, place in zip(self.scores, self.right, strict=True)
        ]

    @property
    def accuracy(self) -> float:
        """Share of right answers, the harness's `acc`."""
        return math.fsum(self.hits) / len(self.right)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy over documents (Wilson)."""
        return wilson_interval(self.accuracy, len(self.right))

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


@dataclass(frozen=True)
class Step:
    """A model of one size.

    Attributes:
        share: The share that was asked for; 1 of the whole model.
        neurons: Neurons of each feed-forward part.
        head_groups: Key-value heads of each attention; 0 where they are not removed.
        ratio: Share of weights and biases of linear layers that is left.
        parameters: All parameters.
        validation: Answers that a share is chosen by.
        test: Answers that are shown.
        removals: Those on the test documents after removal at random.
        others: Those on other tasks.
    """

    share: float
    neurons: int
    head_groups: int
    ratio: float
    parameters: int
    validation: Answers
    test: Answers
    removals: Sequence[Answers] = ()
    others: Mapping[str, Answers] = field(default_factory=dict)

    @property
    def random_accuracy(self) -> float:
        """Mean accuracy after removal at random."""
        return math.fsum(one.accuracy for one in self.removals) / len(self.removals)

    def to_json(self) -> dict[str, Any]:
        """For records."""
        return asdict(self)

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> Step:
        """Reads what `to_json` wrote."""
        return cls(
            **{
                **held,
                "validation": Answers(**held["validation"]),
                "test": Answers(**held["test"]),
                "removals": [Answers(**one) for one in held["removals"]],
                "others": {name: Answers(**one) for name, one in held["others"].items()},
            }
        )


@dataclass(frozen=True)
class Difference:
    """A mean of differences, document by document.

    Attributes:
        value: The mean.
        low: Lower end of its 95 % interval (Student's).
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """For tables."""
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The first minus the second, of the same documents.

    Where all differences are equal, as where two models answer alike, documents not seen may still
    differ: by 1 either way in a share of them as large as Wilson's bound for none of n.

    Args:
        first: Values in [0, 1], at least two.
        second: Those of the same documents.
    """
    found = mean([one - other for one, other in zip(first, second, strict=True)])
    unseen = wilson_interval(0.0, found.n)[1]
    half = student_factor(found.n) * found.stderr if found.stderr else unseen
    return Difference(found.value, found.value - half, found.value + half)


def mean_of(rows: Sequence[Sequence[float]]) -> list[float]:
    """The mean of several models' values for each document."""
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


@dataclass(frozen=True)
class Speed:
    """Tokens a second, whole and smaller model in turn; medians.

    Attributes:
        reading: Of prompts, for both models.
        writing: One after another.
    """

    reading: Sequence[float]
    writing: Sequence[float]


@dataclass(frozen=True)
class Curve:
    """Models from the whole one downwards.

    Attributes:
        whole: The model itself.
        steps: Those of the shares, the largest first.
        tolerance: How far the chosen one's accuracy may lie below.
    """

    whole: Step
    steps: Sequence[Step]
    tolerance: float

    @property
    def good(self) -> list[int]:
        """Places of the steps whose accuracy on validation documents is within the tolerance."""
        least = self.whole.validation.accuracy - self.tolerance
        # A rounding error is no document.
        return [
            place
            for place, step in enumerate(self.steps)
            if step.validation.accuracy >= least - 1e-9
        ]

    @property
    def selected(self) -> int:
        """The smallest of the good ones; where there are none, the largest of all."""
        return max(self.good, default=0)
