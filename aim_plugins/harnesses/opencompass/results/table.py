"""OpenCompass's results as the tidy table of a sweep, and as strengths by data sets."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aim_plugins.core.strengths import format_strength
from aim_plugins.engines.engine import Modulation, SweptName, by_transport, swept_strength
from aim_plugins.harnesses.opencompass.config.entries import SweepGroup, entry_abbr
from aim_plugins.harnesses.opencompass.results.scores import decode_scores, mean_stderr
from aim_plugins.sweep.plots import STRENGTH_LABEL, TRANSPORT_LABEL
from aim_plugins.sweep.table import Row, is_expected

Key = tuple[str, str]
"""A data set or a group of them, and a metric."""


@dataclass(frozen=True)
class Measure:
    """One metric of one model entry on one data set.

    Attributes:
        value: The value as OpenCompass reports it.
        n: Number of documents.
        scale: What the value is for a perfect score, 100 or 1; None if it is no mean of scores.
        stderr: Standard error of the value, on its scale; None where unknown.
        chance: Share that guessing reaches; None where unknown.
    """

    value: float
    n: int
    scale: float | None = None
    stderr: float | None = None
    chance: float | None = None


@dataclass(frozen=True)
class Sweep:
    """Model entries that make one curve for each data set.

    Attributes:
        name: Name of its folder.
        abbrs: The entries' names, strengths and draws in the order of the config.
        columns: The modulation of each entry.
        draws: The draw of each entry, counted from 0 at every strength; seeds have one order, that
            in which they first appear in the sweep.
        swept: Which attribute of the columns is the strength; the other one is fixed.
    """

    name: str
    abbrs: tuple[str, ...]
    columns: tuple[Modulation, ...]
    draws: tuple[int, ...]
    swept: SweptName = "std"

    @property
    def strengths(self) -> list[float]:
        """The strengths, rising."""
        return sorted({self.strength(column) for column in self.columns})

    @property
    def strength_label(self) -> str:
        """Names the strength in pictures."""
        return TRANSPORT_LABEL if self.swept == "transport_strength" else STRENGTH_LABEL

    def strength(self, column: Modulation) -> float:
        """The place of a column on the axis of strengths."""
        return getattr(column, self.swept)

    def entries(self) -> Iterable[tuple[str, Modulation, int]]:
        """Name, modulation and draw of each entry."""
        return zip(self.abbrs, self.columns, self.draws, strict=True)


_Members = Sequence[tuple[str, Modulation]]


def split_sweeps(group: SweepGroup) -> list[Sweep]:
    """The curves of a group: a sweep varies one strength and fixes all else.

    Where both the noise and the transport have several strengths, the one with more of them is the
    axis, in a tie the transport's, and each strength of the other one has a sweep. Each mean of the
    noise has a sweep too; what has no noise is part of all of them.
    """
    members = [
        (entry_abbr(entry), column)
        for entry, column in zip(group.entries, group.columns, strict=True)
    ]
    stds = list(dict.fromkeys(column.std for _, column in members))
    strengths = list(by_transport(group.columns))
    if len(stds) == 1 or len(strengths) == 1:
        return _split_means(group.name, members, swept_strength(group.columns))
    swept: SweptName = "std" if len(stds) > len(strengths) else "transport_strength"
    fixed, label, values = (
        ("transport_strength", "strength", strengths) if swept == "std" else ("std", "noise", stds)
    )
    sweeps = []
    for value in values:
        part = [member for member in members if getattr(member[1], fixed) == value]
        sweeps += _split_means(f"{group.name}-{label}={format_strength(value)}", part, swept)
    return sweeps


def _split_means(name: str, members: _Members, swept: SweptName) -> list[Sweep]:
    means = list(dict.fromkeys(column.mean for _, column in members if column.has_noise))
    if len(means) <= 1:
        return [_sweep(name, members, swept)]
    return [
        _sweep(
            f"{name}-mean={format_strength(mean)}",
            [member for member in members if not member[1].has_noise or member[1].mean == mean],
            swept,
        )
        for mean in means
    ]


def _sweep(name: str, members: _Members, swept: SweptName) -> Sweep:
    columns = tuple(column for _, column in members)
    seeds = list(dict.fromkeys(column.seed for column in columns))
    # Two means of a strength of 0 can share a seed.
    order = [(seeds.index(column.seed), index) for index, column in enumerate(columns)]
    draws = tuple(
        sum(
            getattr(other, swept) == getattr(column, swept) and order[rival] < order[index]
            for rival, other in enumerate(columns)
        )
        for index, column in enumerate(columns)
    )
    return Sweep(name, tuple(abbr for abbr, _ in members), columns, draws, swept)


def measure(
    value: float, statistics: Mapping[str, Any], metric: str, chance: float | None
) -> Measure:
    """Reads what the evaluation noted about a metric.

    Args:
        value: The metric's value in OpenCompass's results.
        statistics: The statistics beside the result.
        metric: Name of the metric.
        chance: Share that guessing reaches.
    """
    found = statistics["metrics"].get(metric)
    if found is None:
        return Measure(value, statistics["documents"])
    scores = decode_scores(found["scores"])
    stderr = mean_stderr(scores)
    return Measure(
        value,
        len(scores),
        found["scale"],
        None if stderr is None else found["scale"] * stderr,
        chance,
    )


def measure_expected(statistics: Mapping[str, Any], metric: str) -> Measure | None:
    """Reads the exact law of a metric; None where it has none."""
    found = statistics.get("expected", {}).get(metric)
    if found is None:
        return None
    scores, scale = found["scores"], found["scale"]
    stderr = mean_stderr(scores)
    value = scale * math.fsum(scores) / len(scores)
    return Measure(value, len(scores), scale, None if stderr is None else scale * stderr)


def measure_group(
    group: Mapping[str, Any],
    metric: str,
    value: float,
    measures: Mapping[Key, Measure],
    defaults: Mapping[str, str],
) -> Measure:
    """The error of an average over data sets, whose documents are independent.

    Args:
        group: A summary group of OpenCompass.
        metric: Name of the group's metric.
        value: Its value, as OpenCompass computes it.
        measures: Measures of the same entry on the group's subsets.
        defaults: The metric that counts, of each data set.

    Returns:
        The measure. Its error is unknown where a subset's is, and where the value is no average.
    """
    keys = [_subset_key(subset, metric, measures, defaults) for subset in group["subsets"]]
    average = _average(group, keys, [measures[key] for key in keys])
    # OpenCompass also forms sums, deviations and harmonic means.
    if average.scale is None or not math.isclose(average.value, value, abs_tol=1e-9):
        return Measure(value, average.n)
    return replace(average, value=value)


def measure_expected_group(
    group: Mapping[str, Any],
    metric: str,
    measures: Mapping[Key, Measure],
    defaults: Mapping[str, str],
) -> Measure | None:
    """The exact law of an average over data sets; None where a subset has none.

    Args:
        group: A summary group of OpenCompass whose value is an average.
        metric: Name of the group's metric.
        measures: Measures of one entry on the group's subsets.
        defaults: The metric that counts, of each data set.
    """
    keys = [_subset_key(subset, metric, measures, defaults) for subset in group["subsets"]]
    laws = [measures.get((dataset, f"{name}_expected")) for dataset, name in keys]
    known = [law for law in laws if law is not None]
    return _average(group, keys, known) if len(known) == len(keys) else None


def _average(group: Mapping[str, Any], keys: Sequence[Key], terms: Sequence[Measure]) -> Measure:
    """The weighted mean of independent measures; without a scale where theirs differ."""
    weights = _weights(group, keys)

    def mean(values: Sequence[float]) -> float:
        pairs = zip(weights, values, strict=True)
        return math.fsum(weight * value for weight, value in pairs if weight)

    average = Measure(mean([term.value for term in terms]), sum(term.n for term in terms))
    scales = {term.scale for term in terms}
    if len(scales) > 1:
        return average
    errors = [term.stderr for term in terms if term.stderr is not None]
    levels = [term.chance for term in terms if term.chance is not None]
    stderr = chance = None
    if len(errors) == len(terms):
        stderr = math.hypot(*(w * error for w, error in zip(weights, errors, strict=True)))
    if len(levels) == len(terms):
        chance = mean(levels)
    return replace(average, scale=scales.pop(), stderr=stderr, chance=chance)


def _subset_key(
    subset: str | Sequence[str],
    metric: str,
    measures: Mapping[Key, Measure],
    defaults: Mapping[str, str],
) -> Key:
    if not isinstance(subset, str):
        return subset[0], subset[1]
    return (subset, metric) if (subset, metric) in measures else (subset, defaults[subset])


def _weights(group: Mapping[str, Any], keys: Sequence[Key]) -> list[float]:
    given = group.get("weights")
    if not given:
        return [1 / len(keys)] * len(keys)
    total = math.fsum(given.values())
    return [given.get("@".join(key), given.get(key[0], 0)) / total for key in keys]


def unify_scales(entries: Sequence[dict[Key, Measure]]) -> None:
    """Makes each metric a share in all entries of a config, or in none.

    That a value is the mean of known scores may be chance: an F1 of 100 is, and one of 85 is not.
    A value of 0 fits any scale.

    Args:
        entries: Measures of each entry, changed in place.
    """
    for key in {key: None for measures in entries for key in measures}:
        members = [(measures, measures[key]) for measures in entries if key in measures]
        scales = {member.scale for _, member in members if member.value != 0}
        scales = scales or {members[0][1].scale}
        scale = scales.pop() if len(scales) == 1 else None
        for measures, member in members:
            if scale is None:
                measures[key] = Measure(member.value, member.n)
            elif member.scale != scale:  # a zero
                measures[key] = replace(member, scale=scale)


def tidy_rows(sweep: Sweep, measures: Mapping[str, Mapping[Key, Measure]]) -> list[Row]:
    """Rows of the tidy table: shares where the scale is known, else values as reported.

    Args:
        sweep: The sweep.
        measures: Measures by entry; the order of their keys is that of the rows.
    """
    order = {key: None for abbr in sweep.abbrs for key in measures[abbr]}
    rows = []
    for task, metric in order:
        cells = {}
        for abbr, column, draw in sweep.entries():
            found = measures[abbr].get((task, metric))
            if found is None:
                continue
            scale = found.scale or 1.0
            stderr = None if found.stderr is None else found.stderr / scale
            number = None if is_expected(metric) else draw  # one law for all draws
            strength = sweep.strength(column)
            cells[strength, number or 0] = Row(
                task, metric, strength, number, found.value / scale, stderr, found.n
            )
        rows += [cells[place] for place in sorted(cells)]
    return rows


def chance_levels(sweep: Sweep, measures: Mapping[str, Mapping[Key, Measure]]) -> dict[Key, float]:
    """Share that guessing reaches, where it is known."""
    return {
        key: found.chance
        for abbr in sweep.abbrs
        for key, found in measures[abbr].items()
        if found.chance is not None and found.scale is not None
    }


def strengths_csv(
    sweep: Sweep, measures: Mapping[str, Mapping[Key, Measure]], columns: Mapping[str, Key]
) -> str:
    """Strengths by data sets: means over draws on OpenCompass's own scale, empty where missing.

    Args:
        sweep: The sweep.
        measures: Measures by entry.
        columns: Data set and metric of each column, by the column's title.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["strength", *columns])
    for strength in sweep.strengths:
        abbrs = [abbr for abbr, column, _ in sweep.entries() if sweep.strength(column) == strength]
        cells = []
        for key in columns.values():
            found = [measures[abbr][key].value for abbr in abbrs if key in measures[abbr]]
            cells.append(repr(math.fsum(found) / len(found)) if found else "")
        writer.writerow([format_strength(strength), *cells])
    return text.getvalue()
