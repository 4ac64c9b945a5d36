"""What every document scores at every strength and draw: strengths are compared in pairs by it.

A sweep's folder keeps it in `documents.jsonl`: of each task a line of its documents, and of each
metric, strength and draw a line of their scores.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Real

from aim_plugins.core.files import write_atomic
from aim_plugins.sweep.estimates import mean_of_draws
from aim_plugins.sweep.table import Point, Row

DOCUMENTS = "documents.jsonl"
Cells = Mapping[tuple[float, ...], Float[np.ndarray, "documents draws"]]
"""By strengths, what each document scores in each draw."""

_ROUNDING = 1e-6
"""Relative; a metric that is the mean of its documents' scores is so to rounding."""


@dataclass(frozen=True)
class DocumentScores:
    """What every document of a task scores under one metric, at one strength and draw.

    Attributes:
        task: Name of the task.
        metric: Name of the metric, which is the mean of the scores.
        strengths: The strength along each axis.
        draw: Index of the draw.
        documents: A text for each document that tells it from others, such as a hash.
        scores: Of each document, in this order.
    """

    task: str
    metric: str
    strengths: tuple[float, ...]
    draw: int
    documents: Sequence[str]
    scores: Real[np.ndarray, " documents"]


@dataclass(frozen=True)
class ScoreTable:
    """What every document scores under one metric.

    Attributes:
        task: Name of the task.
        metric: Name of the metric.
        documents: What tells each document from others.
        cells: By strengths, what each document scores in each draw.
    """

    task: str
    metric: str
    documents: tuple[str, ...]
    cells: Cells


def explained(scores: Sequence[DocumentScores], rows: Iterable[Row]) -> list[DocumentScores]:
    """The scores whose metric is their mean, in the row that they belong to.

    A metric that pools its documents otherwise is left out, and so are documents that are not
    those of the task's first scores.
    """
    documents: dict[tuple[str, str], Sequence[str]] = {}
    for one in scores:
        documents.setdefault((one.task, one.metric), one.documents)
    values = {(row.task, row.metric, _strengths(row), row.draw or 0): row.value for row in rows}
    return [
        one
        for one in scores
        if documents[one.task, one.metric] == one.documents
        and np.isclose(
            values.get((one.task, one.metric, one.strengths, one.draw), np.nan),
            one.scores.mean(),
            rtol=_ROUNDING,
            atol=_ROUNDING,
        )
    ]


def score_tables(scores: Iterable[DocumentScores]) -> list[ScoreTable]:
    """Scores by task and metric, in order of first appearance; draws rise from 0.

    Raises:
        ValueError: If two draws or strengths of a task are of different documents.
    """
    members: dict[tuple[str, str], dict[tuple[float, ...], list[DocumentScores]]] = {}
    for one in scores:
        members.setdefault((one.task, one.metric), {}).setdefault(one.strengths, []).append(one)
    tables = []
    for (task, metric), places in members.items():
        documents = tuple(next(iter(places.values()))[0].documents)
        for one in itertools.chain.from_iterable(places.values()):
            if one.documents is not documents and tuple(one.documents) != documents:
                raise ValueError(
                    f"{metric} of {task} at strength {one.strengths} is of other documents than at "
                    "the first: compute both on the same ones"
                )
        cells = {
            strengths: np.stack(
                [one.scores for one in sorted(draws, key=lambda one: one.draw)], axis=1
            ).astype(float)
            for strengths, draws in sorted(places.items(), key=lambda place: place[0][::-1])
        }
        tables.append(ScoreTable(task, metric, documents, cells))
    return tables


def sharpen(
    points: Iterable[Point], tables: Iterable[ScoreTable], *, shared_draws: bool
) -> list[Point]:
    """Points whose errors are those of the documents' own means, where these are known.

    `pool_draws` only has each draw's error, and bounds that of their mean.

    Args:
        points: Points, pooled over draws.
        tables: What their documents score.
        shared_draws: Whether a draw does the same to every document; see `mean_of_draws`.
    """
    known = {(table.task, table.metric): table.cells for table in tables}
    return [_sharpened(point, known, shared_draws) for point in points]


def _sharpened(
    point: Point,
    known: Mapping[tuple[str, str], Cells],
    shared_draws: bool,
) -> Point:
    values = known.get((point.task, point.metric), {}).get(point.strengths)
    if values is None or values.shape[1] == 1 or values.shape != (point.n, point.draws):
        return point
    found = mean_of_draws(values, shared_draws=shared_draws)
    return replace(point, stderr=found.stderr, freedom=found.freedom)


def write_scores(path: str | Path, scores: Iterable[DocumentScores]) -> Path:
    """Writes scores as JSON lines, atomically."""
    lines: list[dict[str, Any]] = []
    held: dict[str, Sequence[str]] = {}
    for one in scores:
        if held.get(one.task) is not one.documents and held.get(one.task) != one.documents:
            held[one.task] = one.documents
            lines.append({"task": one.task, "documents": list(one.documents)})
        place = {"task": one.task, "metric": one.metric, "strengths": list(one.strengths)}
        lines.append({**place, "draw": one.draw, "scores": encode_scores(one.scores)})
    return write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines))


def read_scores(path: str | Path) -> list[DocumentScores]:
    """Reads what `write_scores` wrote.

    Raises:
        ValueError: If a line holds something else.
    """
    held: dict[str, list[str]] = {}
    found = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                one = json.loads(line)
                if "documents" in one:
                    held[one["task"]] = [str(name) for name in one["documents"]]
                    continue
                scores = score_array(one["scores"])
                documents = held[one["task"]]
                if len(scores) != len(documents):
                    raise ValueError(f"{len(scores)} scores of {len(documents)} documents")
                strengths = tuple(map(float, one["strengths"]))
                place = (one["task"], one["metric"], strengths, int(one["draw"]))
                found.append(DocumentScores(*place, documents, scores))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number} holds no scores of documents ({error}): run the "
                    "sweep's command again, which writes the file anew"
                ) from error
    return found


def encode_scores(scores: Sequence[float] | Real[np.ndarray, " documents"]) -> str | list[float]:
    """Writes scores shortly: as digits if all are 0 or 1, else as they are."""
    values = np.asarray(scores, dtype=float)
    if np.isin(values, (0, 1)).all():
        return (values.astype(np.uint8) + ord("0")).tobytes().decode()
    return values.tolist()


def decode_scores(encoded: str | Sequence[float]) -> list[float]:
    """Reads what `encode_scores` wrote."""
    return [float(score) for score in encoded]


def score_array(encoded: str | Sequence[float]) -> Real[np.ndarray, " documents"]:
    """What `encode_scores` wrote, as an array; of digits it has a byte for each."""
    if isinstance(encoded, str):
        return np.frombuffer(encoded.encode(), dtype=np.uint8) - np.uint8(ord("0"))
    return np.array(encoded, dtype=float)


def _strengths(row: Row) -> tuple[float, ...]:
    second = row.second_strength
    return (row.strength,) if second is None else (row.strength, second)
