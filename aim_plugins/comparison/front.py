"""What `aim-plugins compare` shows.

FOLDER/
  compare.csv    every difference
  curves/        the differences of each metric, with their intervals
  report.html    both on one page, and how the sweeps differ
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from aim_plugins.comparison.pictures import draw_differences
from aim_plugins.comparison.settings import CompareSettings
from aim_plugins.comparison.sides import Side, compare_sides, read_side
from aim_plugins.core.errors import first_few
from aim_plugins.core.files import safe_name
from aim_plugins.core.strengths import format_strength
from aim_plugins.sweep.contrasts import Contrast, contrast_texts, place_text
from aim_plugins.sweep.formats import format_value
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.page import Page, Section, Table, publish_page
from aim_plugins.sweep.paired import show_p
from aim_plugins.sweep.report import flatten
from aim_plugins.sweep.table import table_cell

_SHOWN = 3
_NOTE = (
    "Each document is its own control: the difference is the second less the first over the same "
    "documents, with its 95 % interval. p is McNemar's exact one of one draw of right and wrong "
    "answers, else that of chance signs of the documents' differences; Holm's is corrected for all "
    "tasks and strengths of the metric, and below 0.05 a difference is called. Width is the "
    "standard error in pairs as a share of that of two samples of documents: below 1, pairs are "
    "tighter. n is documents × draws. Where nothing is told, so many documents such as these are "
    "needed to tell the difference found with a probability of 80 %."
)


def publish_comparison(settings: CompareSettings, command: Sequence[str]) -> Path:
    """Compares, writes and prints; returns the report's path.

    Raises:
        ValueError: If a folder holds no sweep that keeps its documents' scores, or the two are of
            other documents.
        OSError: If a file cannot be written.
    """
    first, second = map(read_side, settings.places)
    found = compare_sides(first, second, settings.metrics)
    table = _table(found)
    pictures = draw_differences(found, first.place.text, second.place.text)
    sentences = describe(found, first, second)
    settings.output.mkdir(parents=True, exist_ok=True)
    return publish_page(
        settings.output,
        Page(
            "Comparison in pairs",
            f"{second.place.text} against {first.place.text}",
            first_few(list(dict.fromkeys(one.task for one in found)), _SHOWN),
            sentences[0],
            _sections(first, second, table, pictures, sentences),
        ),
        {
            "command": list(command),
            "first": {"folder": str(first.place.folder), **first.manifest},
            "second": {"folder": str(second.place.folder), **second.manifest},
        },
        files={"compare.csv": _csv(found)},
        pictures={
            f"{safe_name(metric)}.{kind}": content
            for metric, files in pictures.items()
            for kind, content in files.items()
        },
        table=Overview("", columns=table.columns, rows=table.rows).as_text() + "\n",
        sentences=sentences,
    )


def describe(found: Sequence[Contrast], first: Side, second: Side) -> list[str]:
    """What follows: the clear differences, what is too small to tell, and what pairs are worth."""
    clear = [one for one in found if one.is_clear]
    sentences = [
        f"{second.place.text} and {first.place.text} differ clearly in {len(clear)} of "
        f"{len(found)} comparison{'s' * (len(found) != 1)}"
        + (f": {first_few([_finding(one) for one in clear], _SHOWN)}." if clear else ".")
    ]
    unclear = [one for one in found if not one.is_clear and one.needed is not None]
    if unclear:
        nearest = min(unclear, key=lambda one: one.needed or 0)
        sentences.append(
            f"{nearest.metric} of {nearest.task} at {_where(nearest)} cannot be told apart with "
            f"{nearest.n} documents; about {nearest.needed} would be needed"
            + (", fewer than of any other." if len(unclear) > 1 else ".")
        )
    widths = [one.tightness for one in found if one.tightness > 0]
    if widths:
        sentences.append(
            f"Pairs have {median(widths):.2f} of the standard error of two samples of documents"
            + (f" (median; {min(widths):.2f} to {max(widths):.2f})." if len(widths) > 1 else ".")
        )
    left = [
        f"{metric} of {task}"
        for task, metric in [*first.tables, *second.tables]
        if ((task, metric) in first.tables) != ((task, metric) in second.tables)
    ]
    if left:
        sentences.append(f"In one of them alone, and left out: {first_few(left, _SHOWN)}.")
    return sentences


def _finding(one: Contrast) -> str:
    value, interval = contrast_texts(one)
    return f"{one.metric} of {one.task} at {_where(one)} is {one.verdict} ({value} {interval})"


def _where(one: Contrast) -> str:
    here, there = place_text(one.strengths), place_text(one.reference)
    return f"strength {here}" if here == there else f"strength {here} against {there}"


def _table(found: Sequence[Contrast]) -> Table:
    columns = ["task", "metric", "first at", "second at", "n", "first", "second", "difference"]
    columns += ["p", "Holm's p", "width", "verdict", "needed"]
    rows = [
        [
            one.task,
            one.metric,
            place_text(one.reference),
            place_text(one.strengths),
            str(one.n) + (f" × {one.draws}" if one.draws > 1 else ""),
            format_value(one.value - one.difference.value),
            format_value(one.value),
            " ".join(contrast_texts(one)).rstrip(),
            _p_text(one.difference.p),
            _p_text(one.holm_p),
            "–" if one.tightness != one.tightness else f"{one.tightness:.2f}",
            one.verdict,
            one.needed_text,
        ]
        for one in found
    ]
    return Table(columns, rows, "Differences")


def _p_text(p: float) -> str:
    return show_p(p).removeprefix("p = ").removeprefix("p ")


def _sections(
    first: Side,
    second: Side,
    table: Table,
    pictures: Mapping[str, Mapping[str, bytes]],
    sentences: Sequence[str],
) -> list[Section]:
    drawn = {f"{metric}, differences": files["png"] for metric, files in pictures.items()}
    sections = [Section("Differences", _NOTE, sentences[1:], drawn, [table])]
    if rows := _settings_rows(first, second):
        note = "What the two sweeps were not asked alike; all else that was asked is the same."
        columns = ["setting", first.place.text, second.place.text]
        sections.append(Section("What differs", note, tables=[Table(columns, rows)]))
    return sections


def _settings_rows(first: Side, second: Side) -> list[list[str]]:
    held = [dict(flatten(_asked(side))) for side in (first, second)]
    return [
        [name, held[0].get(name, "–"), held[1].get(name, "–")]
        for name in dict.fromkeys([*held[0], *held[1]])
        if held[0].get(name) != held[1].get(name)
    ]


def _asked(side: Side) -> dict[str, Any]:
    asked = {"model": side.manifest.get("model"), **side.manifest["arguments"]}
    if side.place.strengths is not None:
        asked["compared at"] = place_text(side.place.strengths)
    return asked


def _csv(found: Sequence[Contrast]) -> str:
    """Every difference as CSV; floats read back exactly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["task", "metric", "first_strength", "second_strength", "n", "draws", "first", "second"]
        + ["difference", "difference_low", "difference_high", "p", "holm_p", "paired_to_unpaired"]
        + ["documents_needed"]
    )
    for one in found:
        told = one.difference
        places = ["/".join(map(format_strength, at)) for at in (one.reference, one.strengths)]
        numbers = [one.value - told.value, one.value, told.value, told.low, told.high, told.p]
        numbers += [one.holm_p, one.tightness]
        cells = [one.task, one.metric, *places, one.n, one.draws, *numbers, one.needed]
        writer.writerow(map(table_cell, cells))
    return text.getvalue()
