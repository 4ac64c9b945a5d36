"""Two models' answers to the same questions: their difference, whether it shows, and in words.

Each document is its own control: only those that one of both alone answers rightly tell.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from aim_plugins.sweep.estimates import Estimate, mean, mean_of_draws
from aim_plugins.sweep.intervals import (
    paired_interval,
    point_intervals,
    student_factor,
    student_quantile,
    student_reach,
    wilson_interval,
)
from aim_plugins.sweep.sign_flips import sign_flip_law
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


def draws_difference(
    first: Float[np.ndarray, "documents draws"],
    second: Float[np.ndarray, "documents others"],
    *,
    shared_draws: bool = False,
    span: float = 1.0,
) -> PairedDifference:
    """By how much one mean over draws is above another one of the same documents.

    One draw of right and wrong answers is `paired_difference`; all else has Student's interval over
    the documents' differences, and the p of `sign_flip_p`. Where one draw does the same to every
    document, draws are compared one to one, are sampled too, and p is Student's.

    Args:
        first: What each document scores in each draw.
        second: The same of what it is compared with.
        shared_draws: Whether a draw does the same to every document; see `mean_of_draws`.
        span: How far apart two documents' differences may lie, for where those seen are all equal;
            NaN if that is unknown.

    Raises:
        ValueError: If there is no document, or they are of different ones.

    >>> one, other = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 0.0], [1.0, 1.0]])
    >>> draws_difference(one, other).value
    0.25
    """
    if not len(first) or len(first) != len(second):
        raise ValueError(
            f"first has {len(first)} documents and second {len(second)}: give the scores of the "
            "same documents, at least one"
        )
    if _are_answers(first, second):
        return paired_difference(first[:, 0].tolist(), second[:, 0].tolist())
    found = _difference_of_draws(first, second, shared_draws)
    half = span * wilson_interval(0.0, found.n)[1]
    freedom = found.freedom or found.n - 1
    if found.stderr:
        half = found.stderr * student_quantile(freedom)
    if found.stderr and found.freedom:
        p = student_p(found.value / found.stderr, freedom)
    else:
        p = sign_flip_p(first.mean(1).tolist(), second.mean(1).tolist())
    return PairedDifference(found.value, found.value - half, found.value + half, p)


def _are_answers(
    first: Float[np.ndarray, "documents draws"], second: Float[np.ndarray, "documents others"]
) -> bool:
    """Whether both are one draw of right and wrong answers."""
    both = np.concatenate([first, second], axis=1)
    return both.shape[1] == 2 and bool(np.isin(both, (0, 1)).all())


def _difference_of_draws(
    first: Float[np.ndarray, "documents draws"],
    second: Float[np.ndarray, "documents others"],
    shared_draws: bool,
) -> Estimate:
    draws = min(first.shape[1], second.shape[1])
    if shared_draws and draws > 1:
        return mean_of_draws(first[:, :draws] - second[:, :draws], shared_draws=True)
    return mean((first.mean(1) - second.mean(1)).tolist())


def student_p(ratio: float, freedom: float) -> float:
    """How likely a mean of none is so many standard errors from 0 or more, either way."""
    from scipy.stats import t

    return float(2 * t.sf(abs(ratio), freedom))


def sign_flip_p(first: Sequence[float], second: Sequence[float]) -> float:
    """How likely a difference of means of the same documents is by chance as large, of either sign.

    Signs are dealt out anew to the documents' differences: of right and wrong answers that is
    McNemar's exact test, of their means over draws exact too; see `sign_flip_law`.

    Args:
        first: Values.
        second: Those of the same documents.

    >>> round(sign_flip_p([3.0, 1.0, 2.0], [0.0, 0.0, 0.0]), 6)
    0.25
    """
    return sign_flip_law(np.subtract(first, second, dtype=float))


def documents_needed(
    differences: Sequence[float] | Float[np.ndarray, " documents"],
    power: float = 0.8,
    level: float = LEVEL,
    *,
    difference: float | None = None,
) -> int:
    """How many documents tell a difference from 0 with a given probability.

    Of right and wrong answers, whose differences are -1, 0 and 1, by McNemar's exact test, for
    which the discordant share ψ and the difference δ count:
    n = ((A + √(A² + 4 |δ|)) / 2δ)² with A = z_level √ψ + z_power √(ψ - δ²). Of all others, of the
    standard deviation s, by the paired test of a mean: n = (z_level + z_power)² s² / δ² +
    z_level² / 2.

    Args:
        differences: Those of the documents seen, whose spread stands for that of others; of several
            draws their mean over these.
        power: How likely it is to be told.
        level: The p below which it is.
        difference: What is to be told; by default the mean of the differences.

    Returns:
        The number, at least 2; by McNemar's test up to a quarter too many where all right and wrong
        answers that differ go one way.

    Raises:
        ValueError: If that difference is 0, or there are fewer than two documents.

    Source: Connor, "Sample size for testing differences in proportions for the paired-sample
    design", Biometrics 43, 1987, with the correction for continuity (Edwards, Psychometrika 13,
    1948), which the exact test needs; Guenther, "Sample size formulas for normal theory t tests",
    The American Statistician 35, 1981.

    >>> documents_needed([1.0] * 15 + [-1.0] * 5 + [0.0] * 80), documents_needed([0.3, -0.1, 0.4])
    (175, 16)
    """
    values = np.asarray(differences, dtype=float)
    told = abs(float(values.mean()) if difference is None else difference) if len(values) else 0.0
    if len(values) < 2 or told <= 1e-12:
        raise ValueError(
            f"difference={told:g} over {len(values)} documents: give a difference other than 0, "
            "and at least two documents"
        )
    normal = statistics.NormalDist()
    tail, reach = normal.inv_cdf(1 - level / 2), normal.inv_cdf(power)
    if np.isin(values, (-1, 0, 1)).all():
        discordant = max(float(np.abs(values).mean()), told)
        both = tail * math.sqrt(discordant) + reach * math.sqrt(discordant - told**2)
        found = ((both + math.sqrt(both**2 + 4 * told)) / (2 * told)) ** 2
    else:
        found = (tail + reach) ** 2 * float(values.var(ddof=1)) / told**2 + tail**2 / 2
    return max(2, math.ceil(found))


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
