"""Changes as requests of a server ask for them, and as one decoding step applies them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from aim_plugins.core.strengths import Axis
from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.columns import by_kind
from aim_plugins.modulation.conditions import ConditionText
from aim_plugins.modulation.gaussian import GaussianNoise
from aim_plugins.modulation.named_kinds import named_kind
from aim_plugins.transport.change import Transport


@dataclass(frozen=True)
class Temperature(Change):
    name = "temperature"
    axis = Axis("temperature", "τ", "temperature", low=0.01)
    acts_on = "logits"
    arguments = {"logit_temperature": "what logits are divided by"}
    strength: float

    def modulate(self, logits, keys, scratch):
        return logits / self.strength


MAPS = ActivationMaps({"a": AffineMap.everywhere(torch.ones(2), torch.ones(2))})


@pytest.mark.parametrize(
    "change",
    [
        GaussianNoise(0.5, 2.0, 7),
        Temperature(3.0),
        Transport(-0.5, "", MAPS, window="prompt", condition=ConditionText("harmful")),
        named_kind(Transport, "sea")(
            -0.5, "", MAPS, window="3-", condition=ConditionText("harmful", True, False, 0.25)
        ),
    ],
)
def test_a_request_reads_back_as_its_change(change):
    assert type(change).of_request(change.request).drawn(change.seed) == change
    assert set(change.request) == {*change.request_names(), *(["aim_seed"] * change.draws)}


@pytest.mark.parametrize(
    ("given", "mend"),
    [(">0.5", "names no condition"), ("harmful>2", "is no cosine"), ("harmful>x", "is no cosine")],
)
def test_a_condition_that_says_nothing_is_refused(given, mend):
    with pytest.raises(ValueError, match=f"aim_condition='{given}'.*{mend}"):
        Transport.of_request({"aim_condition": given, "aim_strength": 1.0})


def test_a_window_without_a_strength_is_refused():
    with pytest.raises(ValueError, match="aim_window_sea='last' has no strength"):
        named_kind(Transport, "sea").of_request({"aim_window_sea": "last", "aim_strength": 1.0})


@pytest.mark.parametrize("kind", [GaussianNoise, Temperature, Transport])
def test_a_request_for_nothing_of_a_kind_has_no_change_of_it(kind):
    assert kind.of_request({"aim_seed": 3, "aim_other": "anything"}) is None


def test_a_transport_of_a_request_leaves_its_maps_to_the_engine():
    assert not Transport.of_request({"aim_strength": 0.5}).maps.maps


@pytest.mark.parametrize(
    "changes",
    [
        [GaussianNoise(0.5, 2.0, 7), GaussianNoise(1.5, 0.0, 8)],
        [Temperature(3.0), Temperature(0.5)],
        [Temperature(3.0), Temperature(3.0)],
    ],
)
def test_rows_changed_in_place_are_those_of_a_copy(changes):
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    keys = torch.tensor([11, 12])
    kind, before = type(changes[0]), logits.clone()
    expected = kind.modulate_rows(logits[[1, 3]], keys, changes)
    assert torch.equal(logits, before)
    kind.modulate_rows(logits, keys, changes, rows=[1, 3])
    assert torch.equal(logits[[1, 3]], expected)
    assert torch.equal(logits[[0, 2]], before[[0, 2]])
    whole = before[[1, 3]]
    kind.modulate_rows(whole, keys, changes, rows=[0, 1])
    assert torch.equal(whole, expected)


def test_steps_follow_the_order_of_each_rows_own_changes():
    noise, cold = GaussianNoise(1.0), Temperature(0.5)
    steps = list(by_kind([(noise, cold), (), (cold,), (noise,)]))
    assert steps == [
        (GaussianNoise, [noise, None, None, noise]),
        (Temperature, [None, None, cold, None]),
        (Temperature, [cold, None, None, None]),
    ]
