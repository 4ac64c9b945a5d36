"""Claims about what a report says at its top."""

from __future__ import annotations

import math

import pytest

from aim_plugins.sweep.headline import describe_change
from aim_plugins.sweep.plots import group_curves
from aim_plugins.sweep.table import Point


def change(values, stderr=None, n=40):
    """What is said of a curve at strengths 0, 1, 2 and so on; None is the error of a share."""
    some = [
        Point("quiz", "acc", x, y, math.sqrt(y * (1 - y) / n) if stderr is None else stderr, n, 1)
        for x, y in enumerate(values)
    ]
    (curve,) = group_curves(some)
    return describe_change(curve).removeprefix("acc of quiz ")


def test_a_curve_that_returns_to_its_start_is_not_said_to_stay():
    assert change((0.0, 0.75, 0.0), n=4) == (
        "rises from 0.000 to 0.750 at strength 1, then falls to 0.000"
    )


def test_a_curve_that_dips_is_said_to_fall_first():
    assert change((20.0, 9.0, 10.0, 30.0), stderr=1.0) == (
        "falls from 20.000 to 9.000 at strength 1, then rises to 30.000"
    )


def test_a_peak_beyond_both_ends_is_told_even_where_the_ends_differ():
    assert change((0.1, 0.9, 0.5)) == "rises from 0.100 to 0.900 at strength 1, then falls to 0.500"


def test_a_difference_within_the_error_is_no_fall():
    assert change((0.967, 0.95, 0.942), stderr=0.018) == (
        "stays between 0.942 and 0.967, within the 95 % intervals of 0.967"
    )


def test_one_hit_in_four_is_no_rise_from_none():
    # Wilson's interval of 0/4 ends at 0.49.
    assert change((0.0, 0.25), n=4).startswith("stays between 0.000 and 0.250, within")
    assert change((0.0, 0.75), n=4) == "rises from 0.000 to 0.750"


def test_an_end_that_differs_from_neither_start_nor_peak_is_only_named():
    assert change((10.0, 13.0, 11.5), stderr=1.0) == (
        "rises from 10.000 to 13.000 at strength 1 and ends at 11.500"
    )


def test_a_bump_within_the_error_does_not_hide_a_fall():
    assert change((0.9, 0.91, 0.3)) == "falls from 0.900 to 0.300"


def test_equal_values_stay():
    assert change((0.5, 0.5, 0.5)) == "stays at 0.500"


def test_without_errors_the_values_alone_decide():
    assert change((0.5, 0.51), stderr=math.nan) == "rises from 0.500 to 0.510"


@pytest.mark.parametrize("values", [(math.inf, 1.0, 2.0), (1.0, 2.0, math.nan)])
def test_nothing_is_said_of_a_curve_without_ends(values):
    assert change(values, stderr=0.1) == ""


def test_a_gap_inside_a_curve_is_passed_over():
    assert change((1.0, math.nan, 3.0), stderr=0.1) == "rises from 1.000 to 3.000"
