"""Claims about reading and naming strengths."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from aim_plugins.core.strengths import (
    MAX_STRENGTHS,
    format_strength,
    parse_strengths,
    validate_strength,
)


def test_grid_includes_its_end_and_counts_in_decimal():
    # 0.1 * 3 is 0.30000000000000004 in floats; the decimal grid holds the float nearest to 3/10.
    expected = tuple(float(Fraction(index, 10)) for index in range(11))
    assert parse_strengths("0:1:0.1") == expected
    assert 0.3 in parse_strengths("0:1:0.1")


def test_grid_stops_before_an_end_its_steps_do_not_meet():
    assert parse_strengths("0:1:0.3") == (0.0, 0.3, 0.6, 0.9)


def test_grid_of_one_point():
    assert parse_strengths("2:2:1") == (2.0,)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("0,0.5,1", (0.0, 0.5, 1.0)),
        ("[0, 0.5]", (0.0, 0.5)),
        ("(0, 0.5,)", (0.0, 0.5)),
        (" 0.5 ", (0.5,)),
        ("1e-3", (0.001,)),
        (0.5, (0.5,)),
        (3, (3.0,)),
        ([1, 0.5], (1.0, 0.5)),
        (["0.5", 2], (0.5, 2.0)),
        ("0:1:0.5,4", (0.0, 0.5, 1.0, 4.0)),
        (np.array([0.0, 0.25]), (0.0, 0.25)),
        (np.float32(0.5), (0.5,)),
        (np.array(0.5), (0.5,)),
        (range(3), (0.0, 1.0, 2.0)),
        ("-0", (0.0,)),
    ],
)
def test_lists_numbers_and_mixtures_are_read_in_their_order(spec, expected):
    strengths = parse_strengths(spec)
    assert strengths == expected
    assert all(type(strength) is float for strength in strengths)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("", "no strength"),
        ("[]", "no strength"),
        ([], "no strength"),
        ("0,,1", "'' is not a number"),
        ("0,0.5,0", "holds 0 twice"),
        ("0.5,0.50", "holds 0.5 twice"),
        ([0.0, -0.0], "holds 0 twice"),
        ("-1", "negative"),
        ("-1:1:0.5", "negative"),
        ("nan", "not finite"),
        ("0:inf:1", "not finite"),
        ("1e999", "not finite"),
        (float("nan"), "not finite"),
        ("half", "'half' is not a number"),
        ("0:3", "start:stop:step"),
        ("0:1:2:3", "start:stop:step"),
        ("0:1:x", "'x' is not a number"),
        ("0:1:0", "step above 0"),
        ("0:1:-0.1", "negative"),
        ("3:0:1", "smaller end first"),
        ("0:1:0.00001", f"more than {MAX_STRENGTHS}"),
        ("0:1e300:1e-300", f"more than {MAX_STRENGTHS}"),
        (list(range(MAX_STRENGTHS + 1)), f"more than {MAX_STRENGTHS}"),
        (None, "not a number"),
        (True, "not a number"),
    ],
)
def test_bad_strengths_are_refused_by_name(spec, complaint):
    with pytest.raises(ValueError, match="sigma=") as error:
        parse_strengths(spec, name="sigma")
    assert complaint in str(error.value)


@pytest.mark.parametrize("value", [-1e-9, float("inf"), float("nan"), "0.5", None, [1], True])
def test_validation_refuses_what_is_no_strength(value):
    with pytest.raises(ValueError, match="noise_std="):
        validate_strength(value)


@pytest.mark.parametrize("value", [100.5, -101, 1e300, 10**400])
def test_a_strength_beyond_the_limit_is_named_shortly(value):
    with pytest.raises(ValueError, match="is beyond 100: give a number from -50 to 100") as error:
        validate_strength(value, low=-50, limit=100)
    assert len(str(error.value)) < 120


@pytest.mark.parametrize("value", [-50, 0.5, 100])
def test_a_strength_within_the_limit_is_taken(value):
    assert validate_strength(value, low=-50, limit=100) == value


def test_the_largest_allowed_grid_is_read_whole():
    assert len(parse_strengths(f"1:{MAX_STRENGTHS}:1")) == MAX_STRENGTHS


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.30000000000000004, 3.0, 1e-7, 1e22, 2 / 3])
def test_a_written_strength_reads_back_exactly(strength):
    assert float(format_strength(strength)) == strength


def test_written_strengths_are_short():
    assert [format_strength(x) for x in (0, 1.0, 0.25, 10.0)] == ["0", "1", "0.25", "10"]
