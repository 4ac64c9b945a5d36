"""The lines of a calibration's table, measured on what no strength or site was chosen on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from aim_plugins.sweep.documents import decode_scores, encode_scores
from aim_plugins.sweep.estimates import Estimate, mean
from aim_plugins.sweep.intervals import point_intervals
from aim_plugins.sweep.paired import Interval, mean_difference
from aim_plugins.sweep.table import Point

Kind = Literal["plain", "prompt", "method", "both"]


@dataclass(frozen=True)
class CurvePoint:
    """Effect and cost at one strength, on held-out prompts and texts.

    Attributes:
        strength: The strength; 0 of the plain model and of prompts.
        divergence: KL on plain text, in nats per token.
        growth: Log of the ratio of perplexities on plain text.
        effects: Effect on each prompt, averaged over its texts.
        metric: Name of the effect's measure.
        samples: Texts of each prompt.
        hits: Of each held-out question of the budget's task, whether it is answered rightly; empty
            where the budget is of plain text.
    """

    strength: float
    divergence: Estimate
    growth: Estimate
    effects: tuple[float, ...]
    metric: str
    samples: int
    hits: tuple[bool, ...] = ()

    @property
    def effect(self) -> Interval:
        """Mean effect over prompts, with its 95 % interval, never of no width."""
        found = mean(self.effects)
        point = Point("", self.metric, 0.0, found.value, found.stderr, found.n, self.samples)
        return Interval(found.value, *point_intervals([point])[0])


@dataclass(frozen=True)
class Entry:
    """A line of the table.

    Attributes:
        name: How tables name it.
        kind: The plain model, a prompt, a method, or a method behind a prompt.
        sites: Name of the choice of sites; empty of what has none.
        reached: Whether the budget is spent; always of what has no strength.
        chosen_effect: Mean effect on the calibration half, by which sites and prompts are chosen.
        point: At the calibrated strength.
        curve: At other strengths, rising.
        transport: Folder of the transport, if there is one.
        spent: What the strength costs of the budget on what it was found on.
    """

    name: str
    kind: Kind
    sites: str
    reached: bool
    chosen_effect: float
    point: CurvePoint
    curve: tuple[CurvePoint, ...] = ()
    transport: str = ""
    spent: float = 0.0

    @property
    def points(self) -> list[CurvePoint]:
        """All strengths that were measured, rising."""
        return sorted([*self.curve, self.point], key=lambda one: one.strength)

    def as_json(self) -> dict[str, Any]:
        """The line with every held-out prompt's effect, and answers as digits."""
        found = asdict(self)
        for point in (found["point"], *found["curve"]):
            point["hits"] = encode_scores(point["hits"])
        return found

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Entry:
        """Reads what `as_json` wrote."""
        point, curve = _point(line["point"]), tuple(map(_point, line["curve"]))
        return cls(**{**line, "point": point, "curve": curve})


def _point(line: Mapping[str, Any]) -> CurvePoint:
    costs = {name: Estimate(**line[name]) for name in ("divergence", "growth")}
    effects, hits = tuple(line["effects"]), tuple(map(bool, decode_scores(line["hits"])))
    return CurvePoint(**{**line, **costs, "effects": effects, "hits": hits})


def difference(one: Entry, other: Entry, spread: float = 1.0) -> Interval:
    """By how much one line's effect is above another's, on the same prompts.

    Args:
        one: A line.
        other: Another one.
        spread: Length of the range that the effect's measure has.
    """
    found = mean_difference(
        *([value / spread for value in entry.point.effects] for entry in (one, other))
    )
    return Interval(*(spread * value for value in (found.value, found.low, found.high)))


def differences(one: Entry, other: Entry) -> list[float]:
    """The differences of effects, by prompt."""
    pairs = zip(one.point.effects, other.point.effects, strict=True)
    return [first - second for first, second in pairs]


def best_of(entries: Sequence[Entry], *, lower_is_better: bool) -> Entry:
    """The line with the best effect on the calibration half; the first of equals."""
    sign = -1 if lower_is_better else 1
    return max(entries, key=lambda one: sign * one.chosen_effect)
