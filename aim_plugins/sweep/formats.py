"""Values and their 95 % intervals, written for readers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aim_plugins.sweep.intervals import point_intervals
from aim_plugins.sweep.table import Point

_DIGITS = 5
_DECIMALS = 3


def format_value(value: float) -> str:
    """Writes a value: three decimals, or five digits where it is large.

    >>> format_value(0.5), format_value(521.4753), format_value(1234567.0)
    ('0.500', '521.48', '1.2346e+06')
    """
    return _write(value, _decimals(value))


def estimate_texts(points: Sequence[Point]) -> list[tuple[str, str]]:
    """The values of a curve and their 95 % intervals in brackets; "" where one is unknown.

    Both have as many decimals as tell the ends of the interval apart.

    >>> estimate_texts([Point("quiz", "acc", 0.0, 0.0, 0.0, 4, 1)])
    [('0.000', '[0.000, 0.490]')]
    """
    return [
        interval_texts(point.value, low, high)
        for point, (low, high) in zip(points, point_intervals(points), strict=True)
    ]


def interval_texts(value: float, low: float, high: float, sign: str = "") -> tuple[str, str]:
    """A value and its 95 % interval in brackets, as `estimate_texts` writes them.

    Args:
        value: The value.
        low: Lower end of its interval.
        high: Upper end.
        sign: "+" writes it before what is not negative, as of differences.

    >>> interval_texts(0.00031, 0.00012, 0.0005, "+")
    ('+0.00031', '[+0.00012, +0.00050]')
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return _write(value, _decimals(value), sign), ""
    decimals = _decimals(high if abs(high) > abs(low) else low)
    if high > low:
        # Two digits of the width.
        decimals = max(decimals, min(1 - math.floor(math.log10(high - low)), 12))
    ends = ", ".join(_write(end, decimals, sign) for end in (low, high))
    return _write(value, decimals, sign), f"[{ends}]"


def _decimals(value: float) -> int:
    if not math.isfinite(value) or abs(value) < 1:
        return _DECIMALS
    return min(_DIGITS - 1 - math.floor(math.log10(abs(value))), _DECIMALS)


def _write(value: float, decimals: int, sign: str = "") -> str:
    return f"{value:{sign}.{decimals}f}" if decimals >= 0 else f"{value:{sign}.{_DIGITS}g}"
