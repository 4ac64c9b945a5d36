"""Several evaluated transports in one report: effect against strength, and against its cost.

FOLDER/
  compare.csv       for each transport its best strength within a bound on the perplexity
  effect.png, .svg  effect against strength, all transports
  cost.png, .svg    effect against perplexity as the strength grows
  report.html       both, every curve, and the texts of all beside a slider of strengths
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aim_plugins.core.files import write_atomic
from aim_plugins.core.strengths import format_strength
from aim_plugins.engines.loading import local_name
from aim_plugins.steering.compare.differences import find_difference
from aim_plugins.steering.compare.plots import Line, plot_cost, plot_effect
from aim_plugins.steering.concepts import describe_concept
from aim_plugins.steering.scores import PERPLEXITY, TEXT_PERPLEXITY
from aim_plugins.steering.settings.comparison import CompareSettings, existing_evaluation
from aim_plugins.steering.study import read_samples
from aim_plugins.sweep.formats import estimate_texts
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.report import write_report
from aim_plugins.sweep.table import Point, metric_family, pool_draws, read_table
from aim_plugins.transport.change import Transport

EFFECTS = ("judged_presence", "concept_presence", "sentiment")
"""Metrics taken for the effect, the first that all have; a classifier's label comes before."""
COSTS = (PERPLEXITY, TEXT_PERPLEXITY)
COLLAPSE = "repeated_3grams"
_SHOWN_PROMPTS = 12

Metric = tuple[str, str]
"""Task and metric of a curve."""


@dataclass(frozen=True)
class Evaluated:
    """An evaluated transport.

    Attributes:
        label: How pictures and tables name it.
        folder: Its folder, as `transport evaluate` wrote it.
        curves: Points by rising strength, of each task and metric.
        manifest: What it was evaluated with.
    """

    label: str
    folder: Path
    curves: dict[Metric, list[Point]]
    manifest: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """What was asked for."""
        return self.manifest["arguments"]


@dataclass(frozen=True)
class Best:
    """The strength of a transport with the best effect within a bound on the perplexity.

    Attributes:
        label: The transport.
        effect: The effect there.
        cost: The perplexity there.
        plain_effect: The effect of the plain model.
        plain_cost: The perplexity of the plain model.
        effect_text: The effect there with its interval, for readers.
        cost_text: The perplexity there with its interval.
    """

    label: str
    effect: Point
    cost: Point
    plain_effect: Point
    plain_cost: Point
    effect_text: str
    cost_text: str


def read_evaluated(folders: Sequence[str | Path], labels: Sequence[str] = ()) -> list[Evaluated]:
    """Reads what `transport evaluate` wrote.

    Args:
        folders: The folders.
        labels: A name for each; by default its method, or its folder where methods repeat.

    Raises:
        ValueError: If a folder is not one of an evaluation, or there are not as many labels as
            folders, or two are equal.
    """
    if labels and len(labels) != len(folders):
        raise ValueError(f"labels={list(labels)!r} for {len(folders)} folders: give one for each")
    manifests = [_read_manifest(Path(folder)) for folder in folders]
    methods = [str(one["arguments"].get("method") or "transport") for one in manifests]
    if not labels:
        several = Counter(methods)
        labels = [
            method if several[method] == 1 else Path(folder).resolve().name
            for method, folder in zip(methods, folders, strict=True)
        ]
    if len(set(labels)) < len(labels):
        raise ValueError(f"labels={list(labels)!r} repeat one: tell them apart with --labels")
    found = []
    for folder, label, manifest in zip(map(Path, folders), labels, manifests, strict=True):
        curves: dict[Metric, list[Point]] = {}
        for point in pool_draws(read_table(folder / "sweep.csv")):
            curves.setdefault((point.task, point.metric), []).append(point)
        found.append(Evaluated(label, folder, curves, manifest))
    return found


def choose_metric(
    evaluated: Sequence[Evaluated], asked: str | None, known: Sequence[str], name: str
) -> Metric:
    """Chooses the task and metric that all transports are compared by.

    Args:
        evaluated: The transports.
        asked: A metric, or TASK/METRIC; None takes the first of `known` that all have.
        known: Metrics by preference.
        name: Name of the argument, for the error.

    Raises:
        ValueError: If not all have it; those that all have are named.
    """
    shared = [key for key in evaluated[0].curves if all(key in other.curves for other in evaluated)]
    for wanted in [asked] if asked is not None else known:
        for task, metric in shared:
            if wanted in (metric, f"{task}/{metric}"):
                return task, metric
    there = ", ".join(f"{task}/{metric}" for task, metric in shared) or "none"
    raise ValueError(
        f"{name}={asked!r} was not measured of all transports (all have {there}): choose one of "
        f"these with --{name}, or evaluate them alike"
    )


def refuse_unlike(evaluated: Sequence[Evaluated], metric: Metric, name: str) -> None:
    """Refuses transports whose metric was measured otherwise than that of the first.

    Args:
        evaluated: The transports.
        metric: The metric.
        name: Name of the argument that chooses it, for the error.

    Raises:
        ValueError: If models, texts or settings that determine the metric differ.
    """
    first = evaluated[0]
    for other in evaluated[1:]:
        found = find_difference(first.manifest, other.manifest, *metric)
        if found is not None:
            raise ValueError(
                f"{name}: {'/'.join(metric)} of {first.label!r} and {other.label!r} was measured "
                f"with another {found.name}, {found.one} and {found.other}: evaluate them alike, "
                f"or choose another --{name}"
            )


def best_within(
    one: Evaluated, effect: Metric, cost: Metric, *, bound: float, lower_is_better: bool = False
) -> Best:
    """Finds the strength of the best effect whose perplexity stays within the bound.

    Args:
        one: The transport.
        effect: What should be large.
        cost: The perplexity.
        bound: How much larger than the plain model's it may be; 0.2 is 20 %.
        lower_is_better: Whether the effect should be small, as toxicity.

    Raises:
        ValueError: If strength 0 was not evaluated.
    """
    effects = {point.strength: point for point in one.curves[effect]}
    costs = {point.strength: point for point in one.curves[cost]}
    if 0.0 not in effects or 0.0 not in costs:
        raise ValueError(
            f"{one.folder} lacks strength 0, the plain model that others are held against: "
            "evaluate it with --strength 0:1:0.1"
        )
    limit = (1 + bound) * costs[0.0].value
    sign = -1 if lower_is_better else 1
    fine = [
        strength
        for strength in sorted(effects.keys() & costs.keys(), key=lambda s: (abs(s), s))
        if costs[strength].value <= limit and math.isfinite(effects[strength].value)
    ]
    # Of equal effects the smallest change of the model: max keeps the first.
    best = max(fine, key=lambda strength: sign * effects[strength].value)
    texts = (_text_at(best, one.curves[metric]) for metric in (effect, cost))
    return Best(one.label, effects[best], costs[best], effects[0.0], costs[0.0], *texts)


def compare(settings: CompareSettings, command: Sequence[str]) -> None:
    """Writes pictures, the table of best strengths and the report.

    Raises:
        ValueError: If a folder holds no evaluation, or the transports have no metric in common or
            were measured otherwise.
    """
    evaluated = read_evaluated(settings.folders, settings.labels)
    labelled = [f"{one.arguments.get('label')}_probability" for one in evaluated[:1]]
    chosen = choose_metric(evaluated, settings.effect, [*labelled, *EFFECTS], "effect")
    paid = choose_metric(evaluated, settings.cost, COSTS, "cost")
    refuse_unlike(evaluated, chosen, "effect")
    refuse_unlike(evaluated, paid, "cost")
    bound, lower_is_better = settings.bound, settings.lower_is_better
    found = [
        best_within(one, chosen, paid, bound=bound, lower_is_better=lower_is_better)
        for one in evaluated
    ]
    folder = settings.output
    folder.mkdir(parents=True, exist_ok=True)
    lines = [Line(one.label, one.curves[chosen], one.curves[paid]) for one in evaluated]
    pictures = {
        "effect against strength": plot_effect(lines, folder / "effect"),
        "effect against perplexity": plot_cost(lines, folder / "cost", bound=bound),
    }
    write_atomic(folder / "compare.csv", best_csv(found, bound))
    columns, rows = best_table(found, bound)
    overview = Overview(
        title="Comparison",
        note=_note(found, bound, lower_is_better),
        pictures=pictures,
        columns=columns,
        rows=rows,
        data=f"{chosen[1]} of {chosen[0]}, {paid[1]} of {paid[0]}",
        noun="transport",
    )
    print(_layout([columns, *rows]))
    report = write_report(
        folder,
        _renamed_points(evaluated, [chosen, paid]),
        _manifest(evaluated, command),
        {one.label: read_samples(one.folder, _SHOWN_PROMPTS) for one in evaluated},
        axes=[Transport.axis],
        subject=describe_concept(evaluated[0].arguments),  # all transports have the same
        overview=overview,
    )
    print("", f"pictures: {folder}", f"report:   {report}", sep="\n")


def best_csv(found: Sequence[Best], bound: float) -> str:
    """The table of best strengths as CSV; floats read back exactly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["transport", "bound", "strength", "effect", "effect_stderr", "effect_n", "plain_effect"]
        + ["cost", "cost_stderr", "cost_n", "plain_cost"]
    )
    for best in found:
        effect, cost = best.effect, best.cost
        numbers: list[Any] = [bound, effect.strength, effect.value, effect.stderr, effect.n]
        numbers += [best.plain_effect.value, cost.value, cost.stderr, cost.n, best.plain_cost.value]
        writer.writerow([best.label, *("" if one is None else repr(one) for one in numbers)])
    return text.getvalue()


def best_table(found: Sequence[Best], bound: float) -> tuple[list[str], list[list[str]]]:
    """The table of best strengths for readers: headings and lines."""
    effect, cost = found[0].effect.metric, found[0].cost.metric
    columns = ["transport", f"best λ within +{bound:.0%}", effect, "plain", cost, "change", "n"]
    rows = [
        [
            best.label,
            format_strength(best.effect.strength),
            best.effect_text,
            f"{best.plain_effect.value:.3f}",
            best.cost_text,
            f"{best.cost.value / best.plain_cost.value - 1:+.1%}",
            f"{best.effect.n}, {best.cost.n}",
        ]
        for best in found
    ]
    return columns, rows


def _note(found: Sequence[Best], bound: float, lower_is_better: bool) -> str:
    effect, cost = found[0].effect, found[0].cost
    wanted = "lowest" if lower_is_better else "highest"
    return (
        f"The best λ has the {wanted} {effect.metric} of {effect.task} among the strengths whose "
        f"{cost.metric} of {cost.task} is at most {bound:.0%} above the plain model's (λ = 0). "
        "In brackets are 95 % intervals over documents; n counts those of either. The best of "
        "several noisy values looks better than it is."
    )


def _read_manifest(folder: Path) -> dict[str, Any]:
    existing_evaluation(folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        arguments = manifest["arguments"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'manifest.json'} is no manifest ({error})") from error
    if not isinstance(arguments, dict) or arguments.get("command") != "transport evaluate":
        raise ValueError(f"{str(folder)!r} holds another sweep than one of `transport evaluate`")
    return manifest


def _renamed_points(evaluated: Sequence[Evaluated], metrics: Sequence[Metric]) -> list[Point]:
    """Curves of the metrics that are compared, with the transport in the place of the task.

    It is called a transport, because a method may have the name of a statistic, as the mean.
    """
    points = []
    for one in evaluated:
        shown = [*metrics, *(key for key in one.curves if key[1] == COLLAPSE)]
        for key in dict.fromkeys(shown):
            points += [
                Point(
                    f"{one.label} transport",
                    metric_family(key[1]),
                    point.strength,
                    point.value,
                    point.stderr,
                    point.n,
                    point.draws,
                )
                for point in one.curves[key]
            ]
    return points


def _manifest(evaluated: Sequence[Evaluated], command: Sequence[str]) -> dict[str, Any]:
    models = dict.fromkeys(str(one.arguments.get("pretrained")) for one in evaluated)
    return {
        "model": ", ".join(Path(local_name(model)).name for model in models),
        "command": list(command),
        "transports": {
            one.label: {"folder": str(one.folder), **one.arguments} for one in evaluated
        },
    }


def _text_at(strength: float, curve: Sequence[Point]) -> str:
    """A value of a curve with its interval, which the whole curve decides."""
    texts = zip(curve, estimate_texts(curve), strict=True)
    return next(" ".join(pair).rstrip() for point, pair in texts if point.strength == strength)


def _layout(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
