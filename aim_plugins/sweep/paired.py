"""Two models' answers to the same questions: their difference, whether it shows, and in words.

Each document is its own control: only those that one of both alone answers rightly tell.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from aim_plugins.sweep.estimates import mean
from aim_plugins.sweep.intervals import (
    paired_interval,
    point_intervals,
    student_factor,
    student_reach,
    wilson_interval,
)
from aim_plugins.sweep.table import Point

_LEAST_P = 1e-15
"""A smaller p is not told from others."""

LEVEL = 0.05
"""Below which p a difference is called one."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; NaN where nothing is known of it.

    Attributes:
        value: The value.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference(Interval):
    """The difference of two shares of right answers to the same questions.

    Attributes:
        p: How likely answers would change so unevenly, or more, if both were equally good.
    """

    p: float

    @property
    def is_clear(self) -> bool:
        """Whether p as it is shown is below 0.05.

        The interval is an approximation and p is exact: where they disagree, p decides, so that the
        word never contradicts the number beside it.
        """
        return float(f"{self.p:.2g}") < LEVEL


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> PairedDifference:
    """By how much one share of right answers is above another one of the same questions.

    Args:
        first: Of each question, whether it is answered rightly.
        second: The same of what it is compared with.

    Returns:
        The difference, with Agresti and Min's interval and McNemar's exact p.

    Raises:
        ValueError: If there is no question, or they are of different ones.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions
    or percentages", Psychometrika 12, 1947, with the binomial law in place of the normal one.

    >>> verdict(paired_difference([True] * 9 + [False], [False] * 8 + [True] * 2))
    'better, +70.0 points [+18.6, +98.1], p = 0.039'
    """
    from scipy.stats import binomtest

    if not len(first):
        raise ValueError("first is empty: give the answers to at least one question")
    if len(first) != len(second):
        raise ValueError(
            f"first has {len(first)} answers and second {len(second)}: give those to the same "
            "questions"
        )
    pairs = [(bool(one), bool(other)) for one, other in zip(first, second, strict=True)]
    won, lost = pairs.count((True, False)), pairs.count((False, True))
    p = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    return PairedDifference((won - lost) / len(pairs), *paired_interval(won, lost, len(pairs)), p)


def mean_interval(values: Sequence[float]) -> Interval:
    """A mean over documents or images, with Student's interval; NaN of none.

    >>> mean_interval([1.0, 2.0, 3.0]).value
    2.0
    """
    if not values:
        return Interval(math.nan, math.nan, math.nan)
    middle, reach = statistics.fmean(values), student_reach(values)
    return Interval(middle, middle - reach, middle + reach)


def mean_share(hits: Sequence[Sequence[bool]]) -> Interval:
    """A share of right answers, averaged over draws, with its interval over documents or images.

    Of one draw it is Wilson's, of several as of any mean within a range; never of no width.

    Args:
        hits: Of each draw, which of the same documents are answered rightly.

    Returns:
        The mean over these draws; NaN of no document.

    >>> found = mean_share([[True] * 20, [True] * 20])
    >>> found.value, round(found.low, 3), found.high
    (1.0, 0.839, 1.0)
    """
    shares = [statistics.fmean(row) for row in zip(*hits, strict=True)]
    if not shares:
        return Interval(math.nan, math.nan, math.nan)
    found = mean(shares)
    if len(hits) == 1 or found.n == 1:
        return Interval(found.value, *wilson_interval(found.value, found.n))
    point = Point("", "acc", 0.0, found.value, found.stderr, found.n, len(hits))
    return Interval(found.value, *point_intervals([point])[0])


def mean_difference(first: Sequence[float], second: Sequence[float]) -> Interval:
    """By how much one mean is above another one of the same documents, with Student's interval.

    For values between right and wrong, such as answers averaged over draws. Where all differences
    are equal, documents not seen may still differ: by 1 either way in a share of them as large as
    Wilson's bound for none of n.

    Args:
        first: Values in [0, 1], at least two.
        second: Those of the same documents.
    """
    found = mean([one - other for one, other in zip(first, second, strict=True)])
    unseen = wilson_interval(0.0, found.n)[1]
    half = student_factor(found.n) * found.stderr if found.stderr else unseen
    return Interval(found.value, found.value - half, found.value + half)


def sign_flip_p(first: Sequence[float], second: Sequence[float]) -> float:
    """How likely a difference of means of the same documents is by chance as large, of either sign.

    Signs are dealt out anew to the documents' differences, all ways of it where these are few; of
    right and wrong answers that is McNemar's exact test.

    Args:
        first: Values.
        second: Those of the same documents.

    >>> sign_flip_p([3.0, 1.0, 2.0], [0.0, 0.0, 0.0])
    0.25
    """
    from scipy.stats import permutation_test

    tested = permutation_test(
        (list(first), list(second)),
        lambda one, other, axis: (one - other).mean(axis=axis),
        permutation_type="samples",
        batch=500,
        vectorized=True,
        rng=0,
    )
    return float(tested.pvalue)


def holm(chances: Sequence[float]) -> list[float]:
    """The p of several tests, corrected for their number.

    Args:
        chances: The p of each test alone.

    Returns:
        Of each test a p. Where those below 0.05 are called, the probability of even one wrong call
        is at most 0.05, however the tests depend on each other.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6, 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    found, largest = [0.0] * len(chances), 0.0
    for rank, place in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[place]))
        found[place] = largest
    return found


def in_points(one: Interval) -> str:
    """A difference with its interval, in percentage points.

    >>> in_points(Interval(-0.021, -0.063, 0.021))
    '-2.1 points [-6.3, +2.1]'
    """
    return f"{100 * one.value:+.1f} points [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"


def verdict(found: PairedDifference) -> str:
    """Whether the first answers better than the second, in words and numbers.

    >>> verdict(PairedDifference(0.03, 0.001, 0.059, 0.062))
    'cannot be told apart, +3.0 points [+0.1, +5.9], p = 0.062'
    """
    word = "cannot be told apart"
    if found.is_clear:
        word = "better" if found.value > 0 else "worse"
    return f"{word}, {in_points(found)}, {show_p(found.p)}"


def show_p(p: float) -> str:
    """A p, to two digits, or below what; none is 0, though its number may run under.

    >>> show_p(0.0391), show_p(0.0)
    ('p = 0.039', 'p < 1e-15')
    """
    return f"p = {p:.2g}" if p >= _LEAST_P else f"p < {_LEAST_P:g}"
