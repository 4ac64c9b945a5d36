"""Verdicts on planted differences, and the number needed against simulation."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest
from scipy import stats

from aim_plugins.steering.calibration.entries import CurvePoint, Entry
from aim_plugins.steering.calibration.verdicts import verdicts
from aim_plugins.sweep.estimates import Estimate


def entry(name, effects):
    free = Estimate(0.0, 0.0, 10)
    point = CurvePoint(1.0, free, free, tuple(effects), "sentiment", 1)
    return Entry(name, "method", "all", True, 0.0, point)


def noise(seed, count=32, size=0.2):
    draw = random.Random(seed)
    return [draw.gauss(0, size) for _ in range(count)]


def shifted(values, shift, seed):
    return [one + shift + eps for one, eps in zip(values, noise(seed, size=0.1), strict=True)]


def test_a_planted_difference_is_called_with_its_size_and_others_are_not():
    shared = noise(0, size=0.5)
    prompt = entry("the prompt", shared)
    better = entry("linear", shifted(shared, 0.12, 1))
    same = entry("mean", shifted(shared, 0.0, 2))
    worse = entry("caa", shifted(shared, -0.2, 3))
    found = verdicts([better, same, worse], prompt, lower_is_better=False, spread=2.0)
    assert [one.is_clear for one in found] == [True, False, True]
    assert found[0].gain.low < 0.12 < found[0].gain.high
    assert found[0].words.startswith("linear beats the prompt by 0.")
    assert found[2].words.startswith("caa falls behind the prompt by 0.")
    assert found[1].words.startswith("mean and the prompt cannot be told apart with 32 prompts")


def test_the_interval_is_that_of_a_paired_t_test():
    one, other = entry("a", noise(4)), entry("b", noise(5))
    [found] = verdicts([one], other, lower_is_better=False, spread=2.0)
    expected = stats.ttest_rel(one.point.effects, other.point.effects).confidence_interval(0.95)
    assert (found.gain.low, found.gain.high) == pytest.approx(tuple(expected), abs=1e-4)


def test_where_less_is_better_the_gain_is_the_fall():
    base = noise(6)
    [found] = verdicts(
        [entry("aura", [one - 0.5 for one in base])],
        entry("the prompt", base),
        lower_is_better=True,
        spread=1.0,
    )
    assert found.gain.value == pytest.approx(0.5) and found.is_clear


def test_p_is_corrected_for_the_number_of_lines():
    prompt = entry("the prompt", [0.0] * 12)
    lines = [entry(str(seed), [x + 0.1 for x in noise(seed, 12)]) for seed in range(5)]
    alone = [verdicts([one], prompt, lower_is_better=False, spread=2.0)[0].p for one in lines]
    together = [one.p for one in verdicts(lines, prompt, lower_is_better=False, spread=2.0)]
    assert min(together) == pytest.approx(min(1.0, 5 * min(alone)))
    assert all(new >= old for new, old in zip(together, alone, strict=True))


def test_the_number_needed_has_the_power_in_simulation():
    values = np.array(noise(9, 40, 1.0))
    values = list((values - values.mean()) / values.std(ddof=1) + 0.3)
    zero = entry("the prompt", [0.0] * 40)
    [found] = verdicts([entry("mean", values)], zero, lower_is_better=False, spread=2.0)
    rng = np.random.default_rng(0)

    def power(n):
        draws = rng.normal(0.3, 1.0, (20000, n))
        return float((stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05).mean())

    assert power(found.needed) >= 0.79
    assert power(int(0.8 * found.needed)) < 0.8


@pytest.mark.parametrize(
    "values", [[0.1, -0.1] * 5, [0.1, 0.2, -0.3] * 4, [1e-4 + (-1) ** k for k in range(10)]]
)
def test_no_difference_needs_no_number(values):
    zero = entry("the prompt", [0.0] * len(values))
    [found] = verdicts([entry("mean", values)], zero, lower_is_better=False, spread=2.0)
    assert found.needed is None
    assert "would be needed" not in found.words


def test_the_number_needed_stands_in_the_verdict_where_more_would_tell():
    values = noise(7, size=1.0)
    values = [one - statistics.fmean(values) + 0.25 for one in values]
    zero = entry("the prompt", [0.0] * 32)
    [found] = verdicts([entry("mean", values)], zero, lower_is_better=False, spread=2.0)
    assert found.needed > 32
    assert found.words.endswith(f"; {found.needed} would be needed for such a difference")


def test_equally_good_lines_are_seldom_called(monkeypatch):
    """Of 200 replays in which signs were dealt out anew, at most 5 % are called."""
    values = noise(8, size=1.0)
    signs = random.Random(0)
    zero = entry("the prompt", [0.0] * 32)
    called = 0
    for _ in range(200):
        replay = [one * signs.choice((-1, 1)) for one in values]
        called += verdicts([entry("x", replay)], zero, lower_is_better=False, spread=2.0)[
            0
        ].is_clear
    assert called <= 18  # a binomial of 200 and 0.05 exceeds it once in 50
