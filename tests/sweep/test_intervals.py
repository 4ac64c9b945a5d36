"""Claims about the intervals of a curve's points."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binomtest

from aim_plugins.sweep.intervals import is_binomial, point_intervals, wilson_interval
from aim_plugins.sweep.table import Point


def point(value, stderr, n):
    return Point("task", "acc", 0.5, value, stderr, n, 1)


COUNTS = [(0, 40), (40, 40), (1, 40), (20, 40), (3, 7), (0, 2), (999, 1000), (123456, 1000000)]


@pytest.mark.parametrize(("hits", "n"), COUNTS)
@pytest.mark.parametrize("divisor", [0, 1], ids=["n", "n-1"])
def test_a_share_has_wilsons_interval(hits, n, divisor):
    share = hits / n
    law = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    ends = point_intervals([point(share, math.sqrt(share * (1 - share) / (n - divisor)), n)])[0]
    # 1.96 stands for 1.959964.
    assert ends == pytest.approx((law.low, law.high), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(("hits", "n"), COUNTS)
def test_wilsons_interval_holds_its_share_and_stays_within_zero_and_one(hits, n):
    low, high = wilson_interval(hits / n, n)
    assert 0 <= low <= hits / n <= high <= 1
    assert low < high


def test_another_mean_has_a_symmetric_interval():
    ends = point_intervals([point(0.5, 0.01, 40)])[0]
    assert ends == pytest.approx((0.5 - 0.0196, 0.5 + 0.0196))
    assert point_intervals([point(12.0, 2.0, 40)])[0] == pytest.approx((12 - 3.92, 12 + 3.92))


@pytest.mark.parametrize(
    ("value", "stderr", "n"),
    [(0.5, None, 40), (0.5, math.nan, 40), (math.inf, 0.1, 40), (math.nan, 0.1, 40)],
)
def test_an_unknown_error_has_no_interval(value, stderr, n):
    assert all(math.isnan(end) for end in point_intervals([point(value, stderr, n)])[0])


@pytest.mark.parametrize(
    ("value", "stderr", "n"), [(1.5, 0.1, 40), (-0.5, 0.0, 40), (0.5, 0.05, 40), (1.0, 0.0, 1)]
)
def test_only_a_share_of_several_documents_is_binomial(value, stderr, n):
    assert not is_binomial(point(value, stderr, n))


def test_a_mean_that_happens_to_be_zero_is_no_share_where_its_curve_is_none():
    curve = [point(0.0, 0.0, 40), point(0.01, 0.004, 40)]
    assert point_intervals(curve)[0] == (0.0, 0.0)
    shares = [point(0.0, 0.0, 40), point(0.5, math.sqrt(0.25 / 40), 40)]
    assert point_intervals(shares)[0][1] > 0.05
