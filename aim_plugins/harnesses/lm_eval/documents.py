"""What each document scores, from the harness's samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aim_plugins.sweep.cells import CellRecord
from aim_plugins.sweep.documents import DocumentScores, encode_scores, score_array

_HASH_LENGTH = 8
"""Hexadecimal digits that tell a document from another one in its place."""


def scores_record(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """What the documents of a column score, as its cell keeps it.

    Args:
        samples: The harness's samples of each task; one for each document and filter.

    Returns:
        JSON: of each task its documents' hashes, and their scores by metric, where these are
        numbers. What a metric pools otherwise, as texts for BLEU, has none.
    """
    return {task: found for task, own in samples.items() if (found := _task_record(own))}


def read_documents(records: Iterable[CellRecord]) -> list[DocumentScores]:
    """The scores that finished cells keep, in the order of the tasks and metrics."""
    found = [
        DocumentScores(
            *(task, metric, record.cell.strengths, record.cell.draw),
            _parted(one["documents"]),
            score_array(scores),
        )
        for record in records
        for task, one in record.metadata.get("documents", {}).items()
        for metric, scores in one["scores"].items()
    ]
    order = {key: place for place, key in enumerate({(one.task, one.metric): 0 for one in found})}
    return sorted(found, key=lambda one: order[one.task, one.metric])


def _task_record(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scores: dict[str, list[float]] = {}
    hashes: dict[Any, str] = {}
    # Several processes hand in their samples one after the other.
    for sample in sorted(samples, key=lambda one: one["doc_id"]):
        hashes[sample["doc_id"]] = sample["doc_hash"][:_HASH_LENGTH]
        for metric in sample["metrics"]:
            named = sample["filter"] in ("", "none")
            label = metric if named else f"{metric},{sample['filter']}"
            value = sample[metric]
            scores.setdefault(label, []).append(
                float(value) if isinstance(value, int | float) else float("nan")
            )
    known = {
        label: encode_scores(values)
        for label, values in scores.items()
        if len(values) == len(hashes) and all(value == value for value in values)
    }
    return {"documents": "".join(hashes.values()), "scores": known} if known else {}


def _parted(hashes: str) -> list[str]:
    return [hashes[at : at + _HASH_LENGTH] for at in range(0, len(hashes), _HASH_LENGTH)]
