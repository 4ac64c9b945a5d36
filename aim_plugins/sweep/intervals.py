"""95 % intervals of the points of a curve: the same ones in pictures, tables and sentences.

Documents are the population. An interval is never empty: where all documents are equal, their
standard error is 0, but documents not seen may differ from them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from aim_plugins.sweep.table import Point, metric_family

NORMAL_FACTOR = 1.959964
"""Standard errors in half of a two-sided 95 % interval of a normal law."""

_Range = tuple[float, float]

_RANGES: dict[str, _Range | None] = {
    **dict.fromkeys(("sentiment", "mcc"), (-1.0, 1.0)),
    **dict.fromkeys(
        (f"{of}_similarity" for of in ("image", "prompt", "target", "directional")), (-1.0, 1.0)
    ),
    **dict.fromkeys(("acc", "iou", "recall", "precision", "f1"), (0.0, 1.0)),
    **dict.fromkeys(("miou", "mrecall", "mprecision", "mf1"), (0.0, 1.0)),
    **dict.fromkeys(("bleu", "chrf", "chrf++"), (0.0, 100.0)),
    "ter": None,
}
"""Ranges of measures whose values may not show them: a sentiment may happen to be 0 of all texts,
a BLEU too, and errors of ratios of counts are not bounded by their range."""


def point_intervals(points: Sequence[Point]) -> list[tuple[float, float]]:
    """The ends of the 95 % intervals over documents of a curve.

    A share of right answers has Wilson's interval. So has any other mean of values within a range,
    such as a pooled share or a probability: for as many documents as a share of its standard error
    would rest on (Korn and Graubard, "Confidence intervals for proportions with small expected
    number of positive counts", Survey Methodology 24, 1998), with Student's factor. Where all
    documents are equal, a share of them as large as Wilson's bound for none of n may lie anywhere
    in the range; graded documents, such as a class's pixels in images, are held to scatter as at
    the nearest strength that has an error, if that is less (of one draw: right and wrong answers
    averaged over several look graded). Other means have Student's interval,
    and perplexities that of their logarithm.

    Args:
        points: The points of one metric of one task at all its strengths.

    Returns:
        Both ends; NaN where an error is unknown, or is 0 and the measure has no known range.

    >>> [(low, high)] = point_intervals([Point("quiz", "acc", 0.0, 0.0, 0.0, 40, 1)])
    >>> round(low, 3), round(high, 3)
    (0.0, 0.088)
    """
    limits = value_range(points)
    if limits is None:
        return [_mean_interval(point) for point in points]
    answers = _has_answers(points)
    # Answers averaged over draws, or in law, look graded.
    scattered = [one for one in points if one.draws == 1 and _effective_size(one, limits)]
    graded = [] if answers else scattered
    return [_bounded_interval(point, limits, answers, graded) for point in points]


def value_range(points: Sequence[Point]) -> _Range | None:
    """Between what a measure's values lie, as far as its name or its points tell.

    Values within 0 and 1 have variances of at most p(1 - p), and so known errors: a mean of 0.03
    with an error of 0.3 over four documents is of a signed measure.
    """
    values = [point.value for point in points if math.isfinite(point.value)]
    named = [_RANGES[name] for name in {_name(point) for point in points} if name in _RANGES]
    limits = named[0] if named else (0.0, 1.0)
    if limits is None:
        return None
    low, high = limits
    if not values or min(values) < low or max(values) > high:
        return None
    if named or all(_fits_unit_range(point) for point in points if is_known(point)):
        return low, high
    return None


def is_known(point: Point) -> bool:
    """Whether a point has a value and an error."""
    known = point.stderr is not None and math.isfinite(point.stderr)
    return known and math.isfinite(point.value)


def is_binomial(point: Point) -> bool:
    """Tells whether a point is a share of documents: its standard error is that of one.

    Harnesses divide the variance by n or by n - 1.
    """
    if point.stderr is None or point.n < 2 or not 0 <= point.value <= 1:
        return False
    variance = point.value * (1 - point.value)
    return any(
        math.isclose(point.stderr, math.sqrt(variance / count), rel_tol=1e-6, abs_tol=1e-12)
        for count in (point.n, point.n - 1)
    )


def wilson_interval(share: float, n: float, factor: float = NORMAL_FACTOR) -> tuple[float, float]:
    """Wilson's interval of a share of n, by default the 95 % one.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22, 1927.

    >>> [round(end, 4) for end in wilson_interval(0.5, 100)]
    [0.4038, 0.5962]
    """
    square = factor**2 / n
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    # Rounding must not part the interval from its own share.
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)


def paired_interval(first: int, second: int, n: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two shares of the same n.

    Each member is its own control: only those that count for one share alone tell. Half a member is
    added to each of the four cells, so that no difference still has an interval.

    Args:
        first: How many count for the first share alone.
        second: How many count for the second alone.
        n: How many there are.

    Source: Agresti and Min, "Simple improved confidence intervals for comparing matched
    proportions", Statistics in Medicine 24, 2005.

    >>> [round(end, 3) for end in paired_interval(30, 4, 200)]
    [0.074, 0.183]
    """
    middle = (first - second) / (n + 2)
    spread = (first + second + 1) / (n + 2) - middle**2
    reach = NORMAL_FACTOR * math.sqrt(spread / (n + 2))
    value = (first - second) / n
    return max(-1.0, min(value, middle - reach)), min(1.0, max(value, middle + reach))


def student_factor(n: int) -> float:
    """Standard errors in half of a two-sided 95 % interval of a mean of n values.

    Source: the expansion of Student's quantile in 1/(n - 1), Abramowitz and Stegun 26.7.5; of two
    and three values the quantile is known in closed form.

    >>> round(student_factor(4), 2), round(student_factor(1000), 2)
    (3.18, 1.96)
    """
    if n <= 3:
        return 12.7062 if n <= 2 else 4.30265
    z = NORMAL_FACTOR
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / (n - 1) ** power for power, term in enumerate(terms))


def student_quantile(freedom: float) -> float:
    """The same factor for any degrees of freedom, such as a fraction of one.

    >>> round(student_quantile(3.0), 2)
    3.18
    """
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def student_reach(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean of independent values; NaN of a single one.

    >>> round(student_reach([1.0, 2.0, 3.0]), 2)
    2.48
    """
    if len(values) < 2:
        return math.nan
    return student_factor(len(values)) * statistics.stdev(values) / math.sqrt(len(values))


def _factor(point: Point) -> float:
    return student_factor(point.n) if point.freedom is None else student_quantile(point.freedom)


def _mean_interval(point: Point) -> tuple[float, float]:
    """The interval of a mean of values without a range."""
    if point.stderr is None or not is_known(point) or point.n < 1 or point.stderr == 0:
        return math.nan, math.nan
    half = _factor(point) * point.stderr
    if _name(point).endswith("perplexity") and point.value > 0:
        ratio = math.exp(min(half / point.value, 700.0))
        return point.value / ratio, point.value * ratio
    return point.value - half, point.value + half


def _bounded_interval(
    point: Point, limits: _Range, answers: bool, graded: Sequence[Point]
) -> tuple[float, float]:
    """The interval of a mean of values within a range; `graded` tells how graded ones scatter."""
    if not is_known(point) or point.n < 1:
        return math.nan, math.nan
    low, high = limits
    ends = _share_interval(point, limits, answers, graded)
    return low + ends[0] * (high - low), low + ends[1] * (high - low)


def _share_interval(
    point: Point, limits: _Range, answers: bool, graded: Sequence[Point]
) -> tuple[float, float]:
    """The interval on a scale on which the range is from 0 to 1."""
    share, size = _as_share(point, limits)[0], _effective_size(point, limits)
    _, unseen = wilson_interval(0.0, point.n)
    if size is None:
        ends = share * (1 - unseen), share + (1 - share) * unseen
        if not graded:
            return ends
        nearest = min(graded, key=lambda one: _distance(one, point))
        size = _effective_size(nearest, limits) or 1.0
        scattered = wilson_interval(share, size, _factor(point))
        return max(ends[0], scattered[0]), min(ends[1], scattered[1])
    # Right and wrong answers: of almost only one kind, a few documents bound the other.
    if answers and (is_binomial(point) or min(share, 1 - share) <= unseen):
        return wilson_interval(share, point.n)
    return wilson_interval(share, size, _factor(point))


def _as_share(point: Point, limits: _Range) -> tuple[float, float]:
    """A value and its error on a scale on which the range is from 0 to 1."""
    low, high = limits
    return (point.value - low) / (high - low), (point.stderr or 0.0) / (high - low)


def _effective_size(point: Point, limits: _Range) -> float | None:
    """On how many documents a share of this error would rest; None where all documents are equal.

    At an end of the range rounding may leave an error to documents that are equal.
    """
    share, error = _as_share(point, limits)
    if not is_known(point) or error <= 1e-12:
        return None
    return max(share * (1 - share) / error**2, 1.0)


def _distance(one: Point, other: Point) -> float:
    return math.dist(one.strengths, other.strengths)


def _has_answers(points: Sequence[Point]) -> bool:
    """Whether documents are right or wrong at some strength, rather than graded at all of them."""
    known = [point for point in points if is_known(point)]
    telling = [point for point in known if point.stderr and point.stderr > 1e-12]
    return any(is_binomial(point) for point in telling or known)


def _fits_unit_range(point: Point) -> bool:
    variance = (point.stderr or 0.0) ** 2 * max(point.n - 1, 1)
    return variance <= point.value * (1 - point.value) * (1 + 1e-6) + 1e-12


def _name(point: Point) -> str:
    return metric_family(point.metric).partition(",")[0]
