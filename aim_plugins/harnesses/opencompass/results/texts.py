"""What a model wrote at every strength, read from OpenCompass's prediction files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aim_plugins.sweep.report_data import Strengths, TextSample

DOCUMENTS = 24
"""Documents of one data set that a report shows."""

_ALL_DOCUMENTS = 240
"""Documents of all data sets together, so that MMLU's 57 do not swell the page."""


def documents_shown(datasets: int) -> int:
    """How many documents of each of several data sets a report shows."""
    return max(1, min(DOCUMENTS, _ALL_DOCUMENTS // max(1, datasets)))


def sample_texts(
    predictions: Mapping[tuple[float, ...], Path],
    scores: Mapping[tuple[float, ...], Sequence[float]],
    documents: int,
) -> list[TextSample]:
    """Generated texts of a data set's first documents.

    Args:
        predictions: The predictions file at each strength, or at both of a grid.
        scores: The documents' scores at a strength, where they are known.
        documents: How many documents to show.
    """
    prompts: dict[str, Mapping[str, Any]] = {}
    texts: dict[str, dict[Strengths, str]] = {}
    marks: dict[str, dict[Strengths, float]] = {}
    for strength, path in predictions.items():
        answers = json.loads(path.read_text(encoding="utf-8"))
        known = scores.get(strength, ())
        for index, (name, answer) in enumerate(list(answers.items())[:documents]):
            prompts.setdefault(name, answer)
            texts.setdefault(name, {})[strength] = _text(answer.get("prediction"))
            if len(known) == len(answers):
                marks.setdefault(name, {})[strength] = known[index]
    return [
        TextSample(
            doc_id=name,
            prompt=_text(answer.get("origin_prompt")),
            target=_text(answer.get("gold", "")),
            texts=texts[name],
            scores=marks.get(name, {}),
        )
        for name, answer in prompts.items()
    ]


def _text(value: Any) -> str:
    """A prompt, an answer or a gold answer as text: some are lists, and dialogues lists of turns.

    >>> _text([{"role": "HUMAN", "prompt": "2 + 2?"}, {"role": "BOT", "prompt": ""}])
    'HUMAN: 2 + 2?'
    """
    if isinstance(value, Mapping):
        said = str(value.get("prompt") or value.get("content") or "")
        return f"{value.get('role', '')}: {said}" if said else ""
    if isinstance(value, list):
        return "\n".join(filter(None, map(_text, value)))
    return "" if value is None else str(value)
