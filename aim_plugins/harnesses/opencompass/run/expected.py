"""Exact probabilities of multiple choice by perplexity, beside the sampled answers.

Where the prompts of a document differ in their last token alone, their perplexities share all but
that token's logit: the choice with the lowest perplexity is the argmax of the choices' modulated
logits. Where a change of logits knows its law (`Change.argmax_law`), each choice's probability
follows from the clean logits, and with it the expected accuracy, without sampling.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.core.files import write_atomic
from aim_plugins.engines.engine import ScoreRow
from aim_plugins.harnesses.opencompass.run.replay import Span
from aim_plugins.sweep.documents import decode_scores

_LABEL = "label: "
_PROBABILITY = "probability"


def choice_logits(
    asked: Sequence[Span], scores: Mapping[Span, ScoreRow], choices: int, column: int
) -> Float[Tensor, "documents choices"] | None:
    """Logits of the choices of each document without changes of logits, up to a constant.

    Args:
        asked: What OpenCompass's perplexity inferencer asks for: all documents with the first
            choice, all with the second, and so on.
        scores: The table's row of each.
        choices: Number of choices.
        column: Index of the column.

    Returns:
        The logits in float64, or None where the law does not apply: other questions beside these,
        or choices that differ in more than their last token.
    """
    if choices < 2 or len(asked) % choices or not asked:
        return None
    documents = len(asked) // choices
    rows = []
    for document in range(documents):
        spans = asked[document::documents]
        contexts = {(span.tokens[:-1], span.start) for span in spans}
        last = {span.tokens[-1] for span in spans}
        if len(contexts) > 1 or len(last) < choices or not all(span in scores for span in spans):
            return None
        rows.append([scores[span].clean[column] for span in spans])
    return torch.tensor(rows, dtype=torch.float64)


def label_keys(predictions: Mapping[str, Any]) -> list[str]:
    """The keys under which a predictions file holds the choices of a document."""
    return [key for key in predictions.get("0", {}) if key.startswith(_LABEL)]


def add_probabilities(path: Path, law: Float[Tensor, "documents choices"]) -> None:
    """Writes each choice's probability beside its perplexity into a predictions file.

    Args:
        path: The file, as OpenCompass's perplexity inferencer writes it.
        law: The probabilities.
    """
    predictions = json.loads(path.read_bytes())
    keys = label_keys(predictions)
    for document, row in enumerate(law.tolist()):
        for key, probability in zip(keys, row, strict=True):
            predictions[str(document)][key][_PROBABILITY] = probability
    write_atomic(path, json.dumps(predictions, indent=4, ensure_ascii=False))


def explain_expected(
    metrics: Mapping[str, Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The exact law of the metrics that ask whether the predicted choice is the gold one.

    Args:
        metrics: What is known about each metric, as `explain_metrics` finds it.
        predictions: The documents of a predictions file.

    Returns:
        For each metric with a law its `scale`, and as `scores` the probability of each document's
        gold choice.
    """
    probabilities, hits = [], []
    for document in predictions:
        choice = document.get(f"{_LABEL}{document.get('gold')}", {})
        if _PROBABILITY not in choice:
            return {}
        probabilities.append(float(choice[_PROBABILITY]))
        hits.append(float(document["prediction"] == document["gold"]))
    return {
        metric: {"scale": found["scale"], "scores": probabilities}
        for metric, found in metrics.items()
        if decode_scores(found["scores"]) == hits
    }
