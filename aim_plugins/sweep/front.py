"""The front of a sweep's folder: table, printed table, pictures, report, and trackers.

OUTPUT/
  sweep.csv      every value, by strength and draw, and differences of strengths in pairs
  documents.jsonl  what every document scores, where that is kept
  curves/        a picture for each curve and for the parts of each task, or a heat map for each
                 metric of two strengths
  report.html    all of it on one page
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aim_plugins.core.files import safe_name, write_atomic
from aim_plugins.core.strengths import Axis
from aim_plugins.sweep.contrasts import Contrast, against_reference, describe_contrasts
from aim_plugins.sweep.documents import (
    DOCUMENTS,
    DocumentScores,
    explained,
    score_tables,
    sharpen,
    write_scores,
)
from aim_plugins.sweep.heat_maps import plot_grids
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.panels import Parts, draw_panel, split_panels
from aim_plugins.sweep.plots import group_curves, plot_curves
from aim_plugins.sweep.printed import format_points
from aim_plugins.sweep.report import ImageSample, TextSample, write_report
from aim_plugins.sweep.table import Differences, Point, Row, pool_draws, write_table
from aim_plugins.sweep.trackers import Trackers

TABLE, CURVES = "sweep.csv", "curves"


@dataclass(frozen=True)
class Front:
    """What a finished sweep has to show.

    Attributes:
        rows: Everything measured.
        axes: The strengths, one or two.
        subject: What the report names at its top beside the tasks, such as a concept.
        change: What is done to the model, such as "focus on owl"; part of title and headline.
        headline: What stands first on the page, in place of a sentence on each task's first curve.
        overview: What stands before the curves; its table is printed too.
        chance: Value of a metric that guessing reaches, by task and metric.
        texts: What the model wrote, by task.
        images: What it made of images, by task.
        files: Further files, their content by name.
        pictures: Further pictures: the content of files by name, in `curves`.
        parts: Which tasks are parts of another, and are shown together under it.
        drawn: Points that become pictures; None are all, and an empty list draws nothing.
        printed: Points that the terminal shows; None are all.
        documents: What every document scores, where that is known: strengths are then compared in
            pairs, and errors of means over draws are those of the documents' own means.
    """

    rows: Sequence[Row]
    axes: Sequence[Axis]
    subject: str = ""
    change: str = ""
    headline: str = ""
    overview: Overview | None = None
    chance: Mapping[tuple[str, str], float] = field(default_factory=dict)
    texts: Mapping[str, Sequence[TextSample]] = field(default_factory=dict)
    images: Mapping[str, Sequence[ImageSample]] = field(default_factory=dict)
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    parts: Parts = Parts()
    drawn: Sequence[Point] | None = None
    printed: Sequence[Point] | None = None
    documents: Sequence[DocumentScores] = ()


def publish(
    folder: Path, front: Front, manifest: Mapping[str, Any], trackers: Trackers | None = None
) -> Path:
    """Writes a sweep's front and says where it lies.

    Pictures of curves that are no longer there are removed.

    Args:
        folder: The sweep's folder.
        front: What to show.
        manifest: The sweep's manifest, for the report.
        trackers: Where to log the curves besides.

    Returns:
        The report's path.

    Raises:
        ValueError: If nothing was measured.
        OSError: If a file cannot be written.
    """
    scores = explained(front.documents, front.rows)
    tables = score_tables(scores)
    contrasts = against_reference(tables, front.axes)

    def sharpened(points: Sequence[Point]) -> list[Point]:
        shared = any(axis.shared_draws for axis in front.axes)
        return sharpen(points, tables, shared_draws=shared)

    points = sharpened(pool_draws(front.rows))
    drawn = points if front.drawn is None else sharpened(front.drawn)
    places = {"table": write_table(folder / TABLE, front.rows, _differences(contrasts))}
    if scores:
        places["documents"] = write_scores(folder / DOCUMENTS, scores)
    else:
        (folder / DOCUMENTS).unlink(missing_ok=True)  # of a former run
    for name, content in front.files.items():
        places[Path(name).stem] = write_atomic(folder / name, content)
    if pictures := _draw(folder / CURVES, drawn, front):
        places["pictures"] = pictures
    report = write_report(
        folder,
        points,
        manifest,
        front.texts,
        axes=front.axes,
        subject=front.subject,
        change=front.change,
        headline=front.headline,
        overview=front.overview,
        images=front.images,
        chance=front.chance,
        parts=front.parts,
        contrasts=contrasts,
    )
    if trackers is not None:
        trackers.log(points, run_name=folder.resolve().name)
    printed = points if front.printed is None else sharpened(front.printed)
    _print(front, printed, contrasts, {**places, "report": report})
    return report


def _print(
    front: Front,
    points: Sequence[Point],
    contrasts: Sequence[Contrast],
    places: Mapping[str, Path],
) -> None:
    """Shows the curves and what follows from them, and says what lies where."""
    print(format_points(points, front.axes))
    if contrasts:
        print(f"\n{describe_contrasts(contrasts)}")
    if front.overview is not None and front.overview.rows:
        print(f"\n{front.overview.as_text()}")
    if front.headline:
        print(f"\n{front.headline}")
    print()
    width = max(map(len, [*places, "pictures"])) + 1
    for name, place in places.items():
        print(f"{name + ':':<{width}} {place}")


def _differences(contrasts: Sequence[Contrast]) -> Differences:
    """The columns of the table that hold differences."""
    found = {}
    for one in contrasts:
        strength, *second = one.strengths
        place = (one.task, one.metric, strength, second[0] if second else None)
        told = one.difference
        found[place] = (told.value, told.low, told.high, told.p, one.holm_p)
    return found


def _draw(folder: Path, points: Sequence[Point], front: Front) -> Path | None:
    written: list[Path] = []
    if len(front.axes) == 2 and points:
        written += plot_grids(points, folder, axes=(front.axes[0], front.axes[1]))
    elif points:
        own = [point for point in points if point.task not in front.parts.owners]
        if own:
            written += plot_curves(own, folder, axis=front.axes[0], chance=front.chance)
        for panel in split_panels(group_curves(points), front.parts)[1]:
            stem = safe_name(f"{panel.task}-{panel.metric}-by-{panel.noun}")
            written += [
                write_atomic(folder / f"{stem}.{suffix}", content)
                for suffix, content in draw_panel(panel, front.axes[0]).items()
            ]
    written += [write_atomic(folder / name, content) for name, content in front.pictures.items()]
    for picture in set(folder.iterdir() if folder.is_dir() else ()) - set(written):
        if picture.suffix in (".png", ".svg"):  # of a task that is no longer there
            picture.unlink()
    return folder if written else None
