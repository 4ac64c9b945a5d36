"""Budgets of accuracy, on questions whose answers follow a law that is known."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import dataclass
from pathlib import Path

import pytest

from aim_plugins.steering.calibration.budgets import TaskBudget
from aim_plugins.steering.calibration.costs import UNCHANGED, Changed
from aim_plugins.steering.calibration.questions import TaskQuestions
from aim_plugins.steering.settings.calibration import CalibrationSettings
from aim_plugins.task_questions.questions import Question

BUDGET, ROUNDS = 0.05, 200
SETTINGS = CalibrationSettings(
    pretrained="any", output=Path("out"), perplexity=[Path("p.txt")], prompts="p.txt",
    transports=[Path("t")], sentiment="vader", budget_task=f"any={BUDGET}",
)  # fmt: skip


@dataclass(frozen=True)
class Steered(Changed):
    """A candidate, by its place, at a strength."""

    place: int = 0
    strength: float = 0.0


class LawfulQuestions(TaskQuestions):
    """Questions as one threshold for each candidate: the strength above which answers are wrong."""

    def __init__(self, count, candidates, draw):
        self.thresholds = {
            Question(f"any#{place}", ((0, 1), (0, 2)), (1, 1), 0): [
                draw.lognormvariate(0, 1) for _ in range(candidates)
            ]
            for place in range(3 * count)
        }
        asked = list(self.thresholds)
        self.sites, self.strengths, self.held_out = (
            asked[start : start + count] for start in (0, count, 2 * count)
        )
        self.asked = 0

    def hits(self, questions, changed):
        self.asked += 1
        assert self.asked < 100, "the search has no end"
        return [
            tuple(
                one is UNCHANGED or self.thresholds[question][one.place] >= one.strength
                for question in questions
            )
            for one in changed
        ]


def changes(count):
    return [
        lambda strength, place=place: Steered(place=place, strength=strength)
        for place in range(count)
    ]


@pytest.mark.parametrize("candidates", [1, 3])
def test_the_best_of_several_candidates_loses_the_budget_on_average_at_most(candidates):
    """All are equally good, so that the one with the largest strength is the luckiest."""
    draw, lost = random.Random(0), []
    for _ in range(ROUNDS):
        budget = TaskBudget(SETTINGS, LawfulQuestions(60, candidates, draw))
        all_of_them = changes(candidates)
        rough = budget.spend(all_of_them, [1.0] * candidates, fine=False)
        best = max(range(candidates), key=lambda place: rough[place].strength)
        [found] = budget.spend([all_of_them[best]], [rough[best].strength], fine=True)
        # What others lose, by the law of their thresholds.
        lost.append(statistics.NormalDist().cdf(math.log(found.strength)))
    error = 4 * statistics.stdev(lost) / math.sqrt(ROUNDS)
    assert BUDGET - 1 / 61 - error <= statistics.fmean(lost) <= BUDGET + error


def test_a_candidate_that_breaks_at_every_strength_ends_at_0():
    questions = LawfulQuestions(20, 2, random.Random(0))
    for row in questions.thresholds.values():
        row[1] = 0.0
    budget = TaskBudget(SETTINGS, questions)
    rough = budget.spend(changes(2), [1.0, 1.0], fine=False)
    fine = budget.spend(changes(2), [one.strength for one in rough], fine=True)
    for whole, broken in (rough, fine):
        assert whole.reached and whole.strength > 0
        assert (broken.strength, broken.cost, broken.reached) == (0.0, 0.0, False)
