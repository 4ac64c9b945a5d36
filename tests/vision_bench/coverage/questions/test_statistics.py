"""Intervals, correlations, impartiality and normalised changes, against scipy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from aim_plugins.core.identity import seed_of
from aim_plugins.sweep.paired import Interval, mean_interval
from vision_bench.coverage.questions.statistics import (
    impartiality,
    normalised_changes,
    pearson,
    sign_of,
)

RNG = np.random.default_rng(3)


def ends(one: Interval) -> tuple[float, float]:
    return one.low, one.high


def test_the_interval_of_a_mean_is_students():
    values = RNG.normal(size=5)
    found = mean_interval(values.tolist())
    expected = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert found.value == pytest.approx(values.mean())
    assert ends(found) == pytest.approx(expected, rel=2e-3)


def test_one_run_has_no_interval():
    found = mean_interval([0.5])
    assert found.value == 0.5
    assert math.isnan(found.low)
    assert sign_of(found) == 0


def test_runs_that_happen_to_agree_tell_nothing():
    assert sign_of(mean_interval([4.0] * 5)) == 0


@pytest.mark.parametrize(("low", "high", "sign"), [(0.1, 1, 1), (-1, -0.1, -1), (-1, 1, 0)])
def test_a_sign_is_that_of_an_interval_without_0(low: float, high: float, sign: int):
    assert sign_of(Interval(0.5 * (low + high), low, high)) == sign


def test_a_correlation_and_its_interval_are_those_of_scipy():
    x = RNG.normal(size=20)
    y = x + RNG.normal(size=20)
    found, expected = pearson(x.tolist(), y.tolist()), stats.pearsonr(x, y)
    assert found.value == pytest.approx(expected.statistic)
    assert ends(found) == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-6)


def test_a_correlation_within_groups_is_that_of_what_regression_on_them_leaves():
    groups = [0] * 5 + [1] * 7 + [2] * 4
    x, y = RNG.normal(size=(2, 16)) + 10 * np.array(groups)
    design = np.eye(3)[groups]
    left, right = (one - design @ np.linalg.lstsq(design, one, rcond=None)[0] for one in (x, y))
    found = pearson(x.tolist(), y.tolist(), groups)
    assert found.value == pytest.approx(stats.pearsonr(left, right).statistic)
    reach = stats.norm.ppf(0.975) / math.sqrt(16 - 3 - 2)
    assert math.atanh(found.high) - math.atanh(found.value) == pytest.approx(reach)


def test_size_alone_makes_a_correlation_that_is_gone_within_sizes():
    sizes = [100] * 30 + [1000] * 30
    x, y = np.random.default_rng(0).normal(size=(2, 60)) + np.array(sizes)
    assert pearson(x.tolist(), y.tolist()).value > 0.99
    assert sign_of(pearson(x.tolist(), y.tolist(), sizes)) == 0


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9])
def test_what_does_not_vary_has_no_correlation(value: float):
    found = pearson([value] * 6, [1.0, 2, 3, 4, 5, 6])
    assert math.isnan(found.value)
    assert sign_of(found) == 0


def test_what_varies_between_groups_alone_has_no_correlation_within():
    found = pearson([0.1, 0.1, 0.7, 0.7], [1.0, 2, 3, 5], [0, 0, 1, 1])
    assert math.isnan(found.value)


def test_few_values_have_a_correlation_without_an_interval():
    found = pearson([1.0, 2, 4], [1.0, 3, 2])
    assert math.isfinite(found.value)
    assert math.isnan(found.low)


def test_impartiality_is_entropy_over_that_of_all_classes():
    counts = [3, 0, 5, 2, 0]
    assert impartiality(counts, 5) == pytest.approx(stats.entropy(counts) / math.log(5))
    assert impartiality([4] * 10, 10) == pytest.approx(1)
    assert impartiality([7], 10) == 0


def test_impartiality_counts_classes_that_are_never_predicted():
    assert impartiality([5, 5], 10) == pytest.approx(math.log(2) / math.log(10))


def test_ncov_spans_the_range_of_all_changes_and_no_change():
    assert normalised_changes([-1.0, 3.0]) == [-0.25, 0.75]
    # One change, repeated, is as large as the range from the unchanged suite.
    assert normalised_changes([2.0, 2.0]) == [1.0, 1.0]
    assert normalised_changes([0.0, 0.0]) == [0.0, 0.0]


def test_other_words_draw_other_seeds():
    found = {seed_of(0, "suite", size, run) for size in (1, 12) for run in (2, 22)}
    assert len(found) == 4
    assert seed_of(0, "suite", 1) == seed_of(0, "suite", 1)
