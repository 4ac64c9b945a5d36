"""Curves of coverage against criteria that see the inputs one by one, and against enumeration."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from aim_plugins.coverage.criteria.criterion import Batch, FixedUnits, OpenUnits
from aim_plugins.coverage.growth import expected_growth, growth, random_growth


class Listed(FixedUnits):
    """Units are read off the neurons; -1 is none."""

    name, summary, source = "listed", "units as given", ""

    def units(self, batch: Batch) -> Tensor:
        return batch.neurons.long()


class Patterns(OpenUnits):
    name, summary, source = "patterns", "patterns as given", ""

    def units(self, batch: Batch) -> Tensor:
        return batch.neurons.long()


UNITS = torch.randint(-1, 9, (6, 3), generator=torch.Generator().manual_seed(1))


def _criterion(kind):
    criterion = kind(["a"], [9]) if kind is Listed else kind(["a", "b", "c"])
    criterion.update(_batch(torch.tensor([[2, 5, -1]])))
    return criterion


def _batch(units: Tensor) -> Batch:
    return Batch(units.float(), torch.zeros(len(units), dtype=torch.int64))


def _seen_one_by_one(kind, order) -> list[float]:
    criterion = _criterion(kind)
    values = [criterion.value]
    for index in order:
        criterion.update(_batch(UNITS[index][None]))
        values.append(criterion.value)
    return values


@pytest.mark.parametrize("kind", [Listed, Patterns])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [4, 0, 3], []])
def test_growth_is_the_value_of_a_criterion_that_sees_one_input_after_another(kind, order):
    curve = growth(_criterion(kind), UNITS, order)
    assert curve.tolist() == pytest.approx(_seen_one_by_one(kind, order), abs=0)


@pytest.mark.parametrize("kind", [Listed, Patterns])
def test_expected_growth_is_the_mean_of_all_orders(kind):
    curves = [_seen_one_by_one(kind, order) for order in permutations(range(6))]
    expected = expected_growth(_criterion(kind), UNITS)
    assert expected.tolist() == pytest.approx(np.mean(curves, axis=0), abs=1e-12)
    assert torch.equal(expected_growth(_criterion(kind), UNITS, 2), expected[:3])


def test_expected_growth_of_many_inputs_keeps_its_digits():
    # One unit that 30 of 5000 inputs reach: missed with C(4970, b) / C(5000, b).
    units = torch.where(torch.arange(5000) % 167 == 0, 0, -1)[:, None]
    curve = expected_growth(Listed(["a"], [1]), units)
    missed, left = [1.0], 1.0
    for drawn in range(5000):
        left *= max(0, 4970 - drawn) / (5000 - drawn)
        missed.append(left)
    assert np.allclose(curve.numpy(), 1 - np.array(missed), rtol=0, atol=1e-10)


def test_the_band_of_random_orders_holds_that_share_of_other_orders():
    generator = torch.Generator().manual_seed(0)
    units = torch.randint(0, 400, (80, 5), generator=generator)
    criterion = Listed(["a"], [400])
    band = random_growth(criterion, units, orders=400)
    assert torch.equal(band.mean, expected_growth(criterion, units))
    others = [growth(criterion, units, torch.randperm(80, generator=generator)) for _ in range(200)]
    inside = (torch.stack(others) >= band.low) & (torch.stack(others) <= band.high)
    assert inside[:, 1:80].double().mean() > 0.93
    assert (band.low <= band.mean).all() and (band.mean <= band.high + 1e-12).all()
    assert band.low[-1] == band.high[-1] == growth(criterion, units, range(80))[-1]


def test_the_band_repeats_and_a_shorter_one_is_its_start():
    criterion = _criterion(Listed)
    band = random_growth(criterion, UNITS, orders=20)
    again = random_growth(criterion, UNITS, 3, orders=20)
    assert torch.equal(band.low[:4], again.low) and torch.equal(band.high[:4], again.high)
    others = [random_growth(criterion, UNITS, orders=2, seed=seed).low for seed in (1, -1)]
    assert not any(torch.equal(one, band.low) for one in others)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda one: growth(one, UNITS, [0, 6]), "order holds 6: there are inputs 0 to 5"),
        (lambda one: growth(one, UNITS, [-1]), "order holds -1"),
        (lambda one: growth(one, UNITS, [1, 1]), "order holds 1 more than once"),
        (lambda one: expected_growth(one, UNITS, 7), "count=7: .* 0 to 6"),
        (lambda one: random_growth(one, UNITS, orders=0), "orders=0"),
        (lambda one: random_growth(one, UNITS, level=1.0), "level=1.0"),
    ],
)
def test_bad_orders_and_counts_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(_criterion(Listed))
