"""What `coverage run` shows: terminal, files, pictures, and the report page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aim_plugins.core.errors import first_few
from aim_plugins.coverage.gaps import Gap
from aim_plugins.coverage.priority_pictures import draw_order
from aim_plugins.coverage.profile import Profile
from aim_plugins.coverage.report import (
    Pictures,
    as_text,
    breakdown,
    combinations,
    comparison,
    growing,
)
from aim_plugins.coverage.results import END2END, Result, format_csv, show_value, to_json
from aim_plugins.sweep.page import Page, Section, publish_page
from vision_bench.coverage.exhibits import Gallery, gaps_csv, priority_csv
from vision_bench.coverage.left_out import NearStretch
from vision_bench.coverage.measure import Answers
from vision_bench.coverage.priority import Priority, sentences

_SHOWN = 60
"""Inputs to label that are shown as pictures."""


class Findings:
    """What a study found, for its front.

    Args:
        results: The criteria.
        profile: What the suite has exercised.
        answers: What the model answered; None of profiles that were combined.
        growth: Coverage along the suite; empty of profiles that were combined.
        gaps: What training reaches and the suite does not.
        stretches: Parts of training ranges that the suite leaves out.
        priority: The inputs to label first, where asked for.
    """

    def __init__(
        self,
        results: Sequence[Result],
        profile: Profile,
        answers: Answers | None = None,
        growth: Sequence[Mapping[str, float]] = (),
        gaps: Sequence[Gap] = (),
        stretches: Sequence[NearStretch] = (),
        priority: Priority | None = None,
    ) -> None:
        self.results, self.profile, self.answers = results, profile, answers
        self.growth = growth
        self.gaps, self.stretches, self.priority = gaps, stretches, priority


def publish(
    folder: Path, found: Findings, gallery: Gallery | None, manifest: Mapping[str, Any], data: str
) -> Path:
    """Writes and prints everything; returns the report's path.

    Args:
        folder: The study's folder.
        found: What it found.
        gallery: Its images; None where they are not at hand.
        manifest: Its manifest.
        data: What a person calls the suite.

    Raises:
        OSError: If a file cannot be written.
    """
    inputs = found.profile.inputs
    sections, pictures = _sections(found, gallery, inputs)
    files: dict[str, str] = {
        "coverage.json": json.dumps(_json(found, data), indent=2) + "\n",
        "coverage.csv": format_csv(found.results),
    }
    if gallery is not None:
        files["uncovered.csv"] = gaps_csv(found.gaps, gallery.training, gallery.suite)
    if found.priority is not None:
        files["priority.csv"] = priority_csv(found.priority)
    title = str(manifest.get("model", "A model"))
    answers = tell_answers(found.answers, inputs)
    summary = [*answers, headline(found.results, inputs, data)]
    told = sentences(found.priority) if found.priority is not None else []
    table = as_text(f"{title} on {data}, {inputs} inputs", found.results)
    return publish_page(
        folder,
        Page("Coverage", title, data, " ".join(summary), sections),
        manifest,
        files=files,
        pictures=pictures,
        table=table,
        sentences=[*answers, *sections[0].sentences, *told],
    )


def tell_answers(answers: Answers | None, inputs: int) -> list[str]:
    """How good the model is on the suite, which everything else is to be read beside."""
    if answers is None:
        return []
    found = [f"The model is right on {answers.right} of {inputs} inputs."]
    if answers.never:
        found.append(
            f"It never predicts {first_few(answers.never)}: are weights and preprocessing right?"
        )
    return found


def headline(results: Sequence[Result], inputs: int, data: str) -> str:
    """The result in a sentence."""
    first = next((one for one in results if one.label == "IDC"), results[0])
    text = f"{inputs} inputs of {data} reach {show_value(first.value, first.unit)} of {first.label}"
    text += f", of at most {show_value(first.ceiling, first.unit)}"
    if first.training is not None:
        text += f"; the whole training set reaches {show_value(first.training, first.unit)}"
    return f"{text}."


def _sections(
    found: Findings, gallery: Gallery | None, inputs: int
) -> tuple[list[Section], Pictures]:
    first, pictures = comparison(found.results, inputs)
    sections = [first]
    whole = [one for one in found.results if not one.is_part]
    more = [
        combinations(found.results),
        breakdown(found.results, "layer"),
        breakdown(whole, "class"),
        growing(found.growth, whole),
    ]
    for part in more:
        if part is not None:
            sections.append(part[0])
            pictures |= part[1]
    if gallery is not None:
        sections += _left_out(found, gallery)
    if found.priority is not None and gallery is not None:
        section, drawn = _first_to_label(found.priority, gallery)
        sections.append(section)
        pictures |= drawn
    return sections, pictures


def _left_out(found: Findings, gallery: Gallery) -> list[Section]:
    """The sections on combinations and ranges that the suite leaves out."""
    sections = []
    first = found.gaps[0].label if found.gaps else ""
    shown = [one for one in found.gaps if one.label in (first, END2END)]
    if shown:
        note = (
            "Combinations of important neurons' clusters that training inputs reach and no input "
            "of the suite does, those of most training inputs first: a training input that reaches "
            "it, beside the nearest input of the suite. uncovered.csv has more."
        )
        exhibits = [gallery.gap(one) for one in shown]
        sections.append(Section("Combinations left out", note, exhibits=exhibits))
    if found.stretches:
        note = (
            "The widest stretches of neurons' training ranges that no input reaches, and the input "
            "nearest to the middle of each."
        )
        exhibits = [gallery.stretch(one) for one in found.stretches]
        sections.append(Section("Ranges left out", note, exhibits=exhibits))
    return sections


def _first_to_label(priority: Priority, gallery: Gallery) -> tuple[Section, Pictures]:
    drawn = draw_order(priority.coverage, priority.judgement.curves, criterion=priority.criterion)
    shown = enumerate(priority.ranked[:_SHOWN], start=1)
    section = Section(
        "Label first",
        "What each input adds is what neither the suite nor the inputs before it cover. Grey: "
        "random orders. priority.csv holds the list.",
        sentences(priority),
        {"coverage and mistakes found against inputs labelled": drawn["png"]},
        exhibits=[gallery.ranked(place, one) for place, one in shown],
    )
    return section, {f"priority.{kind}": content for kind, content in drawn.items()}


def _json(found: Findings, data: str) -> dict[str, Any]:
    return {
        "data": data,
        "inputs": found.profile.inputs,
        "results": to_json(found.results),
        "gaps": [asdict(one) for one in found.gaps],
        "priority": None if found.priority is None else found.priority.to_json(),
    }
