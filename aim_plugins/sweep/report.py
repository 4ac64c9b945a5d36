"""The report of a sweep: one HTML page that needs no other file and no network."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from aim_plugins.core.files import write_atomic
from aim_plugins.core.strengths import Axis
from aim_plugins.sweep.contrasts import Contrast, describe_contrasts
from aim_plugins.sweep.figures import wrap_label
from aim_plugins.sweep.headline import name_tasks, summarise, summarise_grids, task_names
from aim_plugins.sweep.heat_maps import group_grids
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.panels import Parts, split_panels
from aim_plugins.sweep.plots import group_curves
from aim_plugins.sweep.report_data import (
    ImageSample,
    TextSample,
    contrast_tables,
    curves_data,
    data_uri,
    embed_json,
    grid_data,
    images_data,
    panel_data,
    panel_tables,
    points_csv,
    table_data,
    texts_data,
)
from aim_plugins.sweep.table import Point

_TEMPLATES = Path(__file__).parent / "templates"
NO_PARTS = Parts()
_OPEN_TASKS = 6
"""Pages of more tasks start with their tables folded."""


def write_report(
    folder: str | Path,
    points: Iterable[Point],
    manifest: Mapping[str, Any],
    texts: Mapping[str, Sequence[TextSample]] | None = None,
    *,
    axes: Sequence[Axis],
    subject: str = "",
    change: str = "",
    headline: str = "",
    images: Mapping[str, Sequence[ImageSample]] | None = None,
    chance: Mapping[tuple[str, str], float] | None = None,
    overview: Overview | None = None,
    parts: Parts = NO_PARTS,
    contrasts: Sequence[Contrast] = (),
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
        axes: The strengths, one or two.
        subject: Named at the top beside the tasks, such as a concept.
        change: What is done to the model, such as "focus on owl"; part of title and headline.
        headline: What stands first, in place of a sentence on each task's first curve.
        images: Sample images of vision tasks, by task.
        chance: Value of a metric that guessing reaches, by task and metric.
        overview: Pictures and a table above the curves.
        parts: Which tasks are parts of another, and are shown together under it.
        contrasts: Strengths held against one of them, over the same documents.

    Returns:
        The path of the page. The same input gives the same bytes.

    Raises:
        ValueError: If there are no points, or a picture is of an unknown format.
        OSError: If it cannot be written.
    """
    points = list(points)
    curves = group_curves(points)
    if not curves:
        raise ValueError("points is empty: there is nothing to report; evaluate at least one task")
    grids = group_grids(points) if len(axes) == 2 else []
    curves, panels = split_panels(curves, parts)
    name = _model_name(manifest)
    model, actor = (f"{name}, {change}", f"{name}, {change},") if change else (name, name)
    if not headline and grids:
        headline = summarise_grids(grids, axes, actor)
    elif not headline:
        headline = summarise(curves, actor, overview.noun if overview else "task")
    named = (overview and overview.data) or name_tasks(curves)
    data = {
        "curves": [] if grids else curves_data(curves, chance or {}),
        "panels": [panel_data(panel) for panel in panels],
        "grids": [grid_data(grid) for grid in grids],
        "texts": {task: texts_data(samples) for task, samples in (texts or {}).items() if samples},
        "images": {task: images_data(some) for task, some in (images or {}).items() if some},
        "axes": [wrap_label(axis.label, "<br>") for axis in axes],
    }
    page = _rendered(
        data,
        model=model,
        subject="; ".join(filter(None, [named, subject])),
        summary=" ".join(filter(None, [headline, describe_contrasts(contrasts)])),
        curves=[] if grids else curves,
        panels=panels,
        grids=grids,
        exact=any(curve.exact for curve in curves),
        published=any(curve.published for curve in curves),
        several_draws=any(point.draws > 1 for point in points),
        strength_label=" and ".join(axis.label for axis in axes),
        strength_names=[axis.name for axis in axes] if grids else ["strength"],
        tables=[
            *(table_data(task, curves) for task in task_names(curves)),
            *(table for panel in panels for table in panel_tables(panel)),
        ],
        contrasts=contrast_tables(contrasts),
        open_tables=len(task_names(curves)) <= _OPEN_TASKS,
        overview=overview,
        command=command_of(manifest),
        provenance=flatten({k: v for k, v in manifest.items() if k != "command"}),
        csv="data:text/csv;charset=utf-8," + urllib.parse.quote(points_csv(points)),
    )
    return write_atomic(Path(folder) / "report.html", page)


def _rendered(data: Mapping[str, Any], overview: Overview | None, **fields: Any) -> str:
    """The page, which allows its own scripts alone."""
    scripts = [_plotly_script(), read_template("report.js.j2")]
    pictures = overview.pictures if overview else {}
    template = environment().get_template("report.html.j2")
    return template.render(
        **fields,
        data=embed_json(data),
        text_tasks=list(data["texts"]),
        image_tasks=list(data["images"]),
        overview=overview,
        overview_pictures=[(title, data_uri(content)) for title, content in pictures.items()],
        style=Markup(read_template("report.css.j2")),
        scripts=[Markup(script) for script in scripts],
        script_sources=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
    )


def _model_name(manifest: Mapping[str, Any]) -> str:
    arguments = manifest.get("arguments") or {}
    name = manifest.get("model") or arguments.get("pretrained") or arguments.get("model")
    # Of a local folder only the last component names the model.
    return str(name).rstrip("/").rsplit("/", 1)[-1] if name else "A model"


def command_of(manifest: Mapping[str, Any]) -> str:
    """The command that repeats a study, as a shell takes it."""
    command = manifest.get("command") or ""
    return command if isinstance(command, str) else shlex.join(map(str, command))


def flatten(fields: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The fields of a manifest as lines, those of fields in fields with dotted names."""
    lines: list[tuple[str, str]] = []
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            lines += flatten(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            lines.append((f"{prefix}{name}", text))
    return lines


def environment() -> jinja2.Environment:
    """Where templates are found; what they are given is escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def read_template(name: str) -> str:
    """The text of a template."""
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
