"""Strengths of a modulation: reading grids and lists, checking, and naming them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import SupportsFloat

MAX_STRENGTHS = 10_000
"""A longer grid is taken for a mistyped step."""


def validate_strength(
    value: SupportsFloat, *, name: str = "noise_std", signed: bool = False
) -> float:
    """Checks one strength.

    Args:
        value: The strength, for logit noise its standard deviation in logit units.
        name: Name of the argument, for the error.
        signed: Whether the modulation has a meaning below 0.

    Returns:
        The strength as a float; negative zero becomes zero.

    Raises:
        ValueError: If the value is no number, NaN, infinite, or negative and not `signed`.

    >>> validate_strength(1)
    1.0
    """
    if isinstance(value, str | bytes | bool):
        raise ValueError(
            f"{name}={value!r} is a {type(value).__name__}, not a number: give one such as 0.5"
        )
    try:
        strength = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}={value!r} is not a number: give one such as 0.5") from error
    if not math.isfinite(strength):
        wanted = "a number" if signed else "a number from 0 upwards"
        raise ValueError(f"{name}={value!r} is not finite: give {wanted}")
    if strength < 0 and not signed:
        raise ValueError(
            f"{name}={value!r} is negative: give a number from 0 upwards (0 changes nothing)"
        )
    return strength + 0.0  # negative zero becomes zero


def parse_strengths(
    spec: str | SupportsFloat | Iterable[str | SupportsFloat],
    *,
    name: str = "noise_std",
    signed: bool = False,
) -> tuple[float, ...]:
    """Reads a grid, a list or a single strength.

    Args:
        spec: `"start:stop:step"` (stop included where the steps meet it, counted in decimal so that
            `"0:1:0.1"` holds exactly 0.3), `"0,0.5,1"` or `"[0, 0.5]"` whose items may be grids, a
            number, or an iterable of any of these.
        name: Name of the argument, for errors.
        signed: Whether the modulation has a meaning below 0.

    Returns:
        The strengths in the order given.

    Raises:
        ValueError: If nothing is given, an item is malformed, NaN, infinite, or negative and not
            `signed`, a strength occurs twice, or there are more than `MAX_STRENGTHS`.

    >>> parse_strengths("0:1:0.25")
    (0.0, 0.25, 0.5, 0.75, 1.0)
    >>> parse_strengths([0, "1:2:0.5"])
    (0.0, 1.0, 1.5, 2.0)
    """
    strengths = [
        strength
        for item in _items(spec, name)
        for strength in _parse_item(item, name=name, signed=signed)
    ]
    if not strengths:
        raise ValueError(f"{name}={spec!r} holds no strength: give at least one, such as 0.5")
    _refuse_too_many(len(strengths), spec, name)
    seen: set[float] = set()
    for strength in strengths:
        if strength in seen:
            raise ValueError(
                f"{name}={spec!r} holds {format_strength(strength)} twice: name each strength once"
            )
        seen.add(strength)
    return tuple(strengths)


def format_strength(strength: SupportsFloat) -> str:
    """Writes a strength shortly, for labels and file names.

    Returns:
        The shortest text that reads back as the same float, without a trailing `.0`.

    >>> format_strength(2.0), format_strength(0.1), format_strength(1e-05)
    ('2', '0.1', '1e-05')
    """
    return repr(float(strength)).removesuffix(".0")


def _items(
    spec: str | SupportsFloat | Iterable[str | SupportsFloat], name: str
) -> list[str | SupportsFloat]:
    if isinstance(spec, str):
        text = spec.strip()
        if text[:1] + text[-1:] in ("[]", "()"):
            text = text[1:-1]
        # A trailing comma is how Python writes a tuple of one.
        parts = text.removesuffix(",").split(",") if text.strip() else []
        return list(parts)
    try:
        return list(spec)  # type: ignore[arg-type]
    except TypeError:  # not iterable, as a number or a zero-dimensional array is not
        return [spec]  # type: ignore[list-item]


def _parse_item(item: str | SupportsFloat, *, name: str, signed: bool) -> list[float]:
    if not isinstance(item, str):
        return [validate_strength(item, name=name, signed=signed)]
    parts = item.split(":")
    if len(parts) == 1:
        return [float(_parse_decimal(item, item, name, signed))]
    if len(parts) != 3:
        raise ValueError(f"{name}={item!r} is malformed: a grid is start:stop:step, as in 0:3:0.25")
    start, stop, step = (_parse_decimal(part, item, name, signed) for part in parts)
    if float(step) <= 0:
        raise ValueError(f"{name}={item!r} has the step {step}: give a step above 0")
    if stop < start:
        raise ValueError(f"{name}={item!r} stops below its start: write the smaller end first")
    # In float first: the decimal quotient of an absurd grid overflows its own precision.
    _refuse_too_many(float(stop - start) / float(step), item, name)
    return [float(start + index * step) for index in range(int((stop - start) / step) + 1)]


def _parse_decimal(text: str, item: str, name: str, signed: bool) -> Decimal:
    try:
        number = Decimal(text.strip())
    except InvalidOperation as error:
        raise ValueError(
            f"{name}={item!r} is malformed: {text.strip()!r} is not a number; "
            "write a grid as 0:3:0.25 or a list as 0,0.5,1"
        ) from error
    validate_strength(float(number), name=name, signed=signed)
    return number + 0  # negative zero becomes zero


def _refuse_too_many(count: float, spec: object, name: str) -> None:
    if count > MAX_STRENGTHS:
        raise ValueError(
            f"{name}={str(spec)[:80]!r} holds {count:.0f} strengths, more than {MAX_STRENGTHS}: "
            "take a larger step"
        )
