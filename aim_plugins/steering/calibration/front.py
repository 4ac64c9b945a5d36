"""What a calibration shows: terminal, files, pictures, and the report page."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aim_plugins.steering.calibration.entries import Entry
from aim_plugins.steering.calibration.findings import (
    Findings,
    cost_interval,
    headline,
    sentences,
    shown,
    shown_sites,
    shown_strength,
)
from aim_plugins.steering.calibration.pictures import draw_curves, draw_equal
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.page import Page, Section, Table, publish_page
from aim_plugins.sweep.paired import Interval, in_points, show_p

_SHOWN_SITES = 6
"""Choices of sites that the screen's table has, the best of each method."""
_COST = 4
"""Column of the table that the cost on a task takes."""


def publish(folder: Path, found: Findings, manifest: Mapping[str, Any]) -> Path:
    """Writes and prints everything; returns the report's path.

    Args:
        folder: The study's folder.
        found: What it found.
        manifest: Its manifest.

    Raises:
        OSError: If a file cannot be written.
    """
    drawn = {"equal": draw_equal(found), "curves": draw_curves(found)}
    pictures = {
        f"{name}.{kind}": content
        for name, files in drawn.items()
        for kind, content in files.items()
    }
    table = _table(found)
    sections = [
        Section(
            "At one budget",
            _note(found),
            pictures={f"effect at {found.settings.budget_text}": drawn["equal"]["png"]},
            tables=[table],
        ),
        Section("What follows", "", sentences(found)),
        Section(
            "Effect and cost",
            "The strengths around the calibrated one (ringed), on held-out prompts and texts; a "
            "prompt has no strength and stands at its own cost.",
            pictures={"effect against cost": drawn["curves"]["png"]},
            tables=[_curve_table(found)],
        ),
    ]
    if found.promises:
        sections.append(_screen_section(found))
    title = str(manifest.get("model") or found.settings.pretrained)
    return publish_page(
        folder,
        Page("Calibration", title, f"{found.metric} at {found.settings.budget_text}",
             headline(found), sections),
        manifest,
        files={"calibration.csv": calibration_csv(found), "calibration.json": _json(found)},
        pictures=pictures,
        table=Overview(f"{title}, {found.metric} at {found.settings.budget_text}",
                       columns=table.columns, rows=table.rows).as_text() + "\n",
        sentences=[headline(found), *sentences(found)],
        others=["transports/"],
    )  # fmt: skip


def _note(found: Findings) -> str:
    settings, prompts = found.settings, len(found.plain.point.effects)
    measured = f"{found.texts} texts and {prompts} prompts with {settings.samples} texts each"
    spends = f"the strength that spends {settings.budget_text} on one half of the plain texts"
    where = "at the sites where it then does most on one half of the prompts"
    if settings.task:
        measured = f"{len(found.plain.point.hits)} questions, {measured}"
        spends = (
            "the largest strength before more than "
            f"{100 * settings.budget:g} points of accuracy are lost on one third of the questions "
            f"of {settings.task}, one more question counted as lost"
        )
        where += ", at strengths that another third gives"
    behind = (
        " A method behind the prompt spends the budget on top of the prompt, held against the "
        "prompted model; the table has its cost against the plain one."
        if found.of_kind("both")
        else ""
    )
    return (
        f"Each method at {spends}, and {where}. What is shown was measured on the rest: "
        f"{measured}, written from the same seeds. In brackets 95 % intervals over texts and "
        "prompts; differences are paired by prompt, and p is of sign flips, corrected by Holm for "
        "the lines of the table. KL is that of next-token distributions on plain text, plain model "
        "against changed one, in nats per token; a prompt's is with it put before the "
        f"text.{behind}"
    )


def _table(found: Findings) -> Table:
    columns = [
        "method", "sites", "λ", found.metric, "KL on plain text", "perplexity",
        "against the prompt", "p (Holm)",
    ]  # fmt: skip
    rows = [_line(found, one) for one in found.entries]
    if found.settings.task:
        columns.insert(_COST, f"accuracy on {found.settings.task}")
        for row, one in zip(rows, found.entries, strict=True):
            row.insert(_COST, _accuracy(found, one))
    return Table(columns, rows)


def _accuracy(found: Findings, one: Entry) -> str:
    """The share of held-out questions that are answered rightly, and what it is above the plain."""
    share = f"{statistics.fmean(one.point.hits):.2f}"
    if one.kind == "plain":
        return share
    drop = found.drop(one.point)
    # Less than 0, not -drop: no loss is +0.0.
    change = Interval(0 - drop.value, 0 - drop.high, 0 - drop.low)
    return f"{share}, {in_points(change)}"


def _line(found: Findings, one: Entry) -> list[str]:
    point, has_strength = one.point, one.kind in ("method", "both")
    strength = shown_strength(one) if has_strength else "–"
    verdict = found.verdict(one, "prompt")
    growth = cost_interval(point.growth)
    ratio = "–"
    if one.kind != "plain":
        low, high = math.exp(growth.low), math.exp(growth.high)
        ratio = f"× {math.exp(growth.value):.3f} [{low:.3f}, {high:.3f}]"
    return [
        one.name,
        shown_sites(one) or "–",
        strength,
        shown(point.effect),
        "–" if one.kind == "plain" else shown(cost_interval(point.divergence), 3),
        ratio,
        "–" if verdict is None else _signed(verdict.gain),
        "–" if verdict is None else show_p(verdict.p).removeprefix("p = "),
    ]


def _signed(one: Interval) -> str:
    return f"{one.value:+.2f} [{one.low:+.2f}, {one.high:+.2f}]"


def _curve_table(found: Findings) -> Table:
    rows = [
        [
            one.name,
            f"{point.strength:.3g}",
            shown(point.effect),
            shown(cost_interval(point.divergence), 3),
        ]
        for one in found.of_kind("method", "both")
        for point in one.points
    ]
    return Table(["method", "λ", found.metric, "KL on plain text"], rows)


def _screen_section(found: Findings) -> Section:
    rows = []
    for method, gains in found.promises.items():
        best = sorted(gains, key=lambda name: -gains[name])[:_SHOWN_SITES]
        rows.append([method, ", ".join(f"{name} {gains[name]:.3g}" for name in best)])
    return Section(
        "Where",
        "The screen: by how much held-out target sentences become likelier than source sentences, "
        "in nats per token, at the strength that spends the budget, to first order at λ = 0. Each "
        f"method ran at all modules and at the best {found.settings.kept} others.",
        tables=[Table(["method", "promised gain, best sites first"], rows)],
    )


def calibration_csv(found: Findings) -> str:
    """A line for each method and strength, and for each prompt; floats read back exactly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["name", "kind", "sites", "strength", "calibrated", "reached", "effect", "effect_low"]
        + ["effect_high", "prompts", "kl", "kl_stderr", "log_perplexity_ratio"]
        + ["log_perplexity_ratio_stderr", "texts"]
        + (["lost", "lost_low", "lost_high", "questions"] if found.settings.task else [])
    )
    for one in found.entries:
        for point in one.points:
            effect, kl, growth = point.effect, point.divergence, point.growth
            numbers: list[Any] = [effect.value, effect.low, effect.high, len(point.effects)]
            numbers += [kl.value, kl.stderr, growth.value, growth.stderr, kl.n]
            if found.settings.task:
                lost = found.drop(point)
                numbers += [lost.value, lost.low, lost.high, len(point.hits)]
            writer.writerow(
                [one.name, one.kind, one.sites, repr(point.strength), point is one.point]
                + [one.reached, *("" if number is None else repr(number) for number in numbers)]
            )
    return text.getvalue()


def _json(found: Findings) -> str:
    content = {
        "metric": found.metric,
        "budget": found.settings.budget_text,
        "lower_is_better": found.settings.lower_is_better,
        "entries": [one.as_json() for one in found.entries],
        "promises": found.promises,
        "verdicts": {
            name: [asdict(one) | {"words": one.words} for one in held]
            for name, held in found.against.items()
        },
    }
    return json.dumps(content, indent=1) + "\n"
