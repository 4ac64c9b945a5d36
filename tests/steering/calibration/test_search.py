"""The search for a budget, against costs whose crossing is known."""

from __future__ import annotations

import math

import pytest

from aim_plugins.steering.calibration.search import BudgetSearch


def run(cost, **options):
    search = BudgetSearch(**{"budget": 0.1, "largest": 32.0} | options)
    while search.next:
        [strength] = search.next
        search.record(strength, cost(strength))
    return search


@pytest.mark.parametrize("scale", [1e-4, 0.01, 1.0, 30.0])
@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("start", [0.05, 1.0, 20.0])
def test_powers_are_met_where_they_cross(scale, power, start):
    crossing = (0.1 / scale) ** (1 / power)
    search = run(lambda strength: scale * strength**power, start=start)
    if crossing > 32:
        assert search.found.strength == 32 and not search.found.reached
        return
    assert search.found.reached
    assert search.found.cost == pytest.approx(0.1, rel=0.01)
    assert search.found.strength == pytest.approx(crossing, rel=0.011)
    assert len(search.costs) <= 12


def test_from_the_plain_model_nothing_is_looked_for():
    search = BudgetSearch(0.1, 32.0, start=0.0)
    assert search.next == () and not search.found.reached


def test_a_square_law_takes_three_measurements():
    assert len(run(lambda strength: 0.7 * strength**2).costs) <= 3


def test_a_saturating_cost_is_met():
    search = run(lambda strength: 0.2 * (1 - math.exp(-(strength**2) / 50)))
    assert search.found.strength == pytest.approx(math.sqrt(50 * math.log(2)), rel=0.02)


def test_a_cost_that_falls_before_it_grows_is_met_where_it_grows():
    search = run(lambda strength: 0.3 * strength**2 - 0.2 * strength, start=0.1)
    expected = (0.2 + math.sqrt(0.04 + 0.12)) / 0.6
    assert search.found.reached
    assert search.found.strength == pytest.approx(expected, rel=0.02)


def test_the_first_of_several_crossings_is_taken_of_those_seen():
    search = BudgetSearch(0.1, 32.0)
    for strength, cost in ((0.5, 0.05), (1.0, 0.2), (2.0, 0.05), (3.0, 0.3)):
        search.record(strength, cost)
    [asked] = search.next
    assert 0.5 < asked < 1.0


def test_a_break_bounds_the_search_from_above():
    search = run(lambda strength: math.nan if strength > 2 else 0.01 * strength)
    assert not search.found.reached
    assert search.found.strength == pytest.approx(2, rel=1e-4)


def test_a_jump_over_the_budget_ends_below_it():
    search = run(lambda strength: 0.05 if strength < 0.7 else 0.4)
    assert (search.found.reached, search.found.cost) == (False, 0.05)
    assert search.found.strength == pytest.approx(0.7, rel=1e-2)


def test_a_budget_that_is_not_reached_ends_at_the_largest_strength():
    found = run(lambda strength: 0.0).found
    assert (found.strength, found.cost, found.reached) == (32.0, 0.0, False)
