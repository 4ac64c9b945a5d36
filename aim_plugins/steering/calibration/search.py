"""The strength that spends a budget, from few measurements of a cost that grows with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_GROWTH = 4.0
"""Times the largest strength known, at most, that the next one is."""
_FEW, _MOST = 8, 24
"""Measurements after which every other one halves what is left, and after which a search ends."""


@dataclass(frozen=True)
class Spent:
    """A strength and what it costs where it was searched.

    Attributes:
        strength: The strength.
        cost: Its cost there.
        reached: Whether the budget is spent; else the strength is the largest that is allowed, the
            last one below a budget that the cost jumps over, or 0 where every one exceeds it.
    """

    strength: float
    cost: float
    reached: bool


@dataclass
class BudgetSearch:
    """Finds where a cost first meets a budget: ask `next`, measure and `record` until it is empty.

    Costs of small changes grow as the square of their strength, so between two measurements the
    logarithms are interpolated; after the first few, every other measurement cuts what is left in
    half. Costs may start below 0, as the loss on plain text does under some steering.

    Attributes:
        budget: The cost to spend, above 0.
        largest: Largest strength.
        start: The first strength to measure; at 0 nothing is looked for.
        tolerance: Share of the budget by which the cost found may miss it.
        costs: Costs measured, by strength; infinite where the model broke.
    """

    budget: float
    largest: float
    start: float = 1.0
    tolerance: float = 0.01
    costs: dict[float, float] = field(default_factory=dict)

    def record(self, strength: float, cost: float) -> None:
        """Notes a measurement."""
        self.costs[strength] = cost if math.isfinite(cost) else math.inf

    @property
    def next(self) -> tuple[float, ...]:
        """The strength to measure next; none when the search is over."""
        if self.start <= 0 or self._meeting() is not None or len(self.costs) >= _MOST:
            return ()
        if not self.costs:
            return (min(self.start, self.largest),)
        low, high = self._bracket()
        if high is None:
            return () if low >= self.largest else (min(self._beyond(low), self.largest),)
        if high / max(low, high / 2**20) < 1 + 1e-6:
            return ()  # the cost jumps over the budget
        return (self._between(low, high),)

    @property
    def found(self) -> Spent:
        """The best strength of those measured."""
        meeting = self._meeting()
        if meeting is not None:
            return Spent(meeting, self.costs[meeting], True)
        low, _ = self._bracket()
        return Spent(low, self.costs.get(low, 0.0), False)

    def _meeting(self) -> float | None:
        near = [one for one, cost in self.costs.items() if self._misses(cost) <= self.tolerance]
        return min(near, key=lambda one: self._misses(self.costs[one])) if near else None

    def _misses(self, cost: float) -> float:
        return abs(cost / self.budget - 1)

    def _bracket(self) -> tuple[float, float | None]:
        """The neighbours around the first crossing; no upper one where none is known."""
        low = 0.0
        for strength in sorted(self.costs):
            if self.costs[strength] >= self.budget:
                return low, strength
            low = strength
        return low, None

    def _beyond(self, low: float) -> float:
        cost = self.costs[low]
        grown = math.sqrt(self.budget / cost) if cost > 0 else _GROWTH
        # A little more than the square law says, so that a bracket closes soon.
        return low * min(max(1.02 * grown, 1.05), _GROWTH)

    def _between(self, low: float, high: float) -> float:
        middle = math.sqrt(low * high) if low else high / 2
        if len(self.costs) > _FEW and len(self.costs) % 2:
            return middle
        below, above = self.costs.get(low, 0.0), self.costs[high]
        if math.isinf(above):
            return middle
        if low and below > 0:
            share = math.log(self.budget / below) / math.log(above / below)
            guess = low * (high / low) ** share
        elif not low:
            guess = high * math.sqrt(self.budget / above)
        else:
            guess = low + (high - low) * (self.budget - below) / (above - below)
        margin = 1e-3 * (high - low)
        return min(max(guess, low + margin), high - margin)
