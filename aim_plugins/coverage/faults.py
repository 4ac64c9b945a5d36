"""How soon an order of inputs meets the faults, which are the inputs that a model gets wrong.

A labelled set tells which they are; an order is good if few labels would have found many. Random
orders have closed forms: the faults among the first b inputs are hypergeometric, and the mean rank
of all faults is the statistic of Wilcoxon's rank-sum test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from aim_plugins.coverage.random_order import Band, check_level, check_order

_ROUNDING = 1e-9
"""How far a sum of chances may miss a share that it equals."""


def faults_found(
    order: Int[Tensor, " ranked"] | Sequence[int], faulty: Bool[Tensor, " inputs"]
) -> Int64[Tensor, " budgets"]:
    """Faults among the first inputs of an order.

    Args:
        order: Positions of inputs, all or the first ones.
        faulty: Which inputs the model gets wrong.

    Returns:
        Their number after 0, 1, … inputs; one more than the order is long.

    Raises:
        ValueError: If the order names an input that is not there, or one twice.

    >>> faults_found([2, 0, 1], torch.tensor([False, True, True])).tolist()
    [0, 1, 1, 2]
    """
    hits = faulty[check_order(order, len(faulty))].to(torch.int64)
    return torch.nn.functional.pad(hits.cumsum(0), (1, 0))


def apfd(order: Int[Tensor, " ranked"] | Sequence[int], faulty: Bool[Tensor, " inputs"]) -> float:
    """Average percentage of faults detected, as a share: 1 − ΣTF / (n m) + 1 / (2n).

    TF is the rank of each of the m faults among n inputs. It is the area under `faults_found`, as
    shares of faults and of inputs; a random order has 0.5.

    Args:
        order: All inputs.
        faulty: Which of them the model gets wrong.

    Returns:
        At best 1 − m / (2n), at worst m / (2n); nan if there is no fault.

    Raises:
        ValueError: If the order is not one of all inputs.

    Source:
        Rothermel et al., "Prioritizing test cases for regression testing", 2001; Feng et al.,
        ISSTA 2020, with a fault of its own for each wrong answer.
    """
    places, inputs = check_order(order, len(faulty)), len(faulty)
    if len(places) != inputs:
        raise ValueError(
            f"order ranks {len(places)} of {inputs} inputs: APFD takes an order of all of them"
        )
    ranks = faulty[places].nonzero()[:, 0].double() + 1
    if not len(ranks):
        return math.nan
    return 1 - float(ranks.mean()) / inputs + 1 / (2 * inputs)


def random_faults_found(
    inputs: int, faults: int, budgets: Sequence[int] | None = None, level: float = 0.95
) -> Band:
    """Faults among the first inputs of a random order.

    Args:
        inputs: Number of inputs, n.
        faults: Number of faults among them, m.
        budgets: Numbers of first inputs, b; by default 0 to n.
        level: Share of orders within the band, at each budget by itself; at least that, as numbers
            of faults are whole.

    Returns:
        The mean m b / n, and quantiles of the hypergeometric law.

    Raises:
        ValueError: If there are more faults than inputs, or a budget or the level is not usable.
    """
    _check_counts(inputs, faults)
    tail = (1 - check_level(level)) / 2
    points = np.arange(inputs + 1) if budgets is None else np.asarray(budgets, dtype=np.int64)
    if len(outside := points[(points < 0) | (points > inputs)]):
        raise ValueError(f"budgets hold {outside[0]}: give numbers from 0 to inputs={inputs}")
    low, high = (_quantiles(inputs, faults, share)[points] for share in (tail, 1 - tail))
    mean = points * (faults / max(1, inputs))
    return Band(*(torch.from_numpy(one) for one in (mean, low, high)))


def random_apfd(inputs: int, faults: int) -> tuple[float, float]:
    """Mean and standard deviation of the APFD of a random order.

    Args:
        inputs: Number of inputs, n.
        faults: Number of faults among them, m.

    Returns:
        0.5, and √((n + 1)(n − m) / (12 m)) / n; nan twice if there is no fault. The law is close to
        normal from some ten faults on.

    Raises:
        ValueError: If there are more faults than inputs.
    """
    _check_counts(inputs, faults)
    if not faults:
        return math.nan, math.nan
    return 0.5, math.sqrt((inputs + 1) * (inputs - faults) / (12 * faults)) / inputs


def _check_counts(inputs: int, faults: int) -> None:
    if not 0 <= faults <= inputs:
        raise ValueError(f"faults={faults} of inputs={inputs}: give a number from 0 to the inputs")


def _quantiles(inputs: int, faults: int, share: float) -> np.ndarray:
    """Least numbers of faults that `share` of orders do not exceed, after 0 to `inputs` inputs.

    One more input adds a fault or none, so the quantile rises by at most one, and the law need
    not be summed anew: P(X_{b+1} ≤ q) = P(X_b ≤ q) − P(X_b = q) (m − q) / (n − b).
    """
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, inputs + 1)))]).tolist()

    def choose(whole: int, part: int) -> float:
        return logs[whole] - logs[part] - logs[whole - part] if 0 <= part <= whole else -math.inf

    def chance(budget: int, found: int) -> float:
        ways = choose(faults, found) + choose(inputs - faults, budget - found)
        return math.exp(ways - choose(inputs, budget))

    quantiles, found, below = np.zeros(inputs + 1), 0, 1.0
    for budget in range(inputs):
        below -= chance(budget, found) * (faults - found) / (inputs - budget)
        while found < faults and below < share - _ROUNDING:
            found += 1
            below += chance(budget + 1, found)
        quantiles[budget + 1] = found
    return quantiles
