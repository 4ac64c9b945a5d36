"""Paired verdicts in words: what beats what by how much, and how many prompts would tell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from aim_plugins.steering.calibration.entries import Entry, difference, differences
from aim_plugins.sweep.paired import LEVEL, Interval, holm, show_p, sign_flip_p

_MOST = 100_000
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
            documents_needed(differences(first, second)),
        )
        for entry, (first, second), p in zip(entries, pairs, holm(chances), strict=True)
    ]


def documents_needed(
    differences: Sequence[float], power: float = 0.8, level: float = LEVEL
) -> int | None:
    """How many documents would show a mean difference as large as the one seen.

    Args:
        differences: Of each document, between two conditions.
        power: Chance that the two-sided paired t-test of so many finds it.
        level: Below which p that test calls it.

    Returns:
        The smallest such number, at least 2; None where there is no difference, or it takes more
        than 100,000.

    Source: Student's t-test under a shift has the noncentral t distribution, as in Cohen,
    "Statistical power analysis for the behavioral sciences", 1988, section 2.

    >>> documents_needed([0.5, -0.5] * 8 + [0.5] * 4)
    201
    """
    if len(differences) < 2:
        return None
    middle, spread = statistics.fmean(differences), statistics.stdev(differences)
    if not middle:
        return None
    if not spread:
        return 2
    effect = abs(middle) / spread
    # The normal law's answer is close and too small; from there on it is a few steps.
    normal = statistics.NormalDist().inv_cdf
    start = ((normal(1 - level / 2) + normal(power)) / effect) ** 2
    if start > _MOST:
        return None
    n = max(2, math.floor(start) - 1)
    while _power(n, effect, level) < power:
        n += 1
    return n


def _power(n: int, effect: float, level: float) -> float:
    from scipy.stats import nct, t

    critical = t.ppf(1 - level / 2, n - 1)
    shift = effect * math.sqrt(n)
    return float(nct.sf(critical, n - 1, shift) + nct.cdf(-critical, n - 1, shift))
