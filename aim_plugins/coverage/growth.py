"""How coverage grows with the number of inputs, in an order and at random.

The mean over all random orders is exact: a unit that m of n inputs reach is missed by the first b
with probability C(n − m, b) / C(n, b). Ecology knows this as the rarefaction curve, of species in
the place of units. The band around it comes from orders that are drawn.

Source: Hurlbert, "The nonconcept of species diversity", Ecology 1971.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int, Shaped
from torch import Tensor

from aim_plugins.coverage.criteria.criterion import UnitCriterion
from aim_plugins.coverage.gains import FreshUnits, Parts, fresh_units
from aim_plugins.coverage.random_order import Band, check_level, check_order

_ELEMENTS = 1 << 22
"""Units counted together."""
_STEPS = 24
"""Sizes of a suite at which coverage is noted on the way."""
_POINTS = 60
"""Points of a curve that are kept."""
_ORDERS = 50
"""Random orders that a band rests on."""

Curves = dict[str, list[float]]
"""Values by name at the numbers of inputs that stand under "inputs"."""


def growth_steps(count: int) -> list[int]:
    """Rising sizes up to a suite's own, evenly on a logarithmic scale.

    >>> growth_steps(6), growth_steps(0)
    ([1, 2, 3, 4, 5, 6], [])
    """
    if count < 1:
        return []
    found = {round(count ** (step / _STEPS)) for step in range(_STEPS + 1)}
    return sorted(found | {count})


def growth(
    criterion: UnitCriterion,
    units: Parts | FreshUnits,
    order: Int[Tensor, " ranked"] | Sequence[int],
) -> Float64[Tensor, " budgets"]:
    """Coverage after the first inputs of an order.

    Args:
        criterion: What is covered already; it is not changed.
        units: As in `aim_plugins.coverage.gains.prioritize`.
        order: Positions of inputs, all or the first ones.

    Returns:
        Values of the criterion after 0, 1, … inputs; one more than the order is long.

    Raises:
        ValueError: If the order names an input that is not there, or one twice.
    """
    fresh = _fresh(criterion, units)
    added = _added(fresh, check_order(order, len(fresh)).numpy())
    return torch.from_numpy(_value(criterion, added))


def expected_growth(
    criterion: UnitCriterion, units: Parts | FreshUnits, count: int | None = None
) -> Float64[Tensor, " budgets"]:
    """Mean coverage over all random orders, after the first inputs.

    Args:
        criterion: What is covered already; it is not changed.
        units: As in `aim_plugins.coverage.gains.prioritize`.
        count: Up to how many inputs; by default all.

    Returns:
        Mean values of the criterion after 0, 1, …, `count` inputs.

    Raises:
        ValueError: If `count` is negative, or above the number of inputs.
    """
    fresh = _fresh(criterion, units)
    inputs, budgets = len(fresh), np.arange(_count(fresh, count) + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, inputs + 1)))])
    reached = np.zeros(fresh.total, dtype=np.int64)
    # In chunks, since counting takes a copy in 64 bits.
    step = max(_ELEMENTS, fresh.total)
    for start in range(0, len(fresh.ids), step):
        reached += np.bincount(fresh.ids[start : start + step], minlength=fresh.total)
    inputs_of_unit, numbers = np.unique(reached[reached > 0], return_counts=True)
    added = np.zeros(len(budgets))
    for many, number in zip(inputs_of_unit.tolist(), numbers.tolist(), strict=True):
        # Above n − m inputs, one of them reaches the unit.
        left = budgets[: inputs - many + 1]
        missed = logs[inputs - many] - logs[inputs - many - left] - logs[inputs]
        missed += logs[inputs - left]
        added += number
        added[: len(left)] -= number * np.exp(missed)
    return torch.from_numpy(_value(criterion, added))


def random_growth(
    criterion: UnitCriterion,
    units: Parts | FreshUnits,
    count: int | None = None,
    *,
    orders: int = 100,
    seed: int = 0,
    level: float = 0.95,
) -> Band:
    """Coverage after the first inputs of random orders.

    Args:
        criterion: What is covered already; it is not changed.
        units: As in `aim_plugins.coverage.gains.prioritize`.
        count: Up to how many inputs; by default all.
        orders: Number of orders drawn.
        seed: Seed of the draw.
        level: Share of the orders within the band, at each number of inputs by itself.

    Returns:
        The exact mean, and quantiles of the orders drawn, after 0, 1, …, `count` inputs.

    Raises:
        ValueError: If `count`, `orders` or `level` is not usable.
    """
    if orders < 1:
        raise ValueError(f"orders={orders}: give a number from 1 upwards")
    tail = (1 - check_level(level)) / 2
    fresh = _fresh(criterion, units)
    mean, wanted = expected_growth(criterion, fresh, count), _count(fresh, count)
    # NumPy takes no negative seed, PyTorch does.
    draws = (np.random.default_rng([seed % 2**63, one]) for one in range(orders))
    added = np.stack([_added(fresh, one.permutation(len(fresh))[:wanted]) for one in draws])
    low, high = np.quantile(_value(criterion, added), [tail, 1 - tail], axis=0)
    return Band(mean, torch.from_numpy(low), torch.from_numpy(high))


def growth_curves(
    criterion: UnitCriterion,
    fresh: FreshUnits,
    orders: Mapping[str, Int[Tensor, " ranked"]],
    seed: int,
) -> Curves:
    """Coverage along orders and along random ones, at a few numbers of inputs.

    Args:
        criterion: What is covered already; it is not changed.
        fresh: What candidates would add.
        orders: Orders of all candidates by name.
        seed: Of the random orders.

    Returns:
        "inputs", the curve of each order, and "random" with its band "low" and "high".
    """
    band = random_growth(criterion, fresh, orders=_ORDERS, seed=seed)
    along = {name: growth(criterion, fresh, order) for name, order in orders.items()}
    return thinned(along | band.curves)


def thinned(curves: Mapping[str, Shaped[Tensor, " budgets"]]) -> Curves:
    """Curves at a few numbers of inputs, which stand beside them as "inputs"."""
    last = len(next(iter(curves.values()))) - 1
    kept = sorted({round(place * last / _POINTS) for place in range(_POINTS + 1)})
    return {"inputs": [float(one) for one in kept]} | {
        name: [float(curve[one]) for one in kept] for name, curve in curves.items()
    }


def _fresh(criterion: UnitCriterion, units: Parts | FreshUnits) -> FreshUnits:
    return units if isinstance(units, FreshUnits) else fresh_units(criterion, units)


def _added(fresh: FreshUnits, order: np.ndarray) -> np.ndarray:
    """Units added by the first inputs of an order, from none on."""
    covered, gains = np.zeros(fresh.total, dtype=bool), np.zeros(len(order) + 1, dtype=np.int64)
    for place, candidate in enumerate(order.tolist(), start=1):
        row = fresh.row(candidate)
        gains[place] = len(row) - np.count_nonzero(covered[row])
        covered[row] = True
    return gains.cumsum()


def _value(criterion: UnitCriterion, added: np.ndarray) -> np.ndarray:
    """The criterion's value with as many more units covered."""
    return criterion.value + added * criterion.worth


def _count(fresh: FreshUnits, count: int | None) -> int:
    if count is not None and not 0 <= count <= len(fresh):
        raise ValueError(f"count={count}: give a number of inputs from 0 to {len(fresh)}")
    return len(fresh) if count is None else count
