"""Halves share no text, and matched ones are alike."""

from __future__ import annotations

import random
import statistics

import pytest

from aim_plugins.steering.calibration.halves import split_halves, split_matched


@pytest.mark.parametrize("seed", range(5))
def test_halves_share_no_text_and_lose_none(seed):
    texts = [f"text {number % 17}" for number in range(40)]
    halves = split_halves(texts, seed, "prompts")
    assert not set(halves.calibration) & set(halves.held_out)
    assert set(halves.calibration) | set(halves.held_out) == set(texts)
    assert abs(len(halves.calibration) - len(halves.held_out)) <= 1


def test_another_seed_deals_otherwise():
    texts = [str(number) for number in range(20)]
    assert split_halves(texts, 0, "x").calibration != split_halves(texts, 1, "x").calibration
    assert split_halves(texts, 0, "x").calibration == split_halves(texts, 0, "x").calibration


def test_too_few_texts_are_refused_by_the_name_of_their_argument():
    with pytest.raises(ValueError, match="prompts has 3 distinct texts: give at least 4"):
        split_halves(["a", "b", "c", "a"], 0, "prompts")


@pytest.mark.parametrize("count", [20, 21])
def test_matched_halves_are_nearer_to_each_other_than_dealt_ones(count):
    draw = random.Random(0)
    weights = [draw.gauss(0, 1) for _ in range(count)]
    texts = list(range(count))
    gaps = []
    for seed in range(200):
        halves = split_matched(texts, weights, seed)
        assert sorted([*halves.calibration, *halves.held_out]) == texts
        means = [
            statistics.fmean(weights[one] for one in half)
            for half in (halves.calibration, halves.held_out)
        ]
        gaps.append(abs(means[0] - means[1]))
    dealt = []
    for _ in range(200):
        order = draw.sample(weights, count)
        half = count // 2
        dealt.append(abs(statistics.fmean(order[:half]) - statistics.fmean(order[half:])))
    assert statistics.fmean(gaps) < 0.5 * statistics.fmean(dealt)


def test_either_half_gets_either_of_neighbours():
    first = [0 in split_matched([0, 1], [0.0, 1.0], seed).calibration for seed in range(200)]
    assert 70 < sum(first) < 130
