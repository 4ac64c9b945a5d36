"""What a model answers with some components ablated, the size of an edit, and what it costs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from aim_plugins.heads.subject import OUTPUTS
from aim_plugins.sweep.paired import (
    Interval,
    PairedDifference,
    mean_interval,
    mean_share,
    sign_flip_p,
)
from aim_plugins.task_questions.answers import Answers


def outputs_of(answers: Answers, output: str) -> list[float]:
    """The output of each question that follows from answers; see `subject.OUTPUTS`.

    Args:
        answers: To the questions.
        output: Such as "choice_margin".

    >>> outputs_of(Answers([[-1.0, -3.0], [-2.0, -2.5, -0.5]], [0, 1]), "choice_margin")
    [2.0, -2.0]
    """
    rows = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row, dtype=torch.float32) for row in answers.scores],
        batch_first=True,
        padding_value=-float("inf"),
    )
    found: list[float] = OUTPUTS[output](rows, torch.tensor(list(answers.right))).tolist()
    return found


def mean_change(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """By how much a mean is above that of the same documents.

    Args:
        first: Of each document a value, such as a margin in nats.
        second: That of what it is compared with.

    Returns:
        The mean difference with Student's interval, and the p of signs dealt out anew to the
        documents' differences.
    """
    found = mean_interval([one - other for one, other in zip(first, second, strict=True)])
    return PairedDifference(**vars(found), p=sign_flip_p(first, second))


@dataclass(frozen=True)
class EditPath:
    """Edits of growing size, on the documents that the size is chosen on.

    Attributes:
        output: What edits are judged by.
        direction: Whether the edit is to "lower" or to "raise" it.
        whole: Answers of the whole model.
        sizes: How many components each edit ablates, rising.
        steps: Its answers.
        references: Answers to questions that the edit is to leave, of the whole model and then of
            each edit; empty where there are none.
    """

    output: str
    direction: str
    whole: Answers
    sizes: Sequence[int]
    steps: Sequence[Answers]
    references: Sequence[Answers] = ()

    @property
    def moved(self) -> list[float]:
        """How far each edit moves the mean output its way, less what it does to references."""
        sign = 1 if self.direction == "raise" else -1
        found = [sign * one for one in self._changes([self.whole, *self.steps])]
        if self.references:
            others = map(abs, self._changes(self.references))
            found = [one - other for one, other in zip(found, others, strict=True)]
        return found

    def _changes(self, answers: Sequence[Answers]) -> list[float]:
        """By how much the mean output is above that of the first answers, of each of the others."""
        whole, *others = (statistics.fmean(outputs_of(one, self.output)) for one in answers)
        return [one - whole for one in others]

    @property
    def reference_changes(self) -> list[Interval]:
        """By how much each edit changes the mean output of the references."""
        if not self.references:
            return []
        whole, *others = (outputs_of(one, self.output) for one in self.references)
        return [
            mean_interval([one - before for one, before in zip(after, whole, strict=True)])
            for after in others
        ]

    @property
    def chosen(self) -> int:
        """Place of the edit that moves it furthest; of equals the smallest."""
        return self.moved.index(max(self.moved))

    @property
    def size(self) -> int:
        """How many components the chosen edit ablates."""
        return self.sizes[self.chosen]


@dataclass(frozen=True)
class Outcome:
    """An edit on documents that it has not seen.

    Attributes:
        output: What edits are judged by.
        whole: Answers of the whole model.
        edited: Those with the edit.
        random: Those with as many components ablated at random, of each draw.
    """

    output: str
    whole: Answers
    edited: Answers
    random: Sequence[Answers]

    def outputs(self, answers: Answers) -> list[float]:
        """The output of each document."""
        return outputs_of(answers, self.output)

    @property
    def random_outputs(self) -> list[float]:
        """Of each document, its mean output over edits at random."""
        drawn = map(self.outputs, self.random)
        return [statistics.fmean(row) for row in zip(*drawn, strict=True)]

    @property
    def random_accuracy(self) -> Interval:
        """Mean accuracy over edits at random, with its interval over documents."""
        return mean_share([one.hits for one in self.random])

    @property
    def accuracy_change(self) -> PairedDifference:
        """By how much the share of right answers is above that of the whole model."""
        return self.edited.against(self.whole)

    @property
    def output_change(self) -> PairedDifference:
        """By how much the mean output is above that of the whole model, in nats."""
        return mean_change(self.outputs(self.edited), self.outputs(self.whole))

    @property
    def beyond_random(self) -> PairedDifference:
        """By how much the mean output is above that of edits at random, in nats."""
        return mean_change(self.outputs(self.edited), self.random_outputs)


@dataclass(frozen=True)
class Alone:
    """One component, ablated alone.

    Attributes:
        number: Which one.
        test: Answers without it, on the documents that results are of.
        learning: What is attributed, without it, of the documents that attributions were learned
            from; None where nobody asked.
    """

    number: int
    test: Answers
    learning: Sequence[float] | None = None


def in_shares(one: Answers | Interval) -> str:
    """An accuracy with its 95 % interval.

    >>> in_shares(Answers([[-1.0, -3.0], [-2.0, -0.5]], [0, 0]))
    '0.500 [0.095, 0.905]'
    """
    if isinstance(one, Answers):
        one = Interval(one.accuracy, *one.interval)
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def in_nats(one: Interval) -> str:
    """A difference with its interval, in nats.

    >>> in_nats(Interval(-0.125, -0.25, 0.0))
    '-0.12 nats [-0.25, +0.00]'
    """
    return f"{one.value:+.2f} nats [{one.low:+.2f}, {one.high:+.2f}]"
