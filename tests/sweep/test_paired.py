"""Claims about the comparison of two models' answers to the same questions."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from aim_plugins.sweep.paired import (
    PairedDifference,
    documents_needed,
    draws_difference,
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


Scores = tuple[np.ndarray, np.ndarray]


def shares(rng: np.random.Generator, n: int, draws: int) -> Scores:
    """Right answers of two strengths that scale the same noise, to documents of any difficulty."""
    easy, noise = rng.normal(size=(n, 1)), rng.normal(size=(n, draws))
    other = 0.9 * noise + 0.44 * rng.normal(size=(n, draws))
    return np.where(easy + 0.8 + noise > 0, 1.0, 0.0), np.where(easy + 0.3 + other > 0, 1.0, 0.0)


def grades(rng: np.random.Generator, n: int, draws: int) -> Scores:
    """Skewed grades of two models."""
    level, noise = rng.normal(size=(n, 1)), rng.normal(size=(n, draws))
    first = level + noise + rng.exponential(0.5, (n, draws))
    return first, 0.9 * level + noise + 0.2 + rng.exponential(0.3, (n, 1))


def rightly(shift: float, noise: float) -> float:
    """The share of right answers in `shares`: a sum of normal variables above 0."""
    return float(stats.norm.cdf(shift / math.sqrt(1 + noise**2)))


TRUTH = {
    shares: rightly(0.8, 1.0) - rightly(0.3, math.hypot(0.9, 0.44)),
    grades: 0.5 - 0.2 - 0.3,
}


@pytest.mark.parametrize("draws", [1, 2, 5])
@pytest.mark.parametrize("n", [60, 200])
@pytest.mark.parametrize("make", [shares, grades])
def test_paired_intervals_hold_the_truth_in_93_to_97_percent(make, n, draws, monkeypatch):
    """1200 repetitions know a coverage of 95 % to 0.6 %."""
    monkeypatch.setattr("aim_plugins.sweep.paired.sign_flip_p", lambda *_: 1.0)  # is not asked
    rng, held = np.random.default_rng(0), 0
    for _ in range(1200):
        found = draws_difference(*make(rng, n, draws))
        held += found.low <= TRUTH[make] <= found.high
    assert 0.93 < held / 1200 < 0.97


@pytest.mark.parametrize("spread", [0.1, 1.0])
@pytest.mark.parametrize("draws", [3, 10])
def test_draws_that_all_documents_share_are_sampled_too(draws, spread):
    rng, held, missed = np.random.default_rng(0), 0, 0
    for _ in range(800):
        level, shared = rng.normal(size=(100, 1)), rng.normal(0, spread, (1, draws))
        first = level + shared + rng.normal(size=(100, draws))
        second = level + rng.normal(size=(100, draws))
        found = draws_difference(first, second, shared_draws=True)
        held += found.low <= 0 <= found.high
        missed += (found.p < 0.05) != (not found.low <= 0 <= found.high)
    assert 0.925 < held / 800 < 0.975
    # Interval and p are of one law, but where draws do not seem to differ.
    assert missed / 800 < 0.02


def test_one_draw_of_answers_is_mcnemars_and_several_are_the_documents_means():
    rng = np.random.default_rng(1)
    first, second = shares(rng, 50, 3)
    one = draws_difference(first[:, :1], second[:, :1])
    assert one == paired_difference(first[:, 0].astype(bool).tolist(), second[:, 0].tolist())
    law = stats.ttest_rel(first.mean(1), second.mean(1)).confidence_interval(0.95)
    several = draws_difference(first, second)
    assert (several.low, several.high) == pytest.approx((law.low, law.high))
    assert several.value == pytest.approx(first.mean() - second.mean())


def test_two_models_may_have_different_numbers_of_draws():
    first, second = shares(np.random.default_rng(2), 40, 4)
    found = draws_difference(first, second[:, :1])
    assert found.value == pytest.approx(first.mean() - second[:, 0].mean())
    with pytest.raises(ValueError, match="first has 40 documents and second 39: give the scores"):
        draws_difference(first, second[1:])


def test_documents_of_no_known_range_that_agree_leave_the_interval_unknown():
    same = np.full((6, 2), 70.0)
    found = draws_difference(same, same, span=math.nan)
    assert found.value == 0 and math.isnan(found.low) and found.p == 1


@pytest.mark.parametrize(
    ("won", "lost", "most"), [(0.15, 0.05, 0.84), (0.3, 0.18, 0.84), (0.06, 0.0, 0.94)]
)
def test_as_many_documents_as_are_needed_have_the_power_by_mcnemars_test(won, lost, most):
    """Where all that differs goes one way, the formula asks for up to a quarter too many."""
    seen = [1.0] * round(100 * won) + [-1.0] * round(100 * lost)
    n = documents_needed(seen + [0.0] * (100 - len(seen)))
    drawn = np.random.default_rng(0).multinomial(n, [won, lost, 1 - won - lost], 4000)
    firsts, totals = drawn[:, 0], drawn[:, 0] + drawn[:, 1]
    fewer = np.minimum(firsts, totals - firsts)
    p = np.minimum(1, 2 * stats.binom.cdf(fewer, totals, 0.5))
    assert 0.77 < (p < 0.05).mean() < most


@pytest.mark.parametrize("shift", [0.2, 0.5, 1.2])
def test_as_many_documents_as_are_needed_have_the_power_by_the_paired_test(shift):
    rng = np.random.default_rng(1)
    seen = rng.normal(size=4000)
    seen = (seen - seen.mean()) / seen.std(ddof=1) + shift  # the law's own mean and spread
    n = documents_needed(seen.tolist())
    p = stats.ttest_1samp(rng.normal(shift, 1, (4000, n)), 0, axis=1).pvalue
    assert 0.78 < (p < 0.05).mean() < 0.84  # 8 documents have more of it than 7.4 would


def test_more_power_and_smaller_differences_need_more_documents():
    seen = np.random.default_rng(2).normal(0.3, 1, 50).tolist()
    assert documents_needed(seen, power=0.95) > documents_needed(seen)
    assert documents_needed(seen, level=0.01) > documents_needed(seen)
    half = documents_needed(seen, difference=float(np.mean(seen)) / 2)
    assert half == pytest.approx(4 * documents_needed(seen), rel=0.05)
    with pytest.raises(ValueError, match="difference=0 over 2 documents: give a difference other"):
        documents_needed([1.0, -1.0])
