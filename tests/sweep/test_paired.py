"""Claims about the comparison of two models' answers to the same questions."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from aim_plugins.sweep.paired import (
    PairedDifference,
    holm,
    mean_difference,
    mean_share,
    paired_difference,
    sign_flip_p,
    verdict,
)


def answers(both: int, won: int, lost: int, neither: int) -> tuple[list[bool], list[bool]]:
    first = [True] * (both + won) + [False] * (lost + neither)
    second = [True] * both + [False] * won + [True] * lost + [False] * neither
    return first, second


CELLS = [(80, 9, 2, 9), (50, 0, 6, 4), (3, 5, 5, 1), (0, 1, 0, 0)]


@pytest.mark.parametrize("cells", CELLS)
def test_a_difference_is_paired_and_has_mcnemars_exact_p(cells):
    _, won, lost, _ = cells
    found = paired_difference(*answers(*cells))
    assert found.value == pytest.approx((won - lost) / sum(cells))
    assert found.p == pytest.approx(stats.binomtest(won, won + lost, 0.5).pvalue)
    # By hand: all splits that are at most as likely as the one found.
    total = won + lost
    law = [math.comb(total, one) / 2**total for one in range(total + 1)]
    assert found.p == pytest.approx(sum(one for one in law if one <= law[won] * (1 + 1e-9)))


@pytest.mark.parametrize("cells", CELLS)
def test_the_other_way_round_a_difference_changes_its_sign_alone(cells):
    found, turned = (
        paired_difference(*given) for given in (answers(*cells), reversed(answers(*cells)))
    )
    expected = (-found.value, -found.high, -found.low, found.p)
    assert (turned.value, turned.low, turned.high, turned.p) == pytest.approx(expected)


def test_answers_that_never_differ_still_leave_a_doubt():
    same = paired_difference(*answers(30, 0, 0, 10))
    assert same.low < same.value == 0 < same.high
    assert same.p == 1


@pytest.mark.parametrize(
    ("n", "laws"), [(60, (0.7, 0.12, 0.05, 0.13)), (300, (0.9, 0.03, 0.02, 0.05))]
)
def test_intervals_hold_the_truth_as_often_as_they_say(n, laws):
    rng = np.random.default_rng(0)
    truth, held = laws[1] - laws[2], 0
    for _ in range(800):
        found = paired_difference(*answers(*rng.multinomial(n, laws).tolist()))
        held += found.low <= truth <= found.high
    # Four standard deviations of 95 % of 800 are 3 points; the interval errs to the safe side.
    assert 0.92 < held / 800 < 0.99


def test_answers_to_no_question_or_to_others_are_not_compared():
    with pytest.raises(ValueError, match="first is empty"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="first has 2 answers and second 1: give those to the"):
        paired_difference([True, False], [True])


def test_the_word_follows_the_p_that_stands_beside_it():
    told = set()
    for won in range(14):
        for lost in range(14):
            text = verdict(paired_difference(*answers(40, won, lost, 5)))
            word, shown = text.split(", ", 1)[0], float(text.rpartition("p = ")[2])
            sign = "better" if won > lost else "worse"
            assert word == (sign if shown < 0.05 else "cannot be told apart")
            told.add(word)
    assert told == {"better", "worse", "cannot be told apart"}


def test_where_interval_and_p_disagree_p_decides():
    found = paired_difference(*answers(90, 8, 1, 1))
    assert found.low > 0 and found.p < 0.05
    assert verdict(found).startswith("better, +7.0 points [+")
    found = paired_difference(*answers(1000, 5, 0, 0))
    assert found.low > 0 and found.p == pytest.approx(2 / 2**5)
    assert verdict(found).startswith("cannot be told apart, +0.5 points [+")
    assert verdict(found).endswith("p = 0.062")


def test_a_p_that_is_shown_as_the_level_is_not_below_it():
    assert "cannot be told apart" in verdict(PairedDifference(0.1, 0.01, 0.2, 0.0499))
    assert "better" in verdict(PairedDifference(0.1, 0.01, 0.2, 0.0494))


def test_answers_averaged_over_draws_have_students_interval():
    first, second = [1.0, 1.0, 0.0, 1.0, 1.0], [1 / 3, 1.0, 0.0, 2 / 3, 1.0]
    found = mean_difference(first, second)
    law = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((law.low, law.high), rel=0.02)


def test_means_that_are_alike_may_differ_on_other_documents():
    # Wilson's bound for none of 10 is z²/(n + z²).
    found = mean_difference([1.0] * 10, [1.0] * 10)
    assert found.high == pytest.approx(3.8415 / 13.8415, abs=1e-4)


def test_signs_are_dealt_out_in_all_ways() -> None:
    first, second = [0.9, 0.2, 0.7, 0.4, 0.6], [0.1, 0.3, 0.2, 0.0, 0.5]
    differences = np.subtract(first, second)
    observed = abs(differences.mean())
    ways = [abs((np.array(one) * differences).mean()) for one in product((1, -1), repeat=5)]
    expected = np.mean([one >= observed - 1e-12 for one in ways])
    assert sign_flip_p(first, second) == pytest.approx(expected)
    assert sign_flip_p(second, first) == pytest.approx(expected)


def rejected_step_by_step(chances: list[float], level: float) -> set[int]:
    """Holm's procedure: the smallest p against level / m, the next against level / (m - 1), ..."""
    found: set[int] = set()
    for rank, place in enumerate(np.argsort(chances)):
        if chances[place] > level / (len(chances) - rank):
            break
        found.add(int(place))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_holms_p_is_the_level_from_which_his_procedure_rejects(seed: int) -> None:
    chances = (np.random.default_rng(seed).random(6) ** 3).tolist()
    corrected = holm(chances)
    for level in (0.003, 0.01, 0.05, 0.2, 0.6):
        called = {place for place, p in enumerate(corrected) if p <= level}
        assert called == rejected_step_by_step(chances, level)
    assert max(corrected) <= 1


@pytest.mark.parametrize(
    ("images", "draws", "right", "wrong"), [(25, 1, 9, 1), (25, 3, 9, 1), (40, 5, 2, 2)]
)
def test_a_share_of_few_draws_holds_the_truth_as_often_as_it_says(images, draws, right, wrong):
    """Images differ in how likely they are answered rightly: the true mean of a beta law."""
    rng, truth, held = np.random.default_rng(0), right / (right + wrong), 0
    for _ in range(500):
        chances = rng.beta(right, wrong, images)
        found = mean_share((rng.random((draws, images)) < chances).tolist())
        assert found.low < found.high
        held += found.low <= truth <= found.high
    assert held / 500 > 0.95 - 2.5 * math.sqrt(0.95 * 0.05 / 500)
