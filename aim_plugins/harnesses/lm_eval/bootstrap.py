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


def _labels(items: Sequence[tuple[Any, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The labels there are, and each document's true and predicted one, by number."""
    labels, codes = np.unique(np.asarray(items), return_inverse=True)
    gold, predicted = codes.reshape(-1, 2).T
    return labels, gold, predicted


def _f1(items: Sequence[tuple[Any, Any]]) -> Statistic:
    labels, gold, predicted = _labels(items)
    hits = (labels[gold] == 1) & (labels[predicted] == 1)
    named = (labels[gold] == 1).astype(int) + (labels[predicted] == 1)

    def statistic(indices: np.ndarray) -> np.ndarray:
        counts = named[indices].sum(-1, dtype=float)
        return np.divide(
            2 * hits[indices].sum(-1), counts, out=np.zeros_like(counts), where=counts > 0
        )

    return statistic


def _matthews(items: Sequence[tuple[Any, Any]]) -> Statistic:
    """Gorodkin's coefficient of several classes, which is that of Matthews for two.

    Source: J. Gorodkin, "Comparing two K-category assignments by a K-category correlation
    coefficient", Computational Biology and Chemistry 28, 2004.
    """
    labels, gold, predicted = _labels(items)

    def statistic(indices: np.ndarray) -> np.ndarray:
        total = float(indices.shape[-1])
        both = gold[indices], predicted[indices]
        covariance = total * (both[0] == both[1]).sum(-1)
        variances = [np.full(indices.shape[:-1], total**2) for _ in both]
        for label in range(len(labels)):
            true, named = ((side == label).sum(-1, dtype=float) for side in both)
            covariance -= true * named
            variances[0] -= true**2
            variances[1] -= named**2
        scale = np.sqrt(variances[0] * variances[1])
        return np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)

    return statistic


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
