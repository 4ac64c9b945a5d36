"""What scores of images say: which strength has what effect, at what similarity, and if it shows.

Each image is its own control: it is compared with the one of the same noise at strength 0.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from aim_plugins.core.strengths import format_strength
from aim_plugins.sweep.formats import interval_texts
from aim_plugins.sweep.paired import LEVEL, Interval, holm, show_p, sign_flip_p
from aim_plugins.sweep.table import table_cell
from vision_bench.text_to_image.scores import (
    DIRECTION,
    IMAGE,
    PRESENCE,
    PROMPT,
    TARGET,
    ImageScores,
)

EFFECTS = (PRESENCE, TARGET)
"""What tells how much of its effect a transport has; the first that there is."""

_COLUMNS = "metric,strength,n,value,low,high,difference,difference_low,difference_high,p"


@dataclass(frozen=True)
class Change:
    """A score at a strength, beside that at 0.

    Attributes:
        strength: The strength.
        value: Its mean.
        difference: By how much that is above the mean at 0, in pairs.
        p: How likely a difference as large is by chance, corrected for the number of strengths.
    """

    strength: float
    value: Interval
    difference: Interval
    p: float

    @property
    def is_clear(self) -> bool:
        """Whether p as it is shown is below 0.05."""
        return float(f"{self.p:.2g}") < LEVEL


def changes(scores: ImageScores, metric: str) -> list[Change]:
    """A score at every strength other than 0, beside that at 0, by rising strength.

    The p are those of `sign_flip_p`, corrected by `holm`, so that strengths may be picked among
    them.

    Args:
        scores: The scores.
        metric: One of them that has a value at 0.
    """
    values, differences = scores.means(metric), scores.changes(metric)
    columns = dict(zip(scores.strengths, scores.values[metric].T.tolist(), strict=True))
    strengths = sorted(differences)
    plain = columns[0.0]
    # One image has a sign of its own: nothing can be told of others.
    tested = len(plain) > 1
    chances = holm([sign_flip_p(columns[one], plain) if tested else 1.0 for one in strengths])
    return [
        Change(one, values[one], differences[one], p)
        for one, p in zip(strengths, chances, strict=True)
    ]


def by_prompt(scores: ImageScores, per_prompt: int) -> ImageScores:
    """Scores averaged over a prompt's images, which are no independent ones.

    Of a single prompt the images stay as they are: what is drawn is noise alone.

    Args:
        scores: The scores; images of a prompt follow each other.
        per_prompt: Images of each prompt.
    """
    count = len(next(iter(scores.values.values())))
    if per_prompt == 1 or count == per_prompt:
        return scores
    averaged = {
        metric: table.unflatten(0, (-1, per_prompt)).mean(1)
        for metric, table in scores.values.items()
    }
    return ImageScores(scores.strengths, averaged)


def effect_of(scores: ImageScores) -> str | None:
    """The metric that tells how much of its effect a transport has; None if none does."""
    return next((metric for metric in EFFECTS if metric in scores.values), None)


def headline(scores: ImageScores, concept: str | None) -> str:
    """Says which strength has what effect at what similarity, and whether it shows.

    The strength furthest from 0 stands for the effect, as it is known before anything is measured;
    then the first one on the way to it that has half of it.

    Args:
        scores: The scores.
        concept: What the transport leads into images or out of them.
    """
    full = max(scores.strengths, key=lambda one: (abs(one), one))
    if full == 0:
        return "λ = 0 is the only strength: there is nothing to compare."
    metric, end_name = effect_of(scores), _name(full)
    if metric is None:
        return (
            f"At {end_name} images have {_similarities(scores, full)}; how much of the effect "
            "that buys is unknown, as no concept is named."
        )
    effect = f"presence of {concept!r}" if metric == PRESENCE else "similarity to the target text"
    start = shown(scores.means(metric)[0.0])
    found = [one for one in changes(scores, metric) if one.strength * full > 0]
    found.sort(key=lambda one: abs(one.strength))
    end = found[-1]
    pairs = f"{signed(end.difference)} in pairs, {show_p(end.p)}"
    reached = f"at {_similarities(scores, full)}"
    if not end.is_clear:
        return (
            f"The {effect} at {end_name}, {shown(end.value)}, cannot be told apart from that at "
            f"λ = 0, {start} ({pairs}), {reached}.{_where_clear(found)}"
        )
    verb = "rises" if end.difference.value > 0 else "falls"
    half = next(one for one in found if one.difference.value / end.difference.value >= 0.5)
    middle = ""
    if half is not end:
        middle = (
            f"; half of that is reached at {_name(half.strength)}, with "
            f"{_similarities(scores, half.strength)}"
        )
    return (
        f"The {effect} {verb} from {start} at λ = 0 to {shown(end.value)} at {end_name} ({pairs}), "
        f"{reached}{middle}.{_where_clear(found)}"
    )


def differences_csv(scores: ImageScores) -> str:
    """Every score that has a value at 0, but the similarity to it, beside that value, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS.split(","))
    for metric, table in scores.values.items():
        if metric in (IMAGE, DIRECTION):
            continue
        for one in changes(scores, metric):
            value, gain = one.value, one.difference
            cells = [
                *(one.strength, len(table), value.value, value.low, value.high),
                *(gain.value, gain.low, gain.high, one.p),
            ]
            writer.writerow([metric, *map(table_cell, cells)])
    return text.getvalue()


def shown(one: Interval, sign: str = "") -> str:
    """A mean with its interval, where that is known.

    >>> shown(Interval(0.5, 0.25, 0.75)), shown(Interval(1.0, *[float("nan")] * 2))
    ('0.500 [0.250, 0.750]', '1.000')
    """
    return " ".join(filter(None, interval_texts(one.value, one.low, one.high, sign)))


def signed(one: Interval) -> str:
    """A difference with its interval."""
    return shown(one, "+")


def _similarities(scores: ImageScores, strength: float) -> str:
    image, prompt = (scores.means(metric)[strength] for metric in (IMAGE, PROMPT))
    change = signed(scores.changes(PROMPT)[strength])
    return f"image similarity {shown(image)} and prompt similarity {shown(prompt)} ({change})"


def _where_clear(found: Sequence[Change]) -> str:
    """At which of several strengths, of rising distance from 0, the effect can be told apart."""
    clear = [one for one in found if one.is_clear]
    if not clear or len(found) == 1:
        return ""
    if clear == list(found):
        where = "At every strength"
    elif clear == found[-len(clear) :]:
        where = f"From {_name(clear[0].strength)} on"
    else:
        where = f"At λ = {', '.join(format_strength(one.strength) for one in clear)}"
    return f" {where} it differs from that at λ = 0 (p < {LEVEL}, corrected by Holm)."


def _name(strength: float) -> str:
    return f"λ = {format_strength(strength)}"
