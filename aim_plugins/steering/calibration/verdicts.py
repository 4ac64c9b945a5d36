"""Paired verdicts in words: what beats what by how much, and how many prompts would tell."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from aim_plugins.steering.calibration.entries import Entry, difference, differences
from aim_plugins.sweep.paired import (
    LEVEL,
    Interval,
    documents_needed,
    holm,
    show_p,
    sign_flip_p,
)

_ROUNDING = 1e-9
_MOST = 10_000
"""Prompts beyond which a number needed is not worth its digits."""


@dataclass(frozen=True)
class Verdict:
    """One line of the table against another.

    Attributes:
        name: The line.
        other: What it is held against.
        gain: Its effect less the other's, or the other way round where less is better, with the
            paired 95 % interval.
        p: Of the sign-flip test over prompts, corrected by Holm for all lines held against it.
        n: Prompts.
        needed: Prompts at which such a difference would show with a chance of 80 %; None where
            there is no difference, or that many would not do.
    """

    name: str
    other: str
    gain: Interval
    p: float
    n: int
    needed: int | None

    @property
    def is_clear(self) -> bool:
        """Whether p as it is shown is below 0.05."""
        return float(f"{self.p:.2g}") < LEVEL

    @property
    def words(self) -> str:
        """The verdict in a sentence without its end.

        >>> Verdict("mean", "the prompt", Interval(0.1, 0.02, 0.18), 0.01, 32, 28).words
        'mean beats the prompt by 0.10 [0.02, 0.18], p = 0.01 (Holm)'
        """
        gain = self.gain
        if self.is_clear:
            verb = "beats" if gain.value > 0 else "falls behind"
            sign = 1 if gain.value > 0 else -1
            low, high = sorted((sign * gain.low, sign * gain.high))
            amount = f"{abs(gain.value):.2f} [{low:.2f}, {high:.2f}]"
            return f"{self.name} {verb} {self.other} by {amount}, {show_p(self.p)} (Holm)"
        found = f"{gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"
        told = f"{self.name} and {self.other} cannot be told apart with {self.n} prompts: {found}"
        if self.needed is None or self.needed <= self.n:
            return told
        return f"{told}; {self.needed} would be needed for such a difference"


def spread_of(metric: str) -> float:
    """Length of the range of an effect's measure: sentiment goes from -1 to 1, shares from 0."""
    return 2.0 if metric == "sentiment" else 1.0


def verdicts(
    entries: Sequence[Entry], other: Entry, *, lower_is_better: bool, spread: float
) -> list[Verdict]:
    """Holds lines of the table against one, with p corrected for their number.

    Args:
        entries: The lines.
        other: What they are held against.
        lower_is_better: Whether the effect should be small.
        spread: Length of the range of the effect's measure.
    """
    pairs = [(other, one) if lower_is_better else (one, other) for one in entries]
    chances = [sign_flip_p(first.point.effects, second.point.effects) for first, second in pairs]
    return [
        Verdict(
            entry.name,
            other.name,
            difference(first, second, spread),
            p,
            len(entry.point.effects),
            _needed(differences(first, second)),
        )
        for entry, (first, second), p in zip(entries, pairs, holm(chances), strict=True)
    ]


def _needed(differences: Sequence[float]) -> int | None:
    """Prompts that tell a difference as large as the one seen; None where none or too many would.

    A difference below rounding is none.
    """
    if len(differences) < 2 or abs(statistics.fmean(differences)) <= _ROUNDING:
        return None
    found = documents_needed(differences)
    return found if found <= _MOST else None
