"""Values with their standard errors, over documents as the population."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aim_plugins.sweep.table import Row


@dataclass(frozen=True)
class Estimate:
    """A value and how far it can be trusted.

    Attributes:
        value: The value.
        stderr: Its standard error over documents; None where it is unknown, as of one document.
        n: Number of documents.
    """

    value: float
    stderr: float | None
    n: int

    def row(self, task: str, metric: str, strength: float, second: float | None = None) -> Row:
        """The estimate as a line of the sweep's table."""
        return Row(task, metric, strength, None, self.value, self.stderr, self.n, second)


def mean(values: Sequence[float]) -> Estimate:
    """Mean of the documents' values.

    >>> mean([1.0, 2.0, 3.0])
    Estimate(value=2.0, stderr=0.5773502691896257, n=3)
    """
    count = len(values)
    if not count:
        raise ValueError("values is empty: there is no mean; give at least one")
    middle = math.fsum(values) / count
    if count == 1:
        return Estimate(middle, None, 1)
    variance = math.fsum((value - middle) ** 2 for value in values) / (count - 1)
    return Estimate(middle, math.sqrt(variance / count), count)


def perplexity(negative_log_likelihoods: Sequence[float], tokens: Sequence[int]) -> Estimate:
    """Perplexity per token, with its standard error by the delta method.

    The mean over tokens is a ratio of two means over documents, R = Σ nll / Σ tokens. To first
    order its error is that of the mean of nll - R tokens, divided by the mean number of tokens;
    that of exp R is exp R times as large.

    Args:
        negative_log_likelihoods: Of each document, in nats.
        tokens: Number of tokens scored of each document, at least one.

    Returns:
        exp R; infinite, without an error, where that overflows.
    """
    total = sum(tokens)
    if not total:
        raise ValueError("tokens holds no token: there is no perplexity; give longer documents")
    ratio = math.fsum(negative_log_likelihoods) / total
    residuals = [
        nll - ratio * count for nll, count in zip(negative_log_likelihoods, tokens, strict=True)
    ]
    try:
        value = math.exp(ratio)
    except OverflowError:
        return Estimate(math.inf, None, len(tokens))
    error = mean(residuals).stderr
    if error is None or not math.isfinite(value):
        return Estimate(value, None, len(tokens))
    return Estimate(value, value * error * len(tokens) / total, len(tokens))
