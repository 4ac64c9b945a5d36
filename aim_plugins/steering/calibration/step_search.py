"""The largest strength before a noisy step function first exceeds a budget.

The accuracy that a finite set of questions loses is a step function of the strength, and not a
monotone one: it has no strength that meets a budget, and may come back below it by chance. Taken is
the strength right below the first crossing that is seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from aim_plugins.steering.calibration.search import Spent

_FIRST, _FURTHER = (0.25, 0.5, 1.0, 2.0, 4.0), (2.0, 4.0, 8.0)
"""Multiples of the start that are measured first, and of the largest strength where all is well."""
_PARTS = 4
"""Steps, equal in the logarithm, that a bracket is cut to in a round."""
_LEAST = 2**-8
"""Share of the start below which no strength is looked for: one that bfloat16 rounds away."""


@dataclass
class StepSearch:
    """Asks for several strengths a round, which one pass of the questions serves.

    Attributes:
        budget: The largest loss.
        largest: Largest strength.
        start: Where to look first, at most the largest; at 0 nothing is looked for.
        tolerance: Share of the strength by which the first crossing may be above it.
        losses: Losses measured, by strength.
    """

    budget: float
    largest: float
    start: float = 1.0
    tolerance: float = 0.02
    losses: dict[float, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start = min(self.start, self.largest)

    def record(self, strength: float, loss: float) -> None:
        """Notes a measurement."""
        self.losses[strength] = loss

    @property
    def next(self) -> tuple[float, ...]:
        """The strengths to measure next, rising; none when the search is over."""
        if self.start <= 0:
            return ()
        if not self.losses:
            return self._capped(self.start * one for one in _FIRST)
        low, high = self._bracket()
        if high is None:
            return () if low >= self.largest else self._capped(low * one for one in _FURTHER)
        if not low:
            below = tuple(high / one for one in reversed(_FURTHER))
            return below if high > _LEAST * self.start else ()
        if high / low <= 1 + self.tolerance:
            return ()
        return tuple(low * (high / low) ** (part / _PARTS) for part in range(1, _PARTS))

    @property
    def found(self) -> Spent:
        """The best strength of those measured; reached if one above exceeds the budget.

        Where every strength exceeds it, 0 is left, which spends nothing.
        """
        low, high = self._bracket()
        return Spent(low, self.losses.get(low, 0.0), low > 0 and high is not None)

    def _capped(self, strengths: Iterable[float]) -> tuple[float, ...]:
        return tuple(dict.fromkeys(min(one, self.largest) for one in strengths))

    def _bracket(self) -> tuple[float, float | None]:
        """The neighbours of the first crossing; no upper one where none is known."""
        # A share of questions and a budget that is equal to it may round apart.
        over = [one for one, loss in self.losses.items() if loss > self.budget + 1e-9]
        high = min(over, default=None)
        below = (one for one in self.losses if high is None or one < high)
        return max(below, default=0.0), high
