"""The nearest of the names there are, which every error about an unknown name ends with."""

from __future__ import annotations

import pytest

from aim_plugins.core.errors import did_you_mean, nearest


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [
        ("strenght", ["strength", "transport"], ["strength"]),
        ("step_sise", ["STEP_SIZE", "TARGETS"], ["STEP_SIZE"]),  # capitals do not count
        (136, ["137", "20"], ["137"]),  # keys of a YAML file may be numbers
        ("seed", ["method"], []),
        ("seed", [], []),
    ],
)
def test_nearest_names_are_those_spelt_alike(name, known, near):
    assert nearest(name, known) == near


def test_several_names_come_by_likeness():
    # Letters that have to change: 0, 1, 2 of 6.
    assert nearest("method", ["mathad", "methad", "method", "x"], count=3) == [
        "method",
        "methad",
        "mathad",
    ]
    assert did_you_mean("methood", ["x", "methad", "method"], count=2) == (
        "did you mean 'method' or 'methad'?"
    )


def test_without_a_similar_name_all_are_shown_or_another_way_out():
    assert did_you_mean("x", ["method", "seed"]) == "choose one of 'method', 'seed'"
    assert did_you_mean("x", ["method"], otherwise="give an index") == "give an index"
    assert did_you_mean("x", ["method"], cutoff=0.0) == "did you mean 'method'?"
