"""Claims about reading columns from arguments, and about kinds that do not go together."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from aim_plugins.core.strengths import Axis
from aim_plugins.modulation import changes
from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.modulation.arguments import (
    columns_of,
    describe_columns,
    read_columns,
    split_arguments,
    swept_kinds,
)
from aim_plugins.modulation.changes import Change, kinds, register
from aim_plugins.modulation.named_kinds import named_kind
from aim_plugins.transport.change import Transport

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


BOTH = {"transport_sea": MAPS, "transport_praise": MAPS}


def test_transports_under_names_are_kinds_of_their_own():
    given = {**BOTH, "strength_sea": "0,1", "strength_praise": "0:1:0.5", "max_length": 5}
    ours, rest = split_arguments(given)
    columns = read_columns(ours, required=("transport",))
    assert rest == {"max_length": 5}
    assert names(columns) == ["transport_praise", "transport_sea"]
    praise, sea = swept_kinds(columns)
    places = [(column.strength_of(praise), column.strength_of(sea)) for column in columns]
    assert places == [(p, s) for s in (0.0, 1.0) for p in (0.0, 0.5, 1.0)]
    assert (praise.axis.name, praise.axis.symbol) == ("strength_praise", "λ_praise")
    assert columns[4].settings == {"strength_praise": 0.5, "strength_sea": 1.0, "noise_seed": 0}
    described = describe_columns(columns)
    assert described["strength_sea"] == [0.0, 1.0]
    assert set(described["changes"]) == {"transport_praise", "transport_sea"}
    assert columns[4] == read_columns({**BOTH, "strength_praise": 0.5})[0]
    assert len({column.fingerprint for column in columns}) == 6


def test_a_kind_in_use_outlives_the_names_that_clients_think_of():
    held = named_kind(Transport, "held")
    for number in range(named_kind.cache_info().maxsize + 1):
        named_kind(Transport, f"other_{number}")
    assert named_kind(Transport, "held") is held


def test_transports_are_told_apart_by_their_names():
    praise, again, sea = (named_kind(Transport, name) for name in ("praise", "praise", "s"))
    assert praise(0.5, "f", MAPS) == again(0.5, "f", MAPS) != sea(0.5, "f", MAPS)
    assert praise(0.5, "f", MAPS) != Transport(0.5, "f", MAPS)
    assert praise.of_request({"aim_strength_praise": 0.5}) == praise(0.5, "", MAPS)
    assert praise(0.5, "f", MAPS).request == {"aim_strength_praise": 0.5}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"strength_sea": 0.5}, "strength_sea=0.5 has no transport: .*as in transport_sea=DIR"),
        ({"transport_sea": ""}, "transport_sea= is missing"),
        ({"transport_sea": MAPS, "strength_sea": "x"}, "strength_sea='x' is malformed"),
        ({"force_transport_sea": "maybe", "transport_sea": MAPS}, "force_transport_sea='maybe'"),
        ({"strength_9": 0.5}, "strength_9=0.5 is no argument"),
        ({"strength_the sea": 0.5}, "is no argument"),
    ],
)
def test_a_named_transport_that_lacks_something_is_named(given, reason):
    with pytest.raises(ValueError, match=reason):
        read_columns(given)


def test_a_named_transport_without_a_folder_is_called_what_it_was_called():
    with pytest.raises(FileNotFoundError, match="^transport_sea='nowhere' is no folder"):
        read_columns({"transport_sea": "nowhere"})


@pytest.mark.parametrize("given", [{}, {"noise_std": 1}, {"strength": 1}])
def test_a_transport_that_is_needed_may_not_be_missing(given):
    with pytest.raises(ValueError, match="transport= is missing"):
        read_columns(given, required=("transport",))


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
