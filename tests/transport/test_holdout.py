"""How far maps move responses, and how much of it holds on sentences they were not learned from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from aim_plugins.transport.holdout import held_share, moved_spreads
from aim_plugins.transport.maps import find_method, fit_map


def samples(count, seed, neurons=5, shift=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, neurons, generator=generator) + shift


def share(method, source, target, support="none", tokens=1):
    owners = tuple(torch.arange(len(side)) // tokens for side in (source, target))
    return held_share(find_method(method), support, source, target, owners)


def test_moves_are_counted_in_deviations_within_a_side():
    source, target = samples(9, 0), samples(13, 1, shift=2.0, scale=3.0)
    learned = fit_map("linear", "none", source, target, "site")
    a, b = source.double().numpy(), target.double().numpy()
    spread = np.sqrt((a.var(0, ddof=1) + b.var(0, ddof=1)) / 2)
    moves = np.abs(learned.scale.numpy() * a + learned.shift.numpy() - a) / spread
    assert moved_spreads(learned, source, target) == pytest.approx(moves.mean(), rel=1e-5)


def test_neurons_that_never_vary_are_left_out():
    source, target = samples(9, 0), samples(9, 1, shift=2.0)
    source[:, 2], target[:, 2] = 0.1, 0.3  # no sum of which is exact
    learned = fit_map("mean", "none", source, target, "site")
    kept = [0, 1, 3, 4]
    assert learned.shift[2] > 0.1
    whole = moved_spreads(learned, source, target)
    others = fit_map("mean", "none", source[:, kept], target[:, kept], "site")
    alone = moved_spreads(others, source[:, kept], target[:, kept])
    assert whole == pytest.approx(alone * 4 / 5)
    assert share("mean", source, target) == pytest.approx(
        share("mean", source[:, kept], target[:, kept])
    )


def quantiles(side, count):
    """Each sample as often as makes both sides alike, in order."""
    return np.sort(np.repeat(side, count // len(side), axis=0), axis=0)


@pytest.mark.parametrize("tokens", [1, 3])
def test_what_holds_is_what_cross_fitting_by_hand_finds(tokens):
    """With least squares by `numpy.polyfit`, and sides of different sizes."""
    source, target = samples(12 * tokens, 2), samples(16 * tokens, 3, shift=0.7, scale=1.5)
    a, b = source.double().numpy(), target.double().numpy()
    agreeing = moving = 0.0
    for fold in range(4):
        away = [np.arange(len(side)) // tokens % 4 == fold for side in (a, b)]
        spread = np.sqrt((a[~away[0]].var(0, ddof=1) + b[~away[1]].var(0, ddof=1)) / 2)
        count = math.lcm(int((~away[0]).sum()), int((~away[1]).sum()))
        x, y = quantiles(a[~away[0]], count), quantiles(b[~away[1]], count)
        lines = np.array([np.polyfit(x[:, k], y[:, k], 1) for k in range(5)])
        count = math.lcm(int(away[0].sum()), int(away[1].sum()))
        x, y = quantiles(a[away[0]], count), quantiles(b[away[1]], count)
        moves = (lines[:, 0] * x + lines[:, 1] - x) / spread
        agreeing += (moves * (y - x) / spread).mean(0).sum()
        moving += (moves**2).mean(0).sum()
    found = share("linear", source, target, tokens=tokens)
    assert found == pytest.approx(agreeing / moving, rel=1e-4)


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("count", [8, 40])
def test_of_a_shift_there_holds_what_statistics_expect(count, shift):
    """Signal over signal and noise: two means of three quarters of unit samples differ by 2 / n."""
    source, target = samples(count, 4, 20_000), samples(count, 5, 20_000, shift=shift)
    expected = shift**2 / (shift**2 + 2 / (0.75 * count))
    assert share("mean", source, target) == pytest.approx(expected, abs=0.03)


def test_a_bounded_map_is_held_to_what_it_does():
    source, target = samples(40, 6), samples(40, 7, shift=2.0)
    everywhere, inside = (share("mean", source, target, one) for one in ("none", "q40_60"))
    assert everywhere > 0.9
    assert inside == pytest.approx(everywhere, abs=0.2)  # what it does not move is no mistake


def test_partners_at_the_same_places_are_held_out_together():
    """Moved all alike, any three quarters of the partners tell the move of the others."""
    source = samples(20, 8)
    target = source + 0.5
    assert share("mean", source, target) == pytest.approx(1.0, abs=1e-5)
    parted = share("mean", source, target.roll(1, 0))
    assert parted is not None and parted < 0.9


@pytest.mark.parametrize("method", ["aura", "actadd", "iti", "pca", "chars"])
def test_nothing_is_said_of_maps_that_do_not_aim_at_the_targets_law(method):
    assert share(method, samples(50, 8), samples(50, 9, shift=1.0)) is None


def test_nothing_is_said_of_too_few_sentences():
    source, target = samples(8, 8), samples(8, 9, shift=1.0)
    assert share("linear", source[:2], target) is None
    assert share("linear", source[:3], target) is not None
    assert share("mean", source, source) is None
    learned = fit_map("mean", "none", source[:1], target, "site")
    assert moved_spreads(learned, source[:1], target) is None
