"""What models of several sizes answer, and what follows: accuracies, differences, the choice."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from aim_plugins.sweep.paired import PairedDifference, mean_difference, sign_flip_p
from aim_plugins.task_questions.answers import Answers


@dataclass(frozen=True)
class Step:
    """A model of one size.

    Attributes:
        share: The share of neurons that was asked for; 1 of the whole model.
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

    @property
    def above_random(self) -> PairedDifference:
        """By how much its accuracy is above the mean one after removal at random.

        Each document is its own control: p is of signs dealt out anew to the documents'
        differences, which for a single removal is McNemar's exact test.
        """
        own, *drawn = (list(map(float, one.hits)) for one in (self.test, *self.removals))
        random = mean_of(drawn)
        p = sign_flip_p(own, random)
        return PairedDifference(**vars(mean_difference(own, random)), p=p)

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


def mean_of(rows: Sequence[Sequence[float]]) -> list[float]:
    """The mean of several models' values for each document."""
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


@dataclass(frozen=True)
class Rates:
    """Tokens a second in every round, of the whole model and the smaller one in turn.

    Attributes:
        whole: Of the whole model.
        smaller: Of the smaller one.
    """

    whole: Sequence[float]
    smaller: Sequence[float]

    @property
    def medians(self) -> tuple[float, float]:
        """The median over rounds, of the whole model and of the smaller one."""
        return statistics.median(self.whole), statistics.median(self.smaller)

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """How many times as fast the smaller one is: quartiles over rounds, with the median.

        In a round both meet the same machine, so their ratio tells more than that of medians.
        """
        ratios = [own / whole for whole, own in zip(self.whole, self.smaller, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        return low, middle, high


@dataclass(frozen=True)
class Speed:
    """How fast the whole and the smaller model are.

    Attributes:
        reading: Of prompts.
        writing: One token after another.
    """

    reading: Rates
    writing: Rates


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
