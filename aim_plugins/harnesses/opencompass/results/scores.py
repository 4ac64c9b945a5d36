"""The score of each document, from which a metric's standard error follows.

OpenCompass keeps a metric as one number, some evaluators a share and most of them a percentage.
Where the mean of the documents' scores gives that number again, the scores tell both its scale and
its error; where it does not, nothing is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from aim_plugins.sweep.documents import encode_scores

CORRECT_KEYS = ("correct", "is_correct", "cascade_correct")
"""How evaluators call the correctness of a document in their details, as OpenCompass reads them."""

_SCALES = (100.0, 1.0)
_ROUNDING = 0.005  # evaluators that round a percentage keep at least two decimals


def read_correctness(details: Any) -> list[float] | None:
    """The score of each document in an evaluator's details.

    Args:
        details: A list with a dict for each document, or such dicts by name. A document evaluated
            several times holds a list of verdicts; its score is their mean.

    Returns:
        Scores between 0 and 1, or None where a document has none.
    """
    documents = _documents(details)
    found = (_verdicts(documents, key) for key in CORRECT_KEYS)
    return next((scores for scores in found if scores), None)


def read_named_scores(details: Any, metrics: Iterable[str]) -> dict[str, list[float]]:
    """The scores of documents that an evaluator's details hold under the names of its metrics.

    Of questions that are asked `n` times they hold `G-Pass@k` there, one number a question, and a
    metric `part/G-Pass@k` is that of the questions of one part.

    Args:
        details: As for `read_correctness`.
        metrics: Names of metrics.

    Returns:
        Scores between 0 and 1, for each metric that every document has one for.
    """
    documents = _documents(details)
    found = {}
    for metric in metrics:
        part, _, name = metric.rpartition("/")
        members = [one for one in documents if not part or _part(one) == part]
        if scores := _verdicts(members, name):
            found[metric] = scores
    return found


def average_by(labels: Sequence[Any] | None, scores: Sequence[float] | None) -> list[float] | None:
    """The mean score of each question, where documents are questions asked repeatedly.

    Args:
        labels: The question of each document; None where each is one of its own.
        scores: The score of each document.

    Returns:
        The means in the order of the questions; None if the scores are not those of the documents.

    >>> average_by(["a", "b", "a", "b"], [1, 0, 0, 0])
    [0.5, 0.0]
    """
    if labels is None or scores is None:
        return None if scores is None else list(scores)
    if len(labels) != len(scores):
        return None
    members: dict[Any, list[float]] = {}
    for label, score in zip(labels, scores, strict=True):
        members.setdefault(label, []).append(score)
    return [math.fsum(values) / len(values) for values in members.values()]


def compare_texts(predictions: Any, references: Any) -> list[float] | None:
    """Whether each prediction reads like its reference, or None where they are no pairs."""
    if not (isinstance(predictions, Iterable) and isinstance(references, Iterable)):
        return None
    predictions, references = list(predictions), list(references)
    if len(predictions) != len(references):
        return None
    return [
        float(str(prediction) == str(reference))
        for prediction, reference in zip(predictions, references, strict=True)
    ]


def explain_metrics(
    metrics: Mapping[str, Any],
    candidates: Sequence[Sequence[float] | None],
    named: Mapping[str, Sequence[float] | None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Finds the metrics whose value is the mean of known scores.

    Args:
        metrics: Metrics by name, as OpenCompass writes them.
        candidates: Scores of the documents; of several that fit, the first counts.
        named: Scores of the documents that are known to be those of a metric, by its name.

    Returns:
        For each metric that was found its `scale` (100 for a percentage, 1 for a share) and its
        `scores`, as `encode_scores` writes them.

    >>> explain_metrics({"accuracy": 75.0, "f1": 61.2}, [[1, 0, 1, 1]])
    {'accuracy': {'scale': 100.0, 'scores': '1011'}}
    """
    explained = {}
    for metric, value in metrics.items():
        if not is_number(value):
            continue
        for scores in ((named or {}).get(metric), *candidates):
            scale = _scale(float(value), scores) if scores else None
            if scores and scale:
                explained[metric] = {"scale": scale, "scores": encode_scores(scores)}
                break
    return explained


def mean_stderr(scores: Sequence[float]) -> float | None:
    """Standard error of the mean of scores, with n - 1 in the variance, as lm-eval estimates it.

    >>> mean_stderr([1, 0, 1, 1])
    0.25

    Returns:
        The error, or None for fewer than two scores.
    """
    count = len(scores)
    if count < 2:
        return None
    mean = math.fsum(scores) / count
    return math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / (count - 1) / count)


def is_number(value: Any) -> bool:
    """Tells whether OpenCompass takes a value of a result for a metric."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _documents(details: Any) -> list[Any]:
    documents = list(details.values()) if isinstance(details, Mapping) else details
    return documents if isinstance(documents, list) else []


def _part(document: Any) -> str:
    """The part of the data that a document is of, as OpenCompass's evaluators split its name."""
    name = document.get("example_abbr") if isinstance(document, Mapping) else None
    return str(name).split("_")[0]


def _verdicts(documents: Sequence[Any], key: str) -> list[float] | None:
    scores = [_verdict(document, key) for document in documents]
    known = [score for score in scores if score is not None]
    return known if known and len(known) == len(scores) else None


def _verdict(document: Any, key: str) -> float | None:
    value = document.get(key) if isinstance(document, Mapping) else None
    verdicts: list[Any] = value if isinstance(value, list) and value else [value]
    kinds = int | float | np.bool_ | np.number
    if not all(isinstance(verdict, kinds) and 0 <= verdict <= 1 for verdict in verdicts):
        return None
    return math.fsum(verdicts) / len(verdicts)


def _scale(value: float, scores: Sequence[float]) -> float | None:
    mean = math.fsum(scores) / len(scores)
    for tolerance in (1e-9, _ROUNDING):  # exactly, before a rounded percentage hides a tiny share
        for scale in _SCALES:
            if abs(scale * mean - value) <= tolerance * scale / 100 * (1 + 1e-6):
                return scale
    return None
