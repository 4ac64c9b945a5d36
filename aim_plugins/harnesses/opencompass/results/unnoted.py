"""Files of OpenCompass's own tasks, which leave no notes.

Such a file is used with a warning, since nothing says what it was computed from: they may be of the
present configuration or of any other that had the same names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aim_plugins.harnesses.opencompass.cells import Cell

_UNVERIFIED = "unverified"
UNVERIFIED: Mapping[str, Any] = {_UNVERIFIED: True}
"""What to note about a result of predictions without a note."""


def has_unnoted_prediction(cell: Cell) -> bool:
    """Whether there are answers, and nothing says of which configuration."""
    return cell.prediction_note() is None and cell.prediction.exists()


def has_unnoted_result(cell: Cell) -> bool:
    """Whether there are whole metrics, and nothing says of which configuration."""
    if cell.result_note() is not None or not isinstance(_read_json(cell.result), dict):
        return False
    # Metrics of answers that are stale are stale.
    return cell.prediction_note() is None or cell.has_prediction()


def has_verified_result(cell: Cell) -> bool:
    """Whether the metrics are fresh, and so are the answers that they were computed from."""
    return cell.has_result() and not (cell.result_note() or {}).get(_UNVERIFIED)


def result_statistics(cell: Cell, dataset_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the documents behind a result: what was noted, or only their number.

    Args:
        cell: A cell with a result.
        dataset_cfg: Its data set.
    """
    note = cell.result_note()
    if note is not None:
        return note["statistics"]
    return {"documents": _count_documents(cell, dataset_cfg), "metrics": {}}


def _count_documents(cell: Cell, dataset_cfg: Mapping[str, Any]) -> int:
    answers = _length(_read_json(cell.prediction))
    part = 0
    while not cell.prediction.exists() and cell.slice_path(part).exists():
        # OpenCompass leaves a data set in the parts that it has cut it into.
        answers += _length(_read_json(cell.slice_path(part)))
        part += 1
    if answers:
        repeats = (dataset_cfg.get("n") or 1) * (dataset_cfg.get("num_repeats") or 1)
        return answers // repeats
    return _length((_read_json(cell.result) or {}).get("details"))


def _length(content: Any) -> int:
    if isinstance(content, Mapping):
        content = [key for key in content if key.isdigit()]  # beside the documents stands a type
    return len(content) if isinstance(content, list) else 0


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
