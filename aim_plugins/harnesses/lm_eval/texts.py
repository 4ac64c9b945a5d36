"""What a model wrote at every strength, read from the harness's samples files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aim_plugins.sweep.cells import CellRecord
from aim_plugins.sweep.report_data import Strengths, TextSample

DOCUMENTS = 24
"""Documents of each task that a report shows."""


def sample_texts(records: Sequence[CellRecord]) -> dict[str, list[TextSample]]:
    """Generated texts of each task's first documents, at every strength of the first draw.

    Args:
        records: Finished cells, whose folders hold the harness's samples files.

    Returns:
        Samples by task, only of tasks that generate.
    """
    tasks: dict[str, dict[Any, list[tuple[Strengths, dict[str, Any]]]]] = {}
    for record in records:
        if record.cell.draw != 0:
            continue
        strength = record.cell.strengths if record.cell.strengths[1:] else record.cell.strength
        for path in sorted(record.folder.rglob("samples_*.jsonl")):
            task = path.name.removeprefix("samples_").rsplit("_", 1)[0]
            for sample in _generations(path):
                by_strength = tasks.setdefault(task, {}).setdefault(sample["doc_id"], [])
                if strength not in (there for there, _ in by_strength):
                    by_strength.append((strength, sample))
    return {
        task: [_text_sample(samples) for samples in documents.values()]
        for task, documents in tasks.items()
    }


def _generations(path: Path) -> Iterator[dict[str, Any]]:
    """The samples of the first documents; a document has one for each of the task's filters."""
    seen: set[Any] = set()
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            sample = json.loads(line)
            if not isinstance(sample["arguments"]["gen_args_0"].get("arg_1"), dict):
                return
            seen.add(sample["doc_id"])
            if len(seen) > DOCUMENTS:
                return
            yield sample


def _text_sample(samples: Sequence[tuple[Strengths, dict[str, Any]]]) -> TextSample:
    first = samples[0][1]
    metric = first["metrics"][0]
    return TextSample(
        doc_id=first["doc_id"],
        prompt=first["arguments"]["gen_args_0"]["arg_0"],
        target=first["target"],
        texts={strength: sample["resps"][0][0] for strength, sample in samples},
        scores={
            strength: float(sample[metric])
            for strength, sample in samples
            if isinstance(sample[metric], int | float)
        },
    )
