"""Claims about the intervals of a curve's points."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binomtest, t

from aim_plugins.sweep.formats import estimate_texts, format_value
from aim_plugins.sweep.intervals import (
    is_binomial,
    point_intervals,
    student_factor,
    value_range,
    wilson_interval,
)
from aim_plugins.sweep.table import Point


def point(value, stderr, n, metric="acc"):
    return Point("task", metric, 0.5, value, stderr, n, 1)


def interval(value, stderr, n, metric="acc"):
    (ends,) = point_intervals([point(value, stderr, n, metric)])
    return ends


COUNTS = [(0, 40), (40, 40), (1, 40), (20, 40), (3, 7), (0, 2), (999, 1000), (123456, 1000000)]


@pytest.mark.parametrize(("hits", "n"), COUNTS)
@pytest.mark.parametrize("divisor", [0, 1], ids=["n", "n-1"])
def test_a_share_has_wilsons_interval(hits, n, divisor):
    share = hits / n
    law = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    ends = point_intervals([point(share, math.sqrt(share * (1 - share) / (n - divisor)), n)])[0]
    assert ends == pytest.approx((law.low, law.high), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("hits", "n"), COUNTS)
def test_wilsons_interval_holds_its_share_and_stays_within_zero_and_one(hits, n):
    low, high = wilson_interval(hits / n, n)
    assert 0 <= low <= hits / n <= high <= 1
    assert low < high


@pytest.mark.parametrize("n", [2, 3, 4, 5, 10, 40, 1000])
def test_another_mean_has_students_interval(n):
    low, high = t.interval(0.95, n - 1, loc=12.0, scale=2.0)
    assert interval(12.0, 2.0, n) == pytest.approx((low, high), rel=5e-3)
    assert student_factor(n) == pytest.approx(t.ppf(0.975, n - 1), rel=2e-3)


def test_a_mean_within_zero_and_one_has_an_interval_within_them():
    """Of a middling mean nearly Student's; near an end it does not leave the range."""
    assert interval(0.5, 0.01, 40, "share") == pytest.approx(
        t.interval(0.95, 39, loc=0.5, scale=0.01), rel=1e-3
    )
    low, high = interval(0.01, 0.008, 40, "share")
    assert 0 < low < 0.01 < high < 0.06


def test_a_signed_mean_keeps_what_lies_below_zero():
    """Four texts with a mean of 0.03 and an error of 0.275: no values within 0 and 1 scatter so."""
    low, high = interval(0.03, 0.275, 4, "score")
    assert (low, high) == pytest.approx(t.interval(0.95, 3, loc=0.03, scale=0.275), rel=5e-3)
    assert interval(0.03, 0.275, 4, "sentiment")[0] < -0.4


def test_a_perplexity_has_an_interval_above_zero():
    """That of its logarithm: an error larger than the value allows no negative perplexity."""
    low, high = interval(500.0, 300.0, 40, "perplexity")
    assert 0 < low < 500 < high
    assert low * high == pytest.approx(500.0**2)
    small = interval(20.0, 0.1, 40, "word_perplexity,none")
    assert small == pytest.approx(t.interval(0.95, 39, loc=20, scale=0.1), rel=1e-3)


@pytest.mark.parametrize("metric", ["acc", "recall", "acc_expected", "repeated_3grams"])
@pytest.mark.parametrize(("value", "n"), [(0.0, 40), (1.0, 49), (0.0, 4), (1.0, 4), (1.0, 1)])
def test_equal_documents_at_an_end_have_wilsons_interval(metric, value, n):
    law = binomtest(round(value * n), n).proportion_ci(0.95, method="wilson")
    assert interval(value, 0.0, n, metric) == pytest.approx((law.low, law.high), abs=1e-6)
    answers = point(0.5, 0.5 / math.sqrt(n), n, metric)
    if n > 1:
        ends = point_intervals([point(value, 0.0, n, metric), answers])[0]
        assert ends == pytest.approx((law.low, law.high), abs=1e-6)


def test_equal_graded_documents_scatter_as_at_the_nearest_strength_with_an_error():
    """A class of few pixels that is never found is no class found in one image of four."""
    near = Point("t", "iou", 0.5, 0.0003, 0.0003, 4, 1)
    far = Point("t", "iou", 0.0, 0.4, 0.1, 4, 1)
    none = Point("t", "iou", 1.0, 0.0, 0.0, 4, 1)
    size, factor = 0.0003 * 0.9997 / 0.0003**2, t.ppf(0.975, 3)
    low, high = point_intervals([far, near, none])[2]
    assert low == 0 and high == pytest.approx(factor**2 / (size + factor**2), rel=2e-2)
    assert high < 0.004
    # It is never wider than where nothing is known of the scatter.
    wild = Point("t", "iou", 0.5, 0.5, 0.4, 4, 1)
    assert point_intervals([wild, none])[1] == point_intervals([none])[0]


@pytest.mark.parametrize(("metric", "low"), [("presence", 0.0), ("sentiment", -1.0)])
@pytest.mark.parametrize("value", [0.0, 0.25, 0.5])
def test_equal_documents_anywhere_leave_room_for_unseen_ones(metric, low, value):
    """A share of them as large as Wilson's bound of 0 in n may lie at either end of the range."""
    unseen = binomtest(0, 4).proportion_ci(0.95, method="wilson").high
    ends = interval(value, 0.0, 4, metric)
    expected = (1 - unseen) * value + unseen * low, (1 - unseen) * value + unseen
    assert ends == pytest.approx(expected, rel=1e-6)


def test_a_score_in_percent_that_is_zero_everywhere_has_the_range_of_percent():
    law = binomtest(0, 40).proportion_ci(0.95, method="wilson")
    for metric in ("bleu", "chrf", "chrf++"):
        assert interval(0.0, 0.0, 40, metric) == pytest.approx((0, 100 * law.high), abs=1e-4)
    assert all(map(math.isnan, interval(0.0, 0.0, 40, "ter")))  # which may exceed 100


def test_equal_documents_of_a_measure_without_known_range_have_no_interval():
    assert all(map(math.isnan, interval(40.0, 0.0, 4, "length")))
    assert estimate_texts([point(40.0, 0.0, 4, "length")]) == [("40.000", "")]


def test_nearly_all_right_is_as_uncertain_as_all_right_whatever_smooths_the_answers():
    """The law of 49 right answers under little noise does not bound a document that was not seen.

    A graded measure, such as a pixel accuracy of some images, keeps its own error.
    """
    law = [point(0.9, math.sqrt(0.09 / 49), 49, "acc_expected"), point(0.9999, 1e-5, 49)]
    assert point_intervals(law)[1][0] == pytest.approx(wilson_interval(0.9999, 49)[0])
    graded = [point(0.9, 0.02, 49), point(0.9999, 1e-5, 49)]
    assert point_intervals(graded)[1][0] > 0.999


def test_a_range_is_told_by_the_name_or_by_all_points():
    assert value_range([point(0.0, 0.0, 4, "sentiment")]) == (-1, 1)
    assert value_range([point(0.5, 0.07, 40, "x"), point(0.0, None, 40, "x")]) == (0, 1)
    assert value_range([point(0.5, 0.07, 40, "x"), point(0.03, 0.3, 40, "x")]) is None
    assert value_range([point(0.5, 0.07, 40, "x"), point(1.01, 0.1, 40, "x")]) is None
    assert value_range([point(-2.0, 0.1, 40, "sentiment")]) is None
    # The jackknife of a ratio may give more than values within 0 and 1 can have.
    assert value_range([point(0.9, 0.3, 3, "iou_expected")]) == (0, 1)
    assert value_range([point(math.nan, 0.1, 40)]) is None


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


@pytest.mark.parametrize(
    ("value", "stderr", "n", "texts"),
    [
        (0.0, 0.0, 40, ("0.000", "[0.000, 0.088]")),
        (0.5, None, 40, ("0.500", "")),
        (521.4753, 1.0, 1000, ("521.48", "[519.51, 523.44]")),
        # As many decimals as tell the ends apart.
        (0.5, 1e-6, 1000, ("0.5000000", "[0.4999980, 0.5000020]")),
        (90000.0, 1000.0, 1000, ("90000", "[88038, 91962]")),
    ],
)
def test_a_value_and_its_interval_are_written_alike(value, stderr, n, texts):
    assert estimate_texts([point(value, stderr, n)]) == [texts]


def test_large_values_are_written_short():
    assert [format_value(x) for x in (0.5, 99.5, 1234.5, 1e9, math.inf, -0.25)] == [
        "0.500",
        "99.500",
        "1234.5",
        "1e+09",
        "inf",
        "-0.250",
    ]
