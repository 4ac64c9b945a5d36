"""What neurons are worth: paired drops, random choices, and the sentences made of them."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.relevance.effects import (
    Drop,
    Effect,
    count_places,
    matched_neurons,
    random_neurons,
    tell_effect,
)

LAYERS = Layers(("conv", "fc", "out"), (4, 30, 3))


def _answers(lost: int, won: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    before = torch.arange(count) < count - won
    after = torch.cat([torch.zeros(lost), torch.ones(count - lost)]).bool()
    return before, after


def test_a_drop_is_the_difference_of_accuracies() -> None:
    drop = Drop.paired(*_answers(lost=30, won=4, count=100))
    assert drop.value == pytest.approx((96 - 70) / 100)


@pytest.mark.parametrize(("lost", "won"), [(30, 4), (3, 3), (9, 0)])
def test_the_interval_is_walds_with_half_an_input_in_each_cell(lost: int, won: int) -> None:
    drop = Drop.paired(*_answers(lost, won, 200))
    cells = np.array([lost, won, 200 - lost - won]) + [0.5, 0.5, 1.0]
    values = np.array([1.0, -1.0, 0.0])
    shares = cells / cells.sum()
    mean = (shares * values).sum()
    error = math.sqrt((shares * (values - mean) ** 2).sum() / cells.sum())
    low, high = stats.norm.interval(0.95, mean, error)
    assert (drop.low, drop.high) == pytest.approx((min(low, drop.value), max(high, drop.value)))


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(600):
        kinds = rng.choice(3, size=80, p=[0.2, 0.05, 0.75])
        before = torch.from_numpy(kinds != 1)
        after = torch.from_numpy(kinds != 0)
        drop = Drop.paired(before, after)
        held += drop.low <= 0.15 <= drop.high
    assert 0.925 < held / 600 < 0.985


def test_no_change_still_has_an_interval_and_all_change_stays_within_one() -> None:
    same = Drop.paired(torch.ones(50).bool(), torch.ones(50).bool())
    assert same.low < same.value == 0 < same.high
    lost = Drop.paired(torch.ones(50).bool(), torch.zeros(50).bool())
    assert lost.low < lost.value == 1.0 == lost.high
    with pytest.raises(ValueError, match="before is empty"):
        Drop.paired(torch.zeros(0).bool(), torch.zeros(0).bool())


def test_the_mean_over_choices_has_students_interval() -> None:
    values = [0.1, 0.35, 0.2, 0.28, 0.05]
    drop = Drop.mean_of(values)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (drop.value, drop.low, drop.high) == pytest.approx(
        (np.mean(values), low, high), abs=1e-3
    )


def test_random_neurons_are_of_all_layers_but_the_last_and_equally_likely() -> None:
    counts: Counter[int] = Counter()
    for seed in range(1500):
        drawn = random_neurons(LAYERS, 5, np.random.default_rng(seed))
        assert len(set(drawn)) == 5
        counts.update(drawn)
    assert set(counts) == set(range(34))
    assert stats.chisquare([counts[one] for one in range(34)]).pvalue > 1e-3
    assert len(random_neurons(LAYERS, 99, np.random.default_rng(0))) == 34


def test_matched_neurons_are_as_many_of_each_layer_at_every_number() -> None:
    neurons = [5, 0, 1, 9, 2, 33]
    for seed in range(20):
        drawn = matched_neurons(LAYERS, neurons, np.random.default_rng(seed))
        assert len(set(drawn)) == 6
        for most in range(1, 7):
            assert count_places(LAYERS, drawn[:most]) == count_places(LAYERS, neurons[:most])


def test_places_are_counted_in_the_order_of_layers() -> None:
    assert count_places(LAYERS, [33, 2, 0, 34]) == {"conv": 2, "fc": 1, "out": 1}


def _effect(drop: float, matched: tuple[float, ...], random: tuple[float, ...]) -> Effect:
    return Effect("lrp", 6, {"conv": 6}, Drop(drop, drop - 0.1, drop + 0.1), matched, random)


def test_chance_is_the_rank_among_random_choices() -> None:
    assert _effect(0.7, (0.5, 0.6, 0.7), (0.0,)).chance == 2 / 4
    assert _effect(0.9, (0.5, 0.6, 0.7), (0.0,)).chance == 1 / 4
    assert _effect(0.1, (0.5, 0.6, 0.7), (0.0,)).chance == 1.0


def test_the_share_of_layers_is_what_matched_neurons_gain_over_random_ones() -> None:
    assert _effect(0.8, (0.5, 0.7), (0.1, 0.3)).of_layers == pytest.approx((0.6 - 0.2) / 0.6)
    assert _effect(0.8, (0.9, 0.9), (0.2, 0.2)).of_layers == 1.0
    assert _effect(0.8, (0.1, 0.1), (0.2, 0.2)).of_layers == 0.0
    assert math.isnan(_effect(0.2, (0.1,), (0.2,)).of_layers)


def test_sentences_say_what_the_numbers_do() -> None:
    text = tell_effect(_effect(0.8, (0.5, 0.9), (0.1, 0.3)))
    assert "drops by 0.800 (0.700 to 0.900)" in text
    assert "random ones of the network by 0.200" in text
    assert "of the same layers by 0.700" in text
    assert "Knowing the layers alone gives 83% of what it gains" in text
    assert "1 of 2 random choices of the same layers do as much or more" in text
    text = tell_effect(_effect(0.8, (0.5, 0.7), (0.1, 0.3)))
    assert "none of 2 random choices of the same layers does as much" in text
    text = tell_effect(_effect(0.1, (0.1, 0.1), (0.1, 0.3)))
    assert "Random neurons of the network do as much." in text
