"""What `aim-plugins coverage` shows: terminal, files, pictures, and the report page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aim_plugins.core.errors import first_few
from aim_plugins.coverage.criteria.boundary import KMNC
from aim_plugins.coverage.gaps import Gap, find_stretches
from aim_plugins.coverage.priority_pictures import draw_order
from aim_plugins.coverage.report import (
    Pictures,
    as_text,
    breakdown,
    combinations,
    comparison,
    growing,
    result_table,
)
from aim_plugins.coverage.results import TRAINING, Result, Words, show_value
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.page import Page, Section, Table, publish_page
from aim_plugins.task_coverage.additions import Additions
from aim_plugins.task_coverage.directions import DIRECTIONS
from aim_plugins.task_coverage.files import Findings, content_of
from aim_plugins.task_coverage.measure import Measured
from aim_plugins.task_coverage.suite import Suite

WORDS = Words(
    training="random documents of all tasks",
    noise="random tokens",
    noises="texts of random tokens",
    trained="reference documents",
    judged="have the right answer in that place",
)
_STRETCHES = 12
_LAYERS = 24
"""Layers whose numbers the page shows; of more, the picture alone."""
_TEXT = 240
"""Characters of a document that a table shows, its end."""


def publish(folder: Path, found: Findings, manifest: Mapping[str, Any]) -> Path:
    """Writes and prints everything; returns the report's path.

    Args:
        folder: The study's folder.
        found: What it found.
        manifest: Its manifest.

    Raises:
        OSError: If a file cannot be written.
    """
    sections, pictures = _sections(found)
    files = content_of(found)
    title, tasks = Path(found.settings.model).name, ", ".join(found.suite.tasks)
    compared = _compared(found.measured[0]) if len(found.suite.tasks) > 1 else []
    told = [*sections[0].sentences, *compared, *_added_sentences(found)]
    return publish_page(
        folder,
        Page("Coverage", title, tasks, headline(found), sections),
        manifest,
        files=files,
        pictures=pictures,
        table=_terminal(found, f"{title} on {tasks}"),
        sentences=told,
    )


def headline(found: Findings) -> str:
    """The result in a sentence."""
    first = found.measured[0]
    result = next((one for one in first.results if one.label == "KMNC"), first.results[0])
    inputs, tasks = first.profile.inputs, len(found.suite.tasks)
    text = f"{inputs} documents of {tasks} task{'s' * (tasks != 1)} reach "
    text += f"{show_value(result.value, result.unit)} of {result.label}, of at most "
    return f"{text}{show_value(result.ceiling, result.unit)}."


def _terminal(found: Findings, title: str) -> str:
    parts = []
    for one in found.measured:
        along = " along directions" if one.view.name == DIRECTIONS else ""
        whole = f"{title}{along}, {one.profile.inputs} documents"
        parts.append(as_text(whole, one.results, WORDS))
        if len(one.tasks) > 1:
            table = _tasks_table(one)
            parts.append(Overview("", columns=table.columns, rows=table.rows).as_text())
    return "\n\n".join(parts) + "\n"


def _added_sentences(found: Findings) -> list[str]:
    return [] if found.additions is None else found.additions.sentences


def _sections(found: Findings) -> tuple[list[Section], Pictures]:
    sections: list[Section] = []
    pictures: Pictures = {}

    def add(part: tuple[Section, Pictures] | None, prefix: str = "") -> None:
        if part is not None:
            sections.append(part[0])
            pictures.update({f"{prefix}{name}": one for name, one in part[1].items()})

    first, *others = found.measured
    whole = [one for one in first.results if not one.is_part]
    add(comparison(first.results, first.profile.inputs, WORDS))
    add(_by_task(first))
    if len(first.results) - len(whole) <= _LAYERS:  # the picture of layers has them too
        add(combinations(first.results, WORDS))
    add(_by_layer(first.results, "By layer", "coverage.csv"))
    add(breakdown(whole, "answer", "documents by their right answer"))
    add(growing(first.growth, whole, WORDS))
    for one in others:
        add(_along(one), "directions-")
        add(_renamed(_by_task(one), "Directions by task"), "directions-")
        add(_by_layer(one.results, "By direction", "directions.csv"), "directions-")
    add((_left_out(first, found.suite), {}))
    if found.additions is not None:
        add(_additions(found.additions))
    return [one for one in sections if one.tables or one.pictures], pictures


def _renamed(part: tuple[Section, Pictures] | None, title: str) -> tuple[Section, Pictures] | None:
    return None if part is None else (replace(part[0], title=title), part[1])


def _by_layer(results: Sequence[Result], title: str, file: str) -> tuple[Section, Pictures] | None:
    """The section on layers, whose names are shown without what all of them begin with."""
    names = [name for one in results for name in one.by_layer if "." in name]
    common = os.path.commonprefix(names)
    common = common[: common.rfind(".") + 1]
    short = [
        replace(one, by_layer={name.removeprefix(common): x for name, x in one.by_layer.items()})
        for one in results
    ]
    if (part := breakdown(short, "layer")) is None:
        return None
    section, pictures = part
    note, tables = section.note, section.tables
    if common:
        note += f" Names are shown without {common[:-1]} before them."
    if any(len(table.rows) > _LAYERS for table in tables):
        note, tables = f"{note} {file} has the numbers.", ()
    return replace(section, title=title, note=note, tables=tables), pictures


def _by_task(one: Measured) -> tuple[Section, Pictures] | None:
    """The section on tasks; None of a single one."""
    labels = {result.label: result for result in one.results if not result.is_part}
    rows = [
        replace(
            result,
            by_class={
                task: next(own.value for own in results if own.label == label)
                for task, results in one.tasks.items()
            },
        )
        for label, result in labels.items()
    ]
    part = breakdown(rows, "task", "the documents of each task alone")
    if part is None:
        return None
    section, pictures = part
    note = (
        f"{section.note} Tasks are of different sizes: each is to be held against as many random "
        "documents of all tasks, below, and not against another task."
    )
    tables = [*section.tables, _tasks_table(one)]
    return replace(section, note=note, sentences=_compared(one), tables=tables), pictures


def _compared(one: Measured) -> list[str]:
    """How each task does against random documents of all tasks, in a sentence."""
    found = []
    for task, results in one.tasks.items():
        pairs = [(own, own.random[TRAINING]) for own in results if TRAINING in own.random]
        sides = {
            "less than": [own.label for own, spread in pairs if own.value < spread.low],
            "more than": [own.label for own, spread in pairs if own.value > spread.high],
        }
        for side, labels in sides.items():
            if labels:
                found.append(
                    f"{task} covers {side} as many {WORDS.training} in {first_few(labels, 12)}."
                )
    return found


def _tasks_table(one: Measured) -> Table:
    """A line for each task and criterion, with random suites of the task's size."""
    rows, columns = [], []
    everything = [result for results in one.tasks.values() for result in results]
    shown = iter(result_table(everything, WORDS).rows)
    columns = list(result_table(everything, WORDS).columns)
    for task, results in one.tasks.items():
        for result in results:
            row = next(shown)
            if not result.is_part:
                rows.append([task, *row])
    return Table(["task", *columns], rows, "Each task against random suites of its size")


def _along(one: Measured) -> tuple[Section, Pictures]:
    section, pictures = comparison(one.results, one.profile.inputs, WORDS)
    note = (
        "Scores of documents: projections of their mean activations on the directions that a "
        "transport shifts along, one at each site. Ranges are those of the reference documents. "
    )
    return replace(section, title="Along directions", note=note + section.note), pictures


def _left_out(one: Measured, suite: Suite) -> Section:
    tables = []
    if one.gaps:
        rows = [
            [gap.label, str(gap.training_inputs), f"{gap.distance:.3g}", _told(gap, suite)]
            for gap in one.gaps
        ]
        columns = ["neurons", "reference documents", "distance", "combination, and who is near"]
        tables.append(Table(columns, rows, "Combinations that reference documents alone reach"))
    kmnc = one.profile.criteria.get("KMNC")
    if isinstance(kmnc, KMNC):
        rows = [
            [item.neuron, f"{item.low:.3g} to {item.high:.3g}", f"{item.share:.1%}"]
            for item in find_stretches(kmnc, kmnc.layers, _STRETCHES)
        ]
        columns = ["neuron", "activations never reached", "share of its reference range"]
        if rows:
            tables.append(
                Table(columns, rows, "Widest stretches of ranges that no document reaches")
            )
    return Section(
        "Left out", "What reference documents reach and the suite does not.", (), {}, tables
    )


def _told(gap: Gap, suite: Suite) -> str:
    """A combination, a reference document that reaches it, and the nearest of the suite."""
    text = gap.description
    if suite.reference_positions:  # otherwise the documents are not at hand
        text += f" · reached by “{_shown(suite.documents[gap.example].text)}”"
    return f"{text} · nearest of the suite: “{_shown(suite.documents[gap.nearest].text)}”"


def _additions(found: Additions) -> tuple[Section, Pictures]:
    drawn = draw_order(
        found.curves, {}, criterion=found.criterion, taken="documents of other tasks added"
    )
    rows = [
        [str(place), f"{one.task}#{one.number}", str(one.gain), str(one.alone), _shown(one.text)]
        for place, one in enumerate(found.ranked, start=1)
    ]
    section = Section(
        f"Added to {found.task}",
        "By what each document adds to what the task and the documents before it cover. Grey: "
        "random orders. priority.csv holds the list.",
        found.sentences,
        {"coverage against documents added": drawn["png"]},
        [Table(["", "document", "adds", "alone", "text"], rows)],
    )
    return section, {f"priority.{kind}": content for kind, content in drawn.items()}


def _shown(text: str) -> str:
    """The end of a document, where the question that tells it from others stands."""
    line = " ".join(text.split())
    return line if len(line) <= _TEXT else "… " + line[-_TEXT:]
