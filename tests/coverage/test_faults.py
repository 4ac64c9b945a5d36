"""Faults found by an order, and uncertainties, against dnn-tip, scipy and enumeration."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from dnn_tip.apfd import apfd_from_order
from scipy import stats

from aim_plugins.coverage.faults import apfd, faults_found, random_apfd, random_faults_found

FAULTY = torch.tensor([False, True, False, False, True, True])


def test_faults_found_counts_the_faults_of_every_start():
    order = [4, 0, 5, 2, 1, 3]
    by_hand = [sum(bool(FAULTY[one]) for one in order[:budget]) for budget in range(7)]
    assert faults_found(order, FAULTY).tolist() == by_hand
    assert faults_found(torch.tensor([4, 0]), FAULTY).tolist() == by_hand[:3]


def test_apfd_is_that_of_dnn_tip():
    generator = np.random.default_rng(0)
    for faults in (1, 7, 100):
        faulty = generator.permutation(np.arange(100) < faults)
        order = generator.permutation(100)
        expected = apfd_from_order(faulty, order)
        assert apfd(torch.from_numpy(order), torch.from_numpy(faulty)) == pytest.approx(expected)


def test_apfd_is_the_area_under_the_faults_found():
    order = [4, 0, 5, 2, 1, 3]
    area = torch.trapezoid(faults_found(order, FAULTY) / 3, dx=1 / 6)
    assert apfd(order, FAULTY) == pytest.approx(float(area))


def test_the_best_and_the_worst_order_have_the_apfd_of_their_bounds():
    best, worst = [1, 4, 5, 0, 2, 3], [0, 2, 3, 1, 4, 5]
    assert apfd(best, FAULTY) == pytest.approx(1 - 3 / 12)
    assert apfd(worst, FAULTY) == pytest.approx(3 / 12)


def test_random_orders_have_the_apfd_of_all_orders():
    values = [apfd(order, FAULTY) for order in permutations(range(6))]
    mean, deviation = random_apfd(6, 3)
    assert mean == pytest.approx(np.mean(values)) and deviation == pytest.approx(np.std(values))


@pytest.mark.parametrize(("inputs", "faults"), [(60, 1), (60, 23), (60, 60), (400, 37), (5, 0)])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_random_orders_find_a_hypergeometric_number_of_faults(inputs, faults, level):
    budgets, numbers = np.arange(inputs + 1), np.arange(faults + 1)
    chances = stats.hypergeom.pmf(numbers, inputs, faults, budgets[:, None])
    band = random_faults_found(inputs, faults, level=level)
    assert np.allclose(band.mean.numpy(), chances @ numbers)
    # Where a share is met to the last digit, the next number of faults would do as well.
    below = np.pad(chances.cumsum(1), ((0, 0), (1, 0)))
    for bound, share in ((band.low, (1 - level) / 2), (band.high, (1 + level) / 2)):
        found = bound.numpy().astype(int)
        assert (below[budgets, found + 1] >= share - 1e-8).all()
        assert (below[budgets, found] < share + 1e-8).all()


def test_the_band_of_many_inputs_keeps_its_digits():
    budgets = np.array([3, 4_000, 25_000, 49_990])
    band = random_faults_found(50_000, 9_000, budgets.tolist())
    for bound, share in ((band.low, 0.025), (band.high, 0.975)):
        assert bound.tolist() == stats.hypergeom.ppf(share, 50_000, 9_000, budgets).tolist()


def test_without_faults_there_is_no_apfd():
    none = torch.zeros(4, dtype=torch.bool)
    assert math.isnan(apfd([0, 1, 2, 3], none))
    assert all(map(math.isnan, random_apfd(4, 0)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: apfd([0, 1], FAULTY), "order ranks 2 of 6 inputs"),
        (lambda: faults_found([0, 0], FAULTY), "order holds 0 more than once"),
        (lambda: random_faults_found(3, 4), "faults=4 of inputs=3"),
        (lambda: random_apfd(3, -1), "faults=-1"),
        (lambda: random_faults_found(3, 1, [4]), "budgets hold 4"),
        (lambda: random_faults_found(3, 1, level=95.0), "level=95"),
    ],
)
def test_bad_orders_and_numbers_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
