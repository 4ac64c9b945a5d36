"""Strengths of a modulation: reading grids and lists, checking, and naming them."""

from __future__ import annotations

import functools
import math
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from typing import SupportsFloat

StrengthSpec = str | SupportsFloat | Iterable[str | SupportsFloat]
"""A grid, a list or a single strength."""

MAX_STRENGTHS = 10_000
"""A longer grid is taken for a mistyped step."""


@dataclass(frozen=True)
class Axis:
    """What a strength measures: the horizontal axis of a curve.

    Attributes:
        name: In names of cells and in manifests, an identifier such as "std".
        symbol: In formulas, such as "σ".
        quantity: In words, such as "noise std".
        unit: Its unit, such as "logits"; empty where it has none.
        low: Lowest strength that has a meaning.
        high: Highest strength that has one.
        neutral: The strength that leaves the model as it is.
        shared_draws: Whether one draw does the same to every document, as a choice of components
            does; noise is drawn for each document by itself.

    >>> Axis("std", "σ", "noise std", "logits", low=0.0).label
    'noise std σ (logits)'
    """

    name: str
    symbol: str
    quantity: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    neutral: float = 0.0
    shared_draws: bool = False

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"name={self.name!r} is no name of an axis: give one such as 'std'")

    @property
    def label(self) -> str:
        """The label of a picture's axis."""
        return f"{self.quantity} {self.symbol}" + (f" ({self.unit})" if self.unit else "")

    def to_json(self) -> dict[str, str | float]:
        """What `Axis(**...)` is made of again; numbers that are as by default are left out."""
        return {
            one.name: value
            for one in fields(self)
            if isinstance(value := getattr(self, one.name), str) or value != one.default
        }

    def check(
        self, value: SupportsFloat, argument: str = "strength", *, limit: float = math.inf
    ) -> float:
        """Checks one strength; see `validate_strength`."""
        return validate_strength(value, name=argument, low=self.low, high=self.high, limit=limit)

    def parse(self, spec: StrengthSpec, argument: str = "strength") -> tuple[float, ...]:
        """Reads a grid, a list or a single strength; see `parse_strengths`."""
        return parse_strengths(spec, name=argument, low=self.low, high=self.high)


def validate_strength(
    value: SupportsFloat,
    *,
    name: str = "noise_std",
    low: float = 0.0,
    high: float = math.inf,
    limit: float = math.inf,
) -> float:
    """Checks one strength.

    Args:
        value: The strength, for logit noise its standard deviation in logit units.
        name: Name of the argument, for the error.
        low: Lowest strength that has a meaning.
        high: Highest strength that has one.
        limit: Largest one, either way, that is taken of a stranger.

    Returns:
        The strength as a float; negative zero becomes zero.

    Raises:
        ValueError: If the value is no number, NaN, infinite, or out of range.

    >>> validate_strength(1)
    1.0
    """
    if isinstance(value, str | bytes | bool):
        raise ValueError(
            f"{name}={value!r} is a {type(value).__name__}, not a number: give one such as 0.5"
        )
    if isinstance(value, int | float) and limit < abs(value) != math.inf:
        # Shortened, as clients may send integers of many digits.
        raise ValueError(
            f"{name}={reprlib.repr(value)} is beyond {limit:g}: give "
            f"{_domain(max(low, -limit), min(high, limit))}"
        )
    try:
        strength = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}={value!r} is not a number: give one such as 0.5") from error
    if not math.isfinite(strength):
        raise ValueError(f"{name}={value!r} is not finite: give {_domain(low, high)}")
    if not low <= strength <= high:
        problem = "negative" if low == 0 and strength < 0 else "out of range"
        raise ValueError(f"{name}={value!r} is {problem}: give {_domain(low, high)}")
    return strength + 0.0  # negative zero becomes zero


def parse_strengths(
    spec: StrengthSpec, *, name: str = "noise_std", low: float = 0.0, high: float = math.inf
) -> tuple[float, ...]:
    """Reads a grid, a list or a single strength.

    Args:
        spec: `"start:stop:step"` (stop included where the steps meet it, counted in decimal so that
            `"0:1:0.1"` holds exactly 0.3), `"0,0.5,1"` or `"[0, 0.5]"` whose items may be grids, a
            number, or an iterable of any of these.
        name: Name of the argument, for errors.
        low: Lowest strength that has a meaning.
        high: Highest strength that has one.

    Returns:
        The strengths in the order given.

    Raises:
        ValueError: If nothing is given, an item is malformed, NaN, infinite or out of range, a
            strength occurs twice, or there are more than `MAX_STRENGTHS`.

    >>> parse_strengths("0:1:0.25")
    (0.0, 0.25, 0.5, 0.75, 1.0)
    >>> parse_strengths([0, "1:2:0.5"])
    (0.0, 1.0, 1.5, 2.0)
    """
    check = functools.partial(validate_strength, name=name, low=low, high=high)
    strengths = [strength for item in _items(spec) for strength in _parse_item(item, name, check)]
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


def _domain(low: float, high: float) -> str:
    if math.isfinite(high):
        return f"a number from {low:g} to {high:g}"
    return f"a number from {low:g} upwards" if math.isfinite(low) else "a number"


def _items(spec: StrengthSpec) -> list[str | SupportsFloat]:
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


def _parse_item(
    item: str | SupportsFloat, name: str, check: Callable[[float], float]
) -> list[float]:
    if not isinstance(item, str):
        return [check(item)]  # type: ignore[arg-type]
    parts = item.split(":")
    if len(parts) == 1:
        return [float(_parse_decimal(item, item, name, check))]
    if len(parts) != 3:
        raise ValueError(f"{name}={item!r} is malformed: a grid is start:stop:step, as in 0:3:0.25")
    start, stop, step = (_parse_decimal(part, item, name, check) for part in parts)
    if float(step) <= 0:
        raise ValueError(f"{name}={item!r} has the step {step}: give a step above 0")
    if stop < start:
        raise ValueError(f"{name}={item!r} stops below its start: write the smaller end first")
    # In float first: the decimal quotient of an absurd grid overflows its own precision.
    _refuse_too_many(float(stop - start) / float(step), item, name)
    return [float(start + index * step) for index in range(int((stop - start) / step) + 1)]


def _parse_decimal(text: str, item: str, name: str, check: Callable[[float], float]) -> Decimal:
    try:
        number = Decimal(text.strip())
    except InvalidOperation as error:
        raise ValueError(
            f"{name}={item!r} is malformed: {text.strip()!r} is not a number; "
            "write a grid as 0:3:0.25, or several as 0,0.5,1 (within JSON as [0, 0.5, 1])"
        ) from error
    check(float(number))
    return number + 0  # negative zero becomes zero


def _refuse_too_many(count: float, spec: object, name: str) -> None:
    if count > MAX_STRENGTHS:
        raise ValueError(
            f"{name}={str(spec)[:80]!r} holds {count:.0f} strengths, more than {MAX_STRENGTHS}: "
            "take a larger step"
        )
