"""What an edit did to images that are tested: every part, against every rival."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from aim_plugins.core.strengths import format_strength
from aim_plugins.sweep.intervals import wilson_interval
from aim_plugins.sweep.paired import (
    Interval,
    PairedDifference,
    mean_difference,
    mean_share,
    paired_difference,
)
from vision_bench.attribution.editing.choice import Choice, Trial
from vision_bench.attribution.editing.choices import EDITED, RANDOM, TUNED, WHOLE
from vision_bench.attribution.editing.goal import Examined
from vision_bench.attribution.editing.problem import Problem

WORST = "worst group"
_RESAMPLES = 2000
_NO_WIDTH = 1e-9


@dataclass(frozen=True)
class Tested:
    """The answers to the images that are tested.

    Attributes:
        whole: Of the model as it is.
        edited: Of the edit, by strength.
        random: Of each random edit.
        tuned: Of the model with a fine-tuned last layer; None where there is none.
    """

    whole: Int[Tensor, " images"]
    edited: Mapping[float, Int[Tensor, " images"]]
    random: Sequence[Int[Tensor, " images"]]
    tuned: Int[Tensor, " images"] | None

    @property
    def arms(self) -> dict[str, Int[Tensor, " images"]]:
        """By name, those arms that are one model."""
        found = {WHOLE: self.whole, EDITED: self.edited[1.0]}
        return found if self.tuned is None else {**found, TUNED: self.tuned}


@dataclass(frozen=True)
class Findings:
    """What an edit is worth.

    Attributes:
        problem: What it is for.
        tested: The answers.
        trials: The edits that were tried.
        choice: How it was chosen among them.
        tuning: How its rival was; None without one.
        components: Names of the components that it ablates, the first the most telling.
        scores: Their scores.
        total: How many components there are.
        layers: By layer in the order of the model, how many are ablated, and of how many.
        passes: What attributing took, in forward passes over the attributed images.
    """

    problem: Problem
    tested: Tested
    trials: Sequence[Trial]
    choice: Choice
    tuning: Choice | None
    components: Sequence[str]
    scores: Sequence[float]
    total: int
    layers: Mapping[str, tuple[int, int]]
    passes: float

    @property
    def examined(self) -> Examined:
        """The images that are tested."""
        return self.problem.test

    @property
    def parts(self) -> list[str]:
        """Names of the parts."""
        return list(self.examined.parts)

    def difference(self, part: str, first: str, second: str) -> Interval:
        """By how much one arm is more accurate than another on a part, image by image."""
        arms = self.tested.arms
        return self._difference(
            [self.examined.right(arms[first], part).tolist()],
            [self.examined.right(one, part).tolist() for one in self._answers(second)],
        )

    def attack_difference(self, first: str, second: str) -> Interval:
        """By how much marks have their way more often with one arm than with another."""
        arms = self.tested.arms
        others = [self._attacked(one) for one in self._answers(second)]
        return self._difference([self._attacked(arms[first])], others)

    def worst(self, answers: Int[Tensor, " images"]) -> Interval:
        """The accuracy on the worst of the aims, with an interval by bootstrap over images."""
        return self._worst([answers])

    def _worst(self, drawn: Sequence[Int[Tensor, " images"]]) -> Interval:
        """The accuracy on the worst of the aims, averaged over draws with one each."""
        rights = [
            np.stack([_plain(self.examined.right(answers, part)) for answers in drawn], 1)
            for part in self.problem.goal.aims
        ]
        return _bootstrap(rights, lambda draws: draws.min(0).mean(-1), (0.0, 1.0))

    def worst_difference(self, first: str, second: str) -> Interval:
        """By how much one arm's worst group is better answered than another's, by bootstrap.

        Each random edit has a worst group of its own; their accuracies are averaged.
        """
        arms, pairs = self.tested.arms, []
        for part in self.problem.goal.aims:
            mine = _plain(self.examined.right(arms[first], part))
            theirs = [_plain(self.examined.right(one, part)) for one in self._answers(second)]
            pairs.append(np.stack([mine, *theirs], 1))
        return _bootstrap(
            pairs,
            lambda draws: draws[..., 0].min(0) - draws[..., 1:].min(0).mean(-1),
            (-1.0, 1.0),
        )

    def _answers(self, arm: str) -> list[Int[Tensor, " images"]]:
        return list(self.tested.random) if arm == RANDOM else [self.tested.arms[arm]]

    def _attacked(self, answers: Int[Tensor, " images"]) -> list[bool]:
        return self.examined.misled(answers).tolist()

    @staticmethod
    def _difference(first: list[list[bool]], others: list[list[bool]]) -> Interval:
        if len(others) == 1:
            return paired_difference(first[0], others[0])
        averaged = torch.tensor(others, dtype=torch.float64).mean(0).tolist()
        if len(averaged) < 2:  # what one image has of others nobody knows
            value = sum(map(float, first[0])) - sum(averaged) if averaged else math.nan
            return Interval(value, math.nan, math.nan)
        found = mean_difference([float(one) for one in first[0]], averaged)
        # Student's interval of few images reaches beyond what shares can differ by.
        return Interval(found.value, max(found.low, -1.0), min(found.high, 1.0))

    @property
    def rivals(self) -> list[str]:
        """What the edit is held against."""
        found = [WHOLE] + [RANDOM] * bool(self.tested.random)
        return [*found, TUNED] if self.tested.tuned is not None else found

    @property
    def measures(self) -> list[str]:
        """Accuracies of parts, and what else is measured of each arm."""
        also = [self.problem.attack] if self.problem.attack else []
        return [*self.parts, *also, *([WORST] if self.problem.goal.worst else [])]

    def measure(self, name: str, answers: Int[Tensor, " images"]) -> Interval:
        """One of the measures."""
        if name == WORST:
            return self.worst(answers)
        return share(self._hits(name, answers))

    def _hits(self, name: str, answers: Int[Tensor, " images"]) -> list[bool]:
        """Of the images of a part, which are right; or with the patch, where it has its way."""
        if name not in self.examined.parts:
            return self._attacked(answers)
        hits: list[bool] = self.examined.right(answers, name).tolist()
        return hits

    def compares(self, name: str, rival: str) -> bool:
        """Whether a comparison of the edit with a rival says anything.

        What the model answers has chosen the images of some parts, so that it could only gain.
        """
        return rival != WHOLE or name not in self.problem.seen

    def called(self, name: str) -> str:
        """What a measure is called, with why it is none of images that are held out."""
        why = self.problem.seen.get(name)
        return f"{name} ({why})" if why else name

    def compare(self, name: str, first: str, second: str) -> Interval:
        """One of the measures of one arm less that of another."""
        if name == WORST:
            return self.worst_difference(first, second)
        if name in self.examined.parts:
            return self.difference(name, first, second)
        return self.attack_difference(first, second)

    def of_random(self, name: str) -> Interval:
        """One of the measures, averaged over the random edits, with its interval over images."""
        if name == WORST:
            return self._worst(self.tested.random)
        return mean_share([self._hits(name, one) for one in self.tested.random])

    def to_json(self) -> str:
        """Every number as JSON."""
        arms = {
            arm: {name: vars(self.measure(name, answers)) for name in self.measures}
            for arm, answers in self.tested.arms.items()
        }
        if self.tested.random:
            arms[RANDOM] = {name: vars(self.of_random(name)) for name in self.measures}
        differences = {
            f"{EDITED} less {rival}": {
                name: vars(self.compare(name, EDITED, rival))
                for name in self.measures
                if self.compares(name, rival)
            }
            for rival in self.rivals
        }
        content: dict[str, Any] = {
            "problem": self.problem.words,
            "components": dict(zip(self.components, self.scores, strict=True)),
            "order": self.trials[self.choice.chosen].order,
            "of": self.total,
            "helps": self.choice.helps,
            "passes": self.passes,
            "seen": {name: why for name, why in self.problem.seen.items() if name in self.parts},
            "arms": arms,
            "differences": differences,
        }
        return json.dumps(content, indent=2) + "\n"

    @property
    def csv(self) -> str:
        """Every measure at every strength, and of every rival."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["arm", "strength", "measure", "value", "low", "high", "images"])
        lines: list[tuple[str, str, Int[Tensor, " images"]]] = [
            (EDITED, format_strength(one), answers) for one, answers in self.tested.edited.items()
        ]
        lines += [(f"random {one + 1}", "1", got) for one, got in enumerate(self.tested.random)]
        if self.tested.tuned is not None:
            lines.append((TUNED, "", self.tested.tuned))
        for arm, strength, answers in lines:
            for name in self.measures:
                one = self.measure(name, answers)
                known = name in self.examined.parts
                count = len(self.examined.right(answers, name)) if known else ""
                writer.writerow([arm, strength, name, one.value, one.low, one.high, count])
        return text.getvalue()


def share(right: Sequence[bool]) -> Interval:
    """A share of right answers with Wilson's interval; NaN of none."""
    if not right:
        return Interval(math.nan, math.nan, math.nan)
    value = sum(right) / len(right)
    return Interval(value, *wilson_interval(value, len(right)))


def is_clear(one: Interval) -> bool:
    """Whether a difference is told from none; one without an interval is not."""
    return one.is_clear if isinstance(one, PairedDifference) else one.low > 0 or one.high < 0


def _plain(right: Tensor) -> np.ndarray:
    return right.double().numpy()


def _bootstrap(
    groups: Sequence[np.ndarray], statistic: Any, limits: tuple[float, float]
) -> Interval:
    """A statistic of the means of groups, with the 95 % interval over images drawn again.

    A group of one image would never vary, so that there is no interval. Where no image drawn again
    changes anything, those not seen may: a share of the smallest group as large as Wilson's bound
    for none of it.

    Args:
        groups: Values of the images of each group [images, ...].
        statistic: Of the groups' means [groups, ...], over its first axis.
        limits: Its least and largest value.
    """
    generator = np.random.default_rng(0)
    means = np.stack([one.mean(0) for one in groups])
    drawn = np.stack(
        [
            np.stack(
                [one[generator.integers(0, len(one), len(one))].mean(0) for _ in range(_RESAMPLES)]
            )
            for one in groups
        ]
    )
    low, high = np.quantile(statistic(drawn), (0.025, 0.975))
    value, smallest = float(statistic(means)), min(map(len, groups))
    if smallest < 2:
        low = high = math.nan
    elif high - low < _NO_WIDTH:
        unseen = wilson_interval(0.0, smallest)[1]
        low, high = max(value - unseen, limits[0]), min(value + unseen, limits[1])
    return Interval(value, float(low), float(high))
