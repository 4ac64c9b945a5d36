"""What was measured, with what a raw percentage hides: its ceiling, and random suites of its size.

A random suite of the same size tells what coverage is worth: where as many training inputs drawn at
random, or images of noise, score the same, the value says little of this suite.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aim_plugins.core.errors import first_few
from aim_plugins.coverage.criteria.combinations import IDC
from aim_plugins.coverage.criteria.criterion import Criterion, FixedUnits, UnitCriterion
from aim_plugins.coverage.profile import ALL, Profile
from aim_plugins.coverage.reference import Reference
from aim_plugins.coverage.registry import idc_label
from aim_plugins.coverage.settings import BEYOND_TRAINING
from aim_plugins.sweep.formats import format_value
from aim_plugins.sweep.intervals import student_reach

END2END = "end to end"
"""The set of important neurons of all layers."""

TRAINING, NOISE = "training", "noise"
"""Kinds of random suites."""


@dataclass(frozen=True)
class Words:
    """What a suite is compared with, in words.

    Attributes:
        training: Inputs of the kind `TRAINING`.
        noise: Inputs of the kind `NOISE`, in a table.
        noises: The same in a sentence.
        trained: What ranges are learned from.
        judged: How an input comes to its class.
    """

    training: str = "random training inputs"
    noise: str = "uniform noise"
    noises: str = "images of uniform noise"
    trained: str = "training inputs"
    judged: str = "the model predicts to be of it"


IMAGES = Words()
"""The words of a classifier of images."""


@dataclass(frozen=True)
class Spread:
    """A value over random suites.

    Attributes:
        mean: Its mean.
        low: Lower end of the 95 % prediction interval for one more suite; NaN of a single suite.
        high: Its upper end.
        suites: Number of suites.
    """

    mean: float
    low: float
    high: float
    suites: int

    @classmethod
    def of(cls, values: Sequence[float], most: float = math.inf) -> Spread:
        """The spread of values, as of normal ones.

        Args:
            values: One of each suite.
            most: The largest value that a suite can have; the least is 0.

        >>> Spread.of([11.0, 12.0, 13.0]).low
        7.03...
        """
        mean = statistics.fmean(values)
        # One more suite scatters by itself, besides the error of the mean.
        reach = student_reach(values) * math.sqrt(len(values) + 1)
        if math.isnan(reach):
            return cls(mean, math.nan, math.nan, len(values))
        return cls(mean, max(0.0, mean - reach), min(most, mean + reach), len(values))

    def holds(self, value: float) -> bool:
        """Whether a value lies in the interval."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Result:
    """One criterion of a suite.

    Attributes:
        label: Its name, and for IDC the set of neurons.
        value: Coverage.
        unit: "share" of all units, "count" of units, or "" where it is neither.
        ceiling: The largest value that a suite of this size can have; inf where nothing bounds it.
        total: Number of all units; None where nobody can list them.
        summary: What it counts.
        source: The paper.
        random: Spread over random suites of this size, by kind.
        by_layer: Coverage of each layer.
        by_class: Coverage by inputs of each class.
        training: Coverage by the whole training set; None where it is not known.
    """

    label: str
    value: float
    unit: str
    ceiling: float
    total: int | None
    summary: str
    source: str
    random: Mapping[str, Spread]
    by_layer: Mapping[str, float]
    by_class: Mapping[str, float]
    training: float | None = None

    @property
    def is_part(self) -> bool:
        """Whether it is the IDC of a further layer or class, beside the criteria themselves."""
        return self.label.startswith("IDC ") and not self.label.endswith(END2END)

    @property
    def of_ceiling(self) -> float:
        """The value as a share of its ceiling; NaN where nothing bounds it."""
        return self.value / self.ceiling if 0 < self.ceiling < math.inf else math.nan


def unit_of(criterion: Criterion) -> str:
    """What a criterion's value is: a share, a count, or neither."""
    if isinstance(criterion, FixedUnits | IDC):
        return "share"
    return "count" if isinstance(criterion, UnitCriterion) else ""


def total_of(criterion: Criterion) -> int | None:
    """The number of all units that a criterion has; None where nobody can list them."""
    if isinstance(criterion, FixedUnits):
        return len(criterion.reached)
    return criterion.total if isinstance(criterion, IDC) else None


def show_value(value: float, unit: str = "share") -> str:
    """A value for readers: counts whole, others with three decimals or five digits.

    >>> show_value(0.25), show_value(1000.0, "count"), show_value(math.nan)
    ('0.250', '1000', '–')
    """
    if not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if unit == "count" or value.is_integer() else format_value(value)


def collect(
    profile: Profile,
    random: Mapping[str, Sequence[Mapping[str, float]]],
    training: Mapping[str, float],
) -> list[Result]:
    """The results of a suite.

    Args:
        profile: What the suite has exercised.
        random: By kind, the values by label of each random suite.
        training: Values of the whole training set by label, where known.
    """
    classes = {
        name.removeprefix("class "): criteria
        for name, criteria in profile.scopes.items()
        if name != ALL
    }
    results = []
    for label, criterion in profile.criteria.items():
        spreads = {
            kind: Spread.of([one[label] for one in suites], criterion.ceiling(criterion.inputs))
            for kind, suites in random.items()
            if suites and not (kind == TRAINING and criterion.name in BEYOND_TRAINING)
        }
        results.append(
            Result(
                label,
                criterion.value,
                unit_of(criterion),
                criterion.ceiling(criterion.inputs),
                total_of(criterion),
                criterion.summary,
                criterion.source,
                spreads,
                dict(criterion.by_layer()),
                {name: own[label].value for name, own in classes.items() if label in own},
                training.get(label),
            )
        )
    return results


def training_values(reference: Reference) -> dict[str, float]:
    """What the training set itself reaches of IDC, by label."""
    return {
        idc_label(place, one.neurons.label): len(one.reached.codes) / one.neurons.combinations
        for place, one in enumerate(reference.important)
    }


def readings(results: Sequence[Result], words: Words = IMAGES) -> list[str]:
    """What to make of the values, in sentences; each rests on numbers of the table."""
    sentences = []
    for kind, what in ((NOISE, words.noises), (TRAINING, words.training)):
        compared = [one for one in results if kind in one.random]
        if not compared:
            continue
        alike = [one.label for one in compared if one.random[kind].holds(one.value)]
        above = [one.label for one in compared if one.random[kind].low > one.value]
        if kind == NOISE and (blind := alike + above):
            sentences.append(
                f"{first_few(blind, 12)}: {what} score higher than this suite or cannot be told "
                "from it, so that a high value does not speak for its inputs."
            )
        if kind == TRAINING:
            below = [one.label for one in compared if one.random[kind].high < one.value]
            if alike:
                sentences.append(
                    f"{first_few(alike, 12)}: the suite cannot be told from {what} of its size."
                )
            if above:
                sentences.append(
                    f"{first_few(above, 12)}: the suite covers less than {what} of its size."
                )
            if below:
                sentences.append(
                    f"{first_few(below, 12)}: the suite covers more than {what} of its size."
                )
    full = [one.label for one in results if one.of_ceiling > 0.99 and one.unit == "count"]
    if full:
        sentences.append(
            f"{first_few(full, 12)}: nearly every input counts as new, so that the value is the "
            "number of inputs."
        )
    return sentences


def missed(results: Sequence[Result], least: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """By criterion, its coverage and the least that was asked for, where it is below."""
    found = {one.label: one.value for one in results}
    return {name: (found[name], end) for name, end in least.items() if found[name] < end}


def to_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The results as JSON, whose numbers that are none are null."""
    return [_plain(asdict(one)) for one in results]


def format_csv(results: Sequence[Result]) -> str:
    """A line for each value: of all inputs, of each layer, of each class, and of random suites."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["criterion", "scope", "value", "low", "high", "ceiling", "total", "unit"])
    for one in results:
        total = "" if one.total is None else one.total
        ceiling = repr(one.ceiling) if math.isfinite(one.ceiling) else ""
        writer.writerow([one.label, "all", repr(one.value), "", "", ceiling, total, one.unit])
        for kind, spread in one.random.items():
            numbers = [repr(spread.mean), repr(spread.low), repr(spread.high)]
            writer.writerow([one.label, f"random {kind}", *numbers, ceiling, total, one.unit])
        for scope, values in (("layer", one.by_layer), ("class", one.by_class)):
            for name, value in values.items():
                row = [one.label, f"{scope} {name}", repr(value), "", "", "", "", one.unit]
                writer.writerow(row)
    return text.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
