"""How a transport is to be fitted, checked before a model is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aim_plugins.transport.incremental import check_incremental
from aim_plugins.transport.maps import check_support, find_method
from aim_plugins.transport.methods.method import Method, check_pairs
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
    options: Mapping[str, Any] | None,
    batch_size: int,
    max_length: int | None,
) -> FitPlan:
    """Checks the arguments of `fit_transport` that need no model.

    Raises:
        ValueError: If an argument is unknown or out of its range, or a side has too few sentences.
        TypeError: If a side is a single text, or holds something else than texts.
    """
    chosen = find_method(method, options)
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
    if chosen.joined and plan.incremental != chosen.incremental:
        raise ValueError(
            f"incremental={incremental!r}: {chosen.title} learns its sites with "
            f"incremental={chosen.incremental!r} alone: leave it out"
        )
    check_positions(plan.positions)
    check_learning_strength(plan.strength)
    check_sides(chosen, source, target, "sentence")
    check_counts(batch_size=batch_size, max_length=max_length)
    return plan


def check_learning_strength(strength: float) -> None:
    """Refuses a strength of the maps learned so far that is no finite number.

    Raises:
        ValueError: Naming it.
    """
    if not math.isfinite(strength):
        raise ValueError(f"strength={strength!r} must be a finite number")


def check_sides(method: Method, source: Sequence[str], target: Sequence[str], one: str) -> None:
    """Refuses a side that is no list of texts, or has too few for a method.

    Args:
        method: The method.
        source: The source inputs.
        target: The target inputs.
        one: What an input is called, such as "sentence".

    Raises:
        ValueError: If a side has too few.
        TypeError: If it is a single text, or holds something else than texts.
    """
    for side, inputs in (("source", source), ("target", target)):
        if isinstance(inputs, str) or not all(isinstance(text, str) for text in inputs):
            raise TypeError(f"{side} must be a list of texts, one for each {one}")
        if len(inputs) < method.minimum_samples:
            raise ValueError(
                f"{side} has {len(inputs)} {one}(s), and method={method.name!r} needs at "
                f"least {method.minimum_samples}: give more {one}s"
            )
    check_pairs(method, len(source), len(target))


def check_counts(**counts: int | None) -> None:
    """Refuses counts, by their names, that are no whole number from 1 upwards; None is left out.

    Raises:
        ValueError: Naming the count.
    """
    for name, count in counts.items():
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ValueError(f"{name}={count!r}: give a whole number from 1 upwards")
