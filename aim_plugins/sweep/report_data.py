"""What a report's page holds: samples, and the data that its script draws and its tables show."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from markupsafe import Markup

from aim_plugins.core.strengths import format_strength
from aim_plugins.sweep.contrasts import Contrast, contrast_texts
from aim_plugins.sweep.formats import estimate_texts
from aim_plugins.sweep.heat_maps import Grid
from aim_plugins.sweep.intervals import point_intervals
from aim_plugins.sweep.paired import show_p
from aim_plugins.sweep.panels import Panel
from aim_plugins.sweep.plots import (
    Curve,
    describe_sample,
    is_crowded,
    is_share,
    logarithmic,
)
from aim_plugins.sweep.table import Point, table_cell

Strengths = float | tuple[float, ...]
"""The strength of a curve, or the strengths of a grid."""

_IMAGE_SIGNATURES = {
    "png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "jpeg": re.compile(rb"\xff\xd8\xff"),
    "gif": re.compile(rb"GIF8"),
    "webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}


@dataclass(frozen=True)
class TextSample:
    """What the model wrote for one document, at every strength.

    Attributes:
        doc_id: The document's index in its task.
        prompt: What the model was given.
        target: What it should have written.
        texts: What it wrote, by strength; in a grid by both strengths.
        scores: The metric of each text, by strength; 1 is shown as right, 0 as wrong.
    """

    doc_id: int | str
    prompt: str
    target: str
    texts: Mapping[Any, str]
    scores: Mapping[Any, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageSample:
    """What the model makes of one image, at every strength.

    Attributes:
        name: The image's name in its task.
        pictures: A picture by strength, such as an overlay of classes: the content of a PNG, JPEG,
            GIF or WebP file. Small ones keep the page small. May be empty, with captions alone.
        captions: What is written below the picture, by strength; line breaks are kept.
        scores: The metric of each answer, by strength; 1 is shown as right, 0 as wrong.
        references: Pictures that no strength changes, by their title, such as the photograph.
        legend: What the pictures' colours mean: CSS colours by name.
    """

    name: str
    pictures: Mapping[Any, bytes] = field(default_factory=dict)
    captions: Mapping[Any, str] = field(default_factory=dict)
    scores: Mapping[Any, float] = field(default_factory=dict)
    references: Mapping[str, bytes] = field(default_factory=dict)
    legend: Mapping[str, str] = field(default_factory=dict)


def embed_json(data: Any) -> Markup:
    """Writes JSON that is inert inside a script element of a page.

    Escaping the characters that HTML reads leaves the JSON's meaning and its ASCII as they are.

    Args:
        data: JSON; NaN and infinities become null.
    """
    text = json.dumps(_without_nan(data), ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _without_nan(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _without_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_nan(value) for value in data]
    return data


def curves_data(
    curves: Sequence[Curve], chance: Mapping[tuple[str, str], float]
) -> list[dict[str, Any]]:
    """What the page's script draws of curves."""
    return [
        _curve_data(curve, chance, log)
        for curve, log in zip(curves, logarithmic(curves), strict=True)
    ]


def grid_data(grid: Grid) -> dict[str, Any]:
    """What the page's script draws of a grid: a heat map."""
    share = is_share(grid.curve)
    return {
        "metric": grid.metric,
        "x": [format_strength(one) for one in grid.strengths],
        "y": [format_strength(one) for one in grid.second_strengths],
        "z": grid.values,
        "range": [0, 1] if share else None,
    }


def panel_data(panel: Panel) -> dict[str, Any]:
    """What the page's script draws of the parts of a task: small curves, or a heat map of many."""
    if not panel.many:
        curves = [_curve_data(curve, {}, False) for curve in panel.curves.values()]
        return {"curves": curves, "range": panel.limits, "span": _span(panel)}
    lines = panel.lines
    return {
        "metric": panel.metric,
        "x": [format_strength(point.strength) for point in next(iter(lines.values()))],
        "y": list(lines),
        "z": [[point.value for point in line] for line in lines.values()],
        "range": panel.limits and (0, 1),
        "noun": panel.noun,
    }


def _span(panel: Panel) -> tuple[float, float]:
    """The strengths of all parts with a little room, so that slopes compare from part to part."""
    strengths = [one.strength for curve in panel.curves.values() for one in curve.points]
    low, high = min(strengths), max(strengths)
    room = 0.06 * (high - low) or 0.5
    return low - room, high + room


def _curve_data(curve: Curve, chance: Mapping[tuple[str, str], float], log: bool) -> dict[str, Any]:
    return {
        "task": curve.task,
        "metric": curve.metric,
        "sample": describe_sample(curve),
        "share": is_share(curve),
        "chance": chance.get((curve.task, curve.metric)),
        "sampled": [
            _point_data(point) | {"low": float(low), "high": float(high)}
            for point, (low, high) in zip(
                curve.sampled, point_intervals(curve.sampled), strict=True
            )
        ],
        "exact": [_point_data(point) for point in curve.exact],
        "published": [_point_data(point) for point in curve.published],
        "crowded": is_crowded(curve),
        "log": log,
    }


def _point_data(point: Point) -> dict[str, Any]:
    return {"strength": point.strength, "value": float(point.value), "low": None, "high": None}


def texts_data(samples: Sequence[TextSample]) -> dict[str, Any]:
    """What the page shows of texts."""
    strengths = sorted({_place(strength) for sample in samples for strength in sample.texts})
    return {
        "strengths": [_label(place) for place in strengths],
        "documents": [
            {
                "id": str(sample.doc_id),
                "prompt": sample.prompt,
                "target": sample.target,
                "texts": _column(sample.texts, strengths),
                "scores": _column(sample.scores, strengths),
            }
            for sample in samples
        ],
    }


def images_data(samples: Sequence[ImageSample]) -> dict[str, Any]:
    """What the page shows of images.

    Raises:
        ValueError: If a picture is of an unknown format.
    """
    strengths = sorted(
        {
            _place(strength)
            for sample in samples
            for strength in (*sample.pictures, *sample.captions, *sample.scores)
        }
    )
    return {
        "strengths": [_label(place) for place in strengths],
        "documents": [
            {
                "name": sample.name,
                "pictures": _column(
                    {std: data_uri(content) for std, content in sample.pictures.items()}, strengths
                ),
                "captions": _column(sample.captions, strengths),
                "scores": _column(sample.scores, strengths),
                "references": [
                    [title, data_uri(content)] for title, content in sample.references.items()
                ],
                "legend": [list(entry) for entry in sample.legend.items()],
            }
            for sample in samples
        ],
    }


def data_uri(content: bytes) -> str:
    """A picture as the address that shows it.

    Raises:
        ValueError: If it is of an unknown format.
    """
    for kind, signature in _IMAGE_SIGNATURES.items():
        if signature.match(content):
            return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    raise ValueError(
        f"a picture starts with {content[:8]!r}, which no PNG, JPEG, GIF or WebP file does: give "
        "the content of such a file"
    )


def _column(values: Mapping[Any, Any], places: Sequence[tuple[float, ...]]) -> list[Any]:
    by_place = {_place(strength): value for strength, value in values.items()}
    return [by_place.get(place) for place in places]


def _place(strength: Strengths) -> tuple[float, ...]:
    """Strengths as a key that sorts a grid by its second one first."""
    strengths = strength if isinstance(strength, tuple) else (strength,)
    return tuple(map(float, reversed(strengths)))


def _label(place: tuple[float, ...]) -> str:
    return ", ".join(format_strength(strength) for strength in reversed(place))


def table_data(task: str, curves: Sequence[Curve]) -> dict[str, Any]:
    """One row per strength, one column per metric."""
    own = [curve for curve in curves if curve.task == task]
    columns = {
        series[0].metric: series
        for curve in own
        for series in (curve.sampled, curve.exact, curve.published)
        if series
    }
    sample = describe_sample(Curve(task, "", [p for curve in own for p in curve.points]))
    return {"task": task, "sample": sample, "wide": len(columns) > 3, **_table(columns)}


def panel_tables(panel: Panel) -> list[dict[str, Any]]:
    """One row per strength, one column per part; the law has a table of its own.

    Of many parts none: the page's heat map and `sweep.csv` have their numbers.
    """
    found = []
    for kind in ("sampled", "exact", "published"):
        columns = {
            name: series for name, curve in panel.curves.items() if (series := vars(curve)[kind])
        }
        if columns and not panel.many:
            points = [point for series in columns.values() for point in series]
            sample = f"{points[0].metric} by {panel.noun}, "
            sample += describe_sample(Curve(panel.task, "", points))
            found.append({"task": panel.task, "sample": sample, "wide": True, **_table(columns)})
    return found


def _table(columns: Mapping[str, Sequence[Point]]) -> dict[str, Any]:
    cells: dict[tuple[float, ...], dict[str, tuple[str, str, str]]] = {}
    for name, series in columns.items():
        for point, (value, interval) in zip(series, estimate_texts(series), strict=True):
            # The first text is the key to sort by.
            cell = (repr(float(point.value)), value, interval)
            cells.setdefault(point.strengths, {})[name] = cell
    return {
        "columns": list(columns),
        "rows": [
            (
                [(strength, format_strength(strength)) for strength in strengths],
                [cells[strengths].get(name, ("", "–", "")) for name in columns],
            )
            for strengths in sorted(cells, key=lambda one: one[::-1])
        ],
    }


def contrast_tables(contrasts: Sequence[Contrast]) -> list[dict[str, Any]]:
    """Of each task and metric, its strengths against the one that they are held against."""
    curves: dict[tuple[str, str], list[Contrast]] = {}
    for one in contrasts:
        curves.setdefault((one.task, one.metric), []).append(one)
    return [
        {
            "task": task,
            "sample": f"{metric} less that at strength {_label(found[0].reference[::-1])}, "
            f"n={found[0].n}" + (f", {found[0].draws} draws" if found[0].draws > 1 else ""),
            "rows": [
                (
                    [(strength, format_strength(strength)) for strength in one.strengths],
                    (repr(float(one.difference.value)), *contrast_texts(one)),
                    (one.holm_p, show_p(one.holm_p).removeprefix("p = ").removeprefix("p ")),
                    one.verdict,
                    one.needed_text,
                )
                for one in found
            ],
        }
        for (task, metric), found in curves.items()
    ]


def points_csv(points: Sequence[Point]) -> str:
    """The points of all curves as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    grid = any(point.second_strength is not None for point in points)
    names = [field.name for field in fields(Point) if field.name != "freedom"]
    columns = names if grid else names[:-1]
    writer.writerow(columns)
    writer.writerows([table_cell(getattr(point, column)) for column in columns] for point in points)
    return text.getvalue()
