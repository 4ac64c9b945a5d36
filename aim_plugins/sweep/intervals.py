"""95 % intervals of the points of a curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aim_plugins.sweep.table import Point

CONFIDENCE_FACTOR = 1.96
"""Standard errors in a two-sided 95 % interval of a normal law."""


def point_intervals(points: Sequence[Point]) -> list[tuple[float, float]]:
    """The ends of the 95 % intervals over documents of a curve; NaN where an error is unknown.

    A share of right answers, told by its standard errors, has Wilson's intervals: they stay within
    0 and 1, and have a width where all answers are right or all are wrong. Any other mean has 1.96
    standard errors to either side. A point at 0 or 1 may be of either kind, so the others of its
    curve decide.

    >>> [(low, high)] = point_intervals([Point("quiz", "acc", 0.0, 0.0, 0.0, 40, 1)])
    >>> round(low, 3), round(high, 3)
    (0.0, 0.088)
    """
    share = all(is_binomial(point) for point in points if is_known(point))
    return [_interval(point, share) for point in points]


def interval_texts(points: Sequence[Point], decimals: int = 2) -> list[str]:
    """The 95 % intervals of a curve in brackets, for tables; empty texts where it needs none.

    A curve needs them where it holds a share of 0 or 1: its standard error is 0 there, as if a few
    documents had settled the matter. All its points have them then, so that a column reads alike.

    >>> interval_texts([Point("quiz", "acc", 0.0, 0.0, 0.0, 4, 1)])
    ['[0.00, 0.49]']
    """
    known = [point for point in points if is_known(point)]
    settled = any(point.stderr == 0 and point.value in (0, 1) for point in known)
    if not settled or not all(is_binomial(point) for point in known):
        return [""] * len(points)
    return [
        f"[{low:.{decimals}f}, {high:.{decimals}f}]" if math.isfinite(low) else ""
        for low, high in point_intervals(points)
    ]


def is_known(point: Point) -> bool:
    """Whether a point has a value and an error."""
    known = point.stderr is not None and not math.isnan(point.stderr)
    return known and math.isfinite(point.value)


def _interval(point: Point, share: bool) -> tuple[float, float]:
    if point.stderr is None or not is_known(point):
        return math.nan, math.nan
    if share:
        return wilson_interval(point.value, point.n)
    half = CONFIDENCE_FACTOR * point.stderr
    return point.value - half, point.value + half


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


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22, 1927.

    >>> [round(end, 4) for end in wilson_interval(0.5, 100)]
    [0.4038, 0.5962]
    """
    square = CONFIDENCE_FACTOR**2 / n
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    # Rounding must not part the interval from its own share.
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)
