"""How a transport is to be fitted, checked before a model is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aim_plugins.transport.incremental import check_incremental
from aim_plugins.transport.maps import Method, check_support, find_method
from aim_plugins.transport.vocabulary import check_pooling, check_positions


@dataclass(frozen=True)
class FitPlan:
    """How to fit: what the user chose, and the method's own choice elsewhere.

    Attributes:
        method: Learns the map of a site.
        pooling: How the tokens of a sentence become one response.
        support: Where maps act.
        positions: Tokens to transport.
        incremental: Which sentences go through the maps learned so far, see `incremental`.
        strength: Strength at which they do.
    """

    method: Method
    pooling: str
    support: str
    positions: str
    incremental: str
    strength: float


def plan_fit(
    source: Sequence[str],
    target: Sequence[str],
    *,
    method: str,
    pooling: str | None,
    support: str | None,
    positions: str | None,
    incremental: str | None,
    strength: float,
    batch_size: int,
    max_length: int | None,
) -> FitPlan:
    """Checks the arguments of `fit_transport` that need no model.

    Raises:
        ValueError: If an argument is unknown or out of its range, or a side has too few sentences.
    """
    chosen = find_method(method)
    plan = FitPlan(
        chosen,
        chosen.pooling if pooling is None else pooling,
        chosen.support if support is None else support,
        chosen.positions if positions is None else positions,
        chosen.incremental if incremental is None else incremental,
        float(strength),
    )
    check_pooling(plan.pooling)
    check_support(chosen, plan.support)
    check_incremental(plan.incremental)
    check_positions(plan.positions)
    if not math.isfinite(plan.strength):
        raise ValueError(f"strength={strength!r} must be a finite number")
    for side, sentences in (("source", source), ("target", target)):
        if len(sentences) < chosen.minimum_samples:
            raise ValueError(
                f"{side} has {len(sentences)} sentence(s), and method={chosen.name!r} needs at "
                f"least {chosen.minimum_samples}: give more sentences"
            )
    for name, count in (("batch_size", batch_size), ("max_length", max_length)):
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ValueError(f"{name}={count!r}: give a whole number from 1 upwards")
    return plan
