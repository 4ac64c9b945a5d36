"""OpenCompass's results as the tidy table of a sweep, and as strengths by data sets."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from aim_plugins.core.files import safe_name
from aim_plugins.core.strengths import Axis, format_strength
from aim_plugins.harnesses.opencompass.config.entries import SweepGroup, entry_abbr
from aim_plugins.harnesses.opencompass.results.scores import is_number, mean_stderr
from aim_plugins.modulation.arguments import swept_kinds
from aim_plugins.modulation.changes import Change, kinds
from aim_plugins.modulation.columns import Column
from aim_plugins.sweep.documents import decode_scores
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
    """Model entries that make one curve for each data set, or one heat map.

    Attributes:
        name: Name of its folder.
        abbrs: The entries' names, in the order of the config.
        columns: The modulation of each entry.
        kinds: The kinds of change whose strengths vary, one or two.
        fixed: What a modulation sets beside its strengths, where it sets anything.
    """

    name: str
    abbrs: tuple[str, ...]
    columns: tuple[Column, ...]
    kinds: tuple[type[Change], ...]
    fixed: Mapping[str, Any]

    @property
    def axes(self) -> list[Axis]:
        """What varies."""
        return [kind.axis for kind in self.kinds]

    def strengths(self, column: Column) -> tuple[float, ...]:
        """The place of a column along each axis."""
        return tuple(column.strength_of(kind) for kind in self.kinds)

    @cached_property
    def draws(self) -> tuple[int, ...]:
        """The draw of each entry, counted from 0 at every strength.

        Seeds have one order, that in which they first appear in the sweep.
        """
        seeds = list(dict.fromkeys(column.seed for column in self.columns))
        counts: Counter[tuple[float, ...]] = Counter()
        draws = [0] * len(self.columns)
        for index in sorted(range(len(draws)), key=lambda i: seeds.index(self.columns[i].seed)):
            place = self.strengths(self.columns[index])
            draws[index] = counts[place]
            counts[place] += 1
        return tuple(draws)

    def entries(self) -> Iterable[tuple[str, Column, int]]:
        """Name, modulation and draw of each entry."""
        return zip(self.abbrs, self.columns, self.draws, strict=True)


def split_sweeps(group: SweepGroup) -> list[Sweep]:
    """The sweeps of a group: each varies one strength or two and fixes all else.

    Each mean of the noise, or whatever else a modulation sets beside its strength, has a sweep, and
    so has each strength of a third kind of change. What sets nothing of it, such as the model
    without noise, is part of all of them.
    """
    swept = swept_kinds(group.columns)
    settings = [_fixed_settings(column, swept[2:]) for column in group.columns]
    whole = [one for one in dict.fromkeys(settings) if not any(one < other for other in settings)]
    common = frozenset.intersection(*whole)
    sweeps = []
    for fixed in whole:
        labels = "".join(_label(*setting) for setting in sorted(fixed - common))
        members = [index for index, one in enumerate(settings) if one <= fixed]
        abbrs = tuple(entry_abbr(group.entries[index]) for index in members)
        columns = tuple(group.columns[index] for index in members)
        sweeps.append(Sweep(safe_name(group.name + labels), abbrs, columns, swept[:2], dict(fixed)))
    return sweeps


def _fixed_settings(column: Column, others: Sequence[type[Change]]) -> frozenset[tuple[str, Any]]:
    """What a column sets beside its strengths and its seed, and its strengths of other kinds."""
    return frozenset(
        (name, value)
        for change in column.effective.changes
        for name, value in change.settings.items()
        if name != next(iter(change.arguments))
    ) | {(next(iter(kind.arguments)), column.strength_of(kind)) for kind in others}


def _label(name: str, value: Any) -> str:
    """A setting in the name of a folder, without its kind: the mean of noise is `-mean=0.5`."""
    for kind in kinds():
        if name in kind.arguments:
            name = name.removeprefix(f"{kind.name}_")
    return f"-{name}={format_strength(value) if is_number(value) else value}"


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
            first, *second = sweep.strengths(column)
            place = (*second, first, number or 0)
            value = found.value / scale
            cells[place] = Row(task, metric, first, number, value, stderr, found.n, *second)
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
    names = ["strength"] if len(sweep.axes) == 1 else [axis.name for axis in sweep.axes]
    writer.writerow([*names, *columns])
    members: dict[tuple[float, ...], list[str]] = {}
    for abbr, column, _ in sweep.entries():
        members.setdefault(sweep.strengths(column), []).append(abbr)
    for strengths in sorted(members, key=lambda one: one[::-1]):
        abbrs, cells = members[strengths], []
        for key in columns.values():
            found = [measures[abbr][key].value for abbr in abbrs if key in measures[abbr]]
            cells.append(repr(math.fsum(found) / len(found)) if found else "")
        writer.writerow([*map(format_strength, strengths), *cells])
    return text.getvalue()
