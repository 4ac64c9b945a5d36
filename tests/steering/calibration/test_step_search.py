"""The search on a step function, against thresholds that are known."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from aim_plugins.steering.calibration.questions import allowed_loss
from aim_plugins.steering.calibration.step_search import StepSearch


def run(loss, **options):
    search = StepSearch(**{"budget": 0.1, "largest": 32.0} | options)
    while asked := search.next:
        assert list(asked) == sorted(set(asked)) and asked[-1] <= search.largest
        for strength in asked:
            search.record(strength, loss(strength))
    return search


def lost(thresholds):
    """The share of questions whose threshold is passed."""
    return lambda strength: statistics.fmean(strength > one for one in thresholds)


@pytest.mark.parametrize("start", [0.02, 0.3, 5.0, 32.0])
@pytest.mark.parametrize("scale", [0.2, 1.0, 20.0])
def test_the_strength_ends_below_the_question_that_is_one_too_many(start, scale):
    thresholds = sorted(scale * random.Random(1).lognormvariate(0, 0.5) for _ in range(40))
    found = run(lost(thresholds), start=start).found
    if thresholds[4] > 32:
        assert (found.strength, found.reached) == (32.0, False)
        return
    # Four of forty may go; the fifth is passed within the tolerance above.
    assert found.reached and found.cost <= 0.1
    assert found.strength <= thresholds[4] < 1.021 * found.strength


def test_a_loss_that_comes_back_below_the_budget_is_not_followed():
    found = run(lambda strength: 0.3 if 0.8 < strength < 3 else 0.05).found
    assert found.strength == pytest.approx(0.8, rel=0.021) and found.strength <= 0.8


def test_a_budget_that_is_not_reached_ends_at_the_largest_strength():
    found = run(lambda strength: 0.1, largest=7.0).found
    assert (found.strength, found.cost, found.reached) == (7.0, 0.1, False)


@pytest.mark.parametrize(("start", "largest"), [(1.0, 32.0), (5.0, 32.0), (1.0, 0.001)])
def test_a_loss_at_every_strength_leaves_the_plain_model_and_spends_nothing(start, largest):
    search = run(lambda strength: 0.5, start=start, largest=largest)
    found = search.found
    assert (found.strength, found.cost, found.reached) == (0.0, 0.0, False)
    # Eight bits, as many as the significand of bfloat16 has.
    assert min(search.losses) == min(start, largest) / 256


def test_from_the_plain_model_nothing_is_looked_for():
    search = StepSearch(0.1, 32.0, start=0.0)
    assert search.next == ()
    assert (search.found.strength, search.found.reached) == (0.0, False)


@pytest.mark.parametrize(("count", "budget"), [(19, 0.05), (30, 0.1), (60, 0.05)])
def test_others_lose_the_budget_on_average_less_at_most_a_question(count, budget):
    """Over 2000 draws of questions, from the law of their thresholds itself."""
    draw, spent = random.Random(0), []
    for _ in range(2000):
        thresholds = sorted(draw.lognormvariate(0, 1) for _ in range(count))
        # The strength that the search comes to, at best: right below the first one too many.
        allowed = math.floor(count * allowed_loss(count, budget) + 1e-9)
        strength = thresholds[allowed]
        spent.append(statistics.NormalDist().cdf(math.log(strength)))
    error = 4 * statistics.stdev(spent) / math.sqrt(len(spent))
    assert budget - 1 / (count + 1) - error <= statistics.fmean(spent) <= budget + error


@pytest.mark.parametrize("count", [0, 1, 18])
def test_too_few_questions_allow_no_loss(count):
    assert allowed_loss(count, 0.05) < 0 <= allowed_loss(19, 0.05) + 1e-12
