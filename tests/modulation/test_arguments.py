"""Claims about reading columns from arguments, and about kinds that do not go together."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from aim_plugins.core.strengths import Axis
from aim_plugins.modulation import changes
from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.modulation.arguments import columns_of, split_arguments, swept_kinds
from aim_plugins.modulation.changes import Change, kinds, register

MAPS = ActivationMaps({})


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setattr(changes, "_kinds", dict(changes._kinds))


def names(columns, *named):
    return [kind.name for kind in swept_kinds(columns, named)]


def test_what_varies_makes_the_axes_wherever_it_was_said():
    noise = columns_of(noise_std="0,1,2", strength=0.5, transport=MAPS)
    assert names(noise) == names(noise, "strength") == ["noise"]
    assert names(columns_of(noise_std="0,1", strength="0,1", transport=MAPS)) == [
        "noise",
        "transport",
    ]


def test_where_nothing_varies_the_named_strength_is_the_axis():
    columns = columns_of(noise_std=1, strength=0.5, transport=MAPS)
    assert names(columns) == ["transport"]
    assert names(columns, "noise_std") == ["noise"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("noise_sdt", "noise_std"),
        ("noise_sigma", "noise_\\w+"),
        ("strenght", "strength"),
        ("transport_strength", "strength"),
        ("transprot", "transport"),
    ],
)
def test_nearly_ours_is_answered_with_the_nearest_name(name, near):
    with pytest.raises(ValueError, match=f"{name}=1 is unknown: did you mean {near}="):
        split_arguments({name: 1})


@pytest.mark.parametrize("name", ["guidance_strength", "temperature", "max_length", "dtype"])
def test_other_peoples_arguments_are_left_to_them(name):
    assert split_arguments({name: 1, "noise_std": 2}) == ({"noise_std": 2}, {name: 1})


def test_two_kinds_that_take_one_argument_are_refused(kept):
    @register
    @dataclass(frozen=True)
    class Other(Change):
        name = "other"
        axis = Axis("other", "o", "other")
        acts_on = "logits"
        arguments = {"noise_std": "of another kind"}
        strength: float

    with pytest.raises(ValueError, match="'noise' and 'other' both take noise_std"):
        kinds()


def test_an_axis_knows_the_neutral_strength_and_reads_back():
    for kind in kinds():
        assert kind.axis.neutral == kind.neutral
        assert Axis(**json.loads(json.dumps(kind.axis.to_json()))) == kind.axis
    shared = {kind.name for kind in kinds() if kind.axis.shared_draws}
    assert shared & {"noise", "transport", "ablation"} == {"ablation"}
