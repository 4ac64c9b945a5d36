"""The report of a sweep: one HTML page that needs no other file and no network."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shlex
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from aim_plugins.core.files import write_atomic
from aim_plugins.core.strengths import format_strength
from aim_plugins.sweep.headline import describe_data, format_value, summarise, task_names
from aim_plugins.sweep.intervals import interval_texts
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.plots import (
    STRENGTH_LABEL,
    Curve,
    describe_sample,
    group_curves,
    intervals,
    is_crowded,
    is_share,
    logarithmic,
)
from aim_plugins.sweep.table import Point

_TEMPLATES = Path(__file__).parent / "templates"
_IMAGE_SIGNATURES = {
    "png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "jpeg": re.compile(rb"\xff\xd8\xff"),
    "gif": re.compile(rb"GIF8"),
    "webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}
_OPEN_TASKS = 6
"""Pages of more tasks start with their tables folded."""


@dataclass(frozen=True)
class TextSample:
    """What the model wrote for one document, at every strength.

    Attributes:
        doc_id: The document's index in its task.
        prompt: What the model was given.
        target: What it should have written.
        texts: What it wrote, by strength.
        scores: The metric of each text, by strength; 1 is shown as right, 0 as wrong.
    """

    doc_id: int | str
    prompt: str
    target: str
    texts: Mapping[float, str]
    scores: Mapping[float, float] = field(default_factory=dict)


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
    pictures: Mapping[float, bytes] = field(default_factory=dict)
    captions: Mapping[float, str] = field(default_factory=dict)
    scores: Mapping[float, float] = field(default_factory=dict)
    references: Mapping[str, bytes] = field(default_factory=dict)
    legend: Mapping[str, str] = field(default_factory=dict)


def write_report(
    folder: str | Path,
    points: Iterable[Point],
    manifest: Mapping[str, Any],
    texts: Mapping[str, Sequence[TextSample]] | None = None,
    *,
    images: Mapping[str, Sequence[ImageSample]] | None = None,
    chance: Mapping[tuple[str, str], float] | None = None,
    strength_label: str = STRENGTH_LABEL,
    overview: Overview | None = None,
) -> Path:
    """Writes `report.html`: curves to hover over, tables, sample texts and images, provenance.

    The page holds all it needs and allows itself no request. Whatever a model wrote reaches it as
    data, never as markup.

    Args:
        folder: The sweep's folder.
        points: Points of all curves, as `pool_draws` returns them.
        manifest: The sweep's manifest. Shown whole; `model` (or the arguments' `pretrained` or
            `model`) names the model in the title, and `command`, a text or a list of words, is
            shown as what reproduces the page.
        texts: Sample texts of generation tasks, by task.
        images: Sample images of vision tasks, by task.
        chance: Value of a metric that guessing reaches, by task and metric.
        strength_label: Label of the strength, with its unit.
        overview: Pictures and a table above the curves.

    Returns:
        The path of the page. The same input gives the same bytes.

    Raises:
        ValueError: If there are no points, or a picture is of an unknown format.
        OSError: If it cannot be written.
    """
    curves = group_curves(points)
    if not curves:
        raise ValueError("points is empty: there is nothing to report; evaluate at least one task")
    scripts = [_plotly_script(), _read_template("report.js.j2")]
    data = {
        "curves": [
            _curve_data(curve, chance or {}) | {"log": log}
            for curve, log in zip(curves, logarithmic(curves), strict=True)
        ],
        "texts": {task: _texts_data(samples) for task, samples in (texts or {}).items() if samples},
        "images": {
            task: _images_data(samples) for task, samples in (images or {}).items() if samples
        },
        "strengthLabel": strength_label,
    }
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            model=_model_name(manifest),
            subject=overview.subject if overview else describe_data(curves, manifest),
            summary=summarise(curves, _model_name(manifest), overview.noun if overview else "task"),
            curves=curves,
            exact=any(curve.exact for curve in curves),
            published=any(curve.published for curve in curves),
            strength_label=strength_label,
            tables=[_table(task, curves) for task in task_names(curves)],
            open_tables=len(task_names(curves)) <= _OPEN_TASKS,
            text_tasks=list(data["texts"]),
            image_tasks=list(data["images"]),
            overview=overview,
            overview_pictures=[
                (title, _data_uri(content))
                for title, content in (overview.pictures if overview else {}).items()
            ],
            command=_command(manifest),
            provenance=_flatten({k: v for k, v in manifest.items() if k != "command"}),
            csv="data:text/csv;charset=utf-8," + urllib.parse.quote(_points_csv(curves)),
            data=embed_json(data),
            style=Markup(_read_template("report.css.j2")),
            scripts=[Markup(script) for script in scripts],
            script_sources=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        )
    )
    return write_atomic(Path(folder) / "report.html", page)


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


def _curve_data(curve: Curve, chance: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    return {
        "task": curve.task,
        "metric": curve.metric,
        "sample": describe_sample(curve),
        "share": is_share(curve),
        "chance": chance.get((curve.task, curve.metric)),
        "sampled": [
            _point_data(point) | {"low": float(low), "high": float(high)}
            for point, (low, high) in zip(curve.sampled, intervals(curve), strict=True)
        ],
        "exact": [_point_data(point) for point in curve.exact],
        "published": [_point_data(point) for point in curve.published],
        "crowded": is_crowded(curve),
    }


def _point_data(point: Point) -> dict[str, Any]:
    return {"strength": point.strength, "value": float(point.value), "low": None, "high": None}


def _texts_data(samples: Sequence[TextSample]) -> dict[str, Any]:
    strengths = sorted({float(strength) for sample in samples for strength in sample.texts})
    return {
        "strengths": [format_strength(strength) for strength in strengths],
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


def _images_data(samples: Sequence[ImageSample]) -> dict[str, Any]:
    strengths = sorted(
        {
            float(strength)
            for sample in samples
            for strength in (*sample.pictures, *sample.captions, *sample.scores)
        }
    )
    return {
        "strengths": [format_strength(strength) for strength in strengths],
        "documents": [
            {
                "name": sample.name,
                "pictures": _column(
                    {std: _data_uri(content) for std, content in sample.pictures.items()}, strengths
                ),
                "captions": _column(sample.captions, strengths),
                "scores": _column(sample.scores, strengths),
                "references": [
                    [title, _data_uri(content)] for title, content in sample.references.items()
                ],
                "legend": [list(entry) for entry in sample.legend.items()],
            }
            for sample in samples
        ],
    }


def _data_uri(content: bytes) -> str:
    for kind, signature in _IMAGE_SIGNATURES.items():
        if signature.match(content):
            return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    raise ValueError(
        f"a picture starts with {content[:8]!r}, which no PNG, JPEG, GIF or WebP file does: give "
        "the content of such a file"
    )


def _column(values: Mapping[float, Any], strengths: Sequence[float]) -> list[Any]:
    by_strength = {float(strength): value for strength, value in values.items()}
    return [by_strength.get(strength) for strength in strengths]


def _table(task: str, curves: Sequence[Curve]) -> dict[str, Any]:
    """One row per strength, one column per metric."""
    cells: dict[float, dict[str, tuple[str, str, str]]] = {}
    metrics: list[str] = []
    own = [curve for curve in curves if curve.task == task]
    for series in (one for curve in own for one in (curve.sampled, curve.exact, curve.published)):
        for point, interval in zip(series, interval_texts(series, decimals=3), strict=True):
            cells.setdefault(point.strength, {})[point.metric] = _cell(point, interval)
            if point.metric not in metrics:
                metrics.append(point.metric)
    return {
        "task": task,
        "metrics": metrics,
        "sample": describe_sample(Curve(task, "", [p for curve in own for p in curve.points])),
        "rows": [
            (
                strength,
                format_strength(strength),
                [cells[strength].get(metric, ("", "–", "")) for metric in metrics],
            )
            for strength in sorted(cells)
        ],
    }


def _cell(point: Point, interval: str) -> tuple[str, str, str]:
    """The sort key, the value and the error of a table cell, as text."""
    if interval:
        return repr(float(point.value)), format_value(point.value), interval
    error = "" if point.stderr is None or math.isnan(point.stderr) else f"± {point.stderr:.3g}"
    if error and 0.001 <= point.stderr < 10:  # type: ignore[operator]
        error = f"± {point.stderr:.3f}"
    return repr(float(point.value)), format_value(point.value), error


def _points_csv(curves: Sequence[Curve]) -> str:
    lines = ["task,metric,strength,value,stderr,n,draws"]
    for point in (point for curve in curves for point in curve.points):
        names = ",".join('"' + name.replace('"', '""') + '"' for name in (point.task, point.metric))
        stderr = "" if point.stderr is None else repr(float(point.stderr))
        numbers = (repr(point.strength), repr(float(point.value)), stderr, point.n, point.draws)
        lines.append(f"{names},{','.join(map(str, numbers))}")
    return "\n".join(lines) + "\n"


def _model_name(manifest: Mapping[str, Any]) -> str:
    arguments = manifest.get("arguments") or {}
    name = manifest.get("model") or arguments.get("pretrained") or arguments.get("model")
    # Of a local folder only the last component names the model.
    return str(name).rstrip("/").rsplit("/", 1)[-1] if name else "A model"


def _command(manifest: Mapping[str, Any]) -> str:
    command = manifest.get("command") or ""
    return command if isinstance(command, str) else shlex.join(map(str, command))


def _flatten(fields: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            lines += _flatten(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            lines.append((f"{prefix}{name}", text))
    return lines


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _read_template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _plotly_script() -> str:
    from plotly.offline import get_plotlyjs

    # A browser reads any line end as a line feed, and the digest must be of what it reads.
    script = get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n")
    if "</script" in script.lower() or "<!--" in script:
        raise RuntimeError(
            "plotly.js of the installed plotly package cannot stand inside a page: "
            "install the version that constraints.txt names"
        )
    return script


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
