"""Standard errors of bootstrapped metrics, in array operations and from the same resamples.

The harness resamples the documents 100,000 times in Python for each metric of each task (100 times
for the metrics of sacrebleu), and a sweep would do that again in every column. Here a metric's
statistic is computed for thousands of resamples at once. The resamples depend on the number of
documents alone, so that the columns of a sweep are bootstrapped in pairs.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", algorithm 6.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from lm_eval import evaluator_utils
from lm_eval.api import metrics
from sacrebleu.metrics import BLEU, CHRF, TER
from scipy.stats import bootstrap

Statistic = Callable[[np.ndarray], np.ndarray]
"""Takes indices of documents [..., documents]; returns a metric's value for each row."""

_BATCH = 2**21
"""Documents resampled at once, in all resamples together."""


@contextmanager
def shared_resamples() -> Iterator[None]:
    """Within the context the harness bootstraps its metrics with `standard_error`."""
    original = evaluator_utils.stderr_for_metric

    def stderr_for_metric(metric: Any, bootstrap_iters: int) -> Any:
        if metric not in STATISTICS or bootstrap_iters < 2:
            return original(metric, bootstrap_iters)
        return lambda items: standard_error(STATISTICS[metric](items), len(items), bootstrap_iters)

    evaluator_utils.stderr_for_metric = stderr_for_metric
    try:
        yield
    finally:
        evaluator_utils.stderr_for_metric = original


def standard_error(statistic: Statistic, documents: int, iterations: int) -> float:
    """The standard deviation of a statistic over resamples of the documents.

    Args:
        statistic: The metric.
        documents: How many there are; resamples are of the same size, with replacement.
        iterations: How many resamples.
    """
    result = bootstrap(
        (np.arange(documents),),
        lambda indices, axis: statistic(indices),
        n_resamples=iterations,
        batch=max(1, _BATCH // documents),
        vectorized=True,
        method="percentile",
        rng=0,
    )
    return float(result.standard_error)


def _perplexity(items: Sequence[float]) -> Statistic:
    values = np.asarray(items, dtype=float)
    return lambda indices: np.exp(-values[indices].mean(-1))


def _nanmean(items: Sequence[float]) -> Statistic:
    values = np.asarray(items, dtype=float)
    return lambda indices: np.nanmean(values[indices], -1)


def _median(items: Sequence[float]) -> Statistic:
    values, middle = np.asarray(items, dtype=float), len(items) // 2
    return lambda indices: np.partition(values[indices], middle, -1)[..., middle]


def _confusions(items: Sequence[tuple[Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Each document's pair of labels, one-hot: [documents, gold x predicted]; and the labels."""
    labels, codes = np.unique(np.asarray(items), return_inverse=True)
    gold, predicted = codes.reshape(-1, 2).T
    return np.eye(len(labels) ** 2)[gold * len(labels) + predicted], labels


def _confusion_statistic(
    items: Sequence[tuple[Any, Any]], value: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Statistic:
    pairs, labels = _confusions(items)

    def statistic(indices: np.ndarray) -> np.ndarray:
        counts = np.stack([pairs[:, pair][indices].sum(-1) for pair in range(len(labels) ** 2)], -1)
        counts = counts.reshape(*counts.shape[:-1], len(labels), len(labels))
        return value(counts, labels)

    return statistic


def _f1(items: Sequence[tuple[Any, Any]]) -> Statistic:
    def value(counts: np.ndarray, labels: np.ndarray) -> np.ndarray:
        positive = labels == 1
        hits = counts[..., positive, positive].sum(-1)
        named = counts[..., positive, :].sum((-1, -2)) + counts[..., positive].sum((-1, -2))
        return np.divide(2 * hits, named, out=np.zeros_like(named), where=named > 0)

    return _confusion_statistic(items, value)


def _matthews(items: Sequence[tuple[Any, Any]]) -> Statistic:
    def value(counts: np.ndarray, labels: np.ndarray) -> np.ndarray:
        gold, predicted = counts.sum(-1), counts.sum(-2)
        total = gold.sum(-1)
        correct = np.trace(counts, axis1=-2, axis2=-1)
        covariance = correct * total - (gold * predicted).sum(-1)
        variances = (total**2 - (gold**2).sum(-1)) * (total**2 - (predicted**2).sum(-1))
        scale = np.sqrt(variances)
        return np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)

    return _confusion_statistic(items, value)


def _sacrebleu(metric: Any) -> Callable[[Sequence[tuple[Any, Any]]], Statistic]:
    """A metric of sacrebleu, from the sums of its counts over documents."""

    def of_items(items: Sequence[tuple[Any, Any]]) -> Statistic:
        references, predictions = metrics._sacreformat(*zip(*items, strict=True))
        counts = np.asarray(metric._extract_corpus_statistics(predictions, references))

        def statistic(indices: np.ndarray) -> np.ndarray:
            sums = counts[indices].sum(-2)
            rows = sums.reshape(-1, sums.shape[-1]).tolist()
            scores = [metric._compute_score_from_stats(row).score for row in rows]
            return np.asarray(scores).reshape(sums.shape[:-1])

        return statistic

    return of_items


STATISTICS: dict[Any, Callable[[Sequence[Any]], Statistic]] = {
    metrics.perplexity: _perplexity,
    metrics.nanmean: _nanmean,
    metrics.median: _median,
    metrics.f1_score: _f1,
    metrics.matthews_corrcoef: _matthews,
    metrics.bleu: _sacrebleu(BLEU()),
    metrics.chrf: _sacrebleu(CHRF()),
    metrics.chrfpp: _sacrebleu(CHRF(word_order=2)),
    metrics.ter: _sacrebleu(TER()),
}
"""The harness's bootstrapped metrics; any other is left to the harness."""
