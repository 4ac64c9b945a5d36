"""Values with their standard errors, over documents as the population."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from aim_plugins.sweep.table import Row


@dataclass(frozen=True)
class Estimate:
    """A value and how far it can be trusted.

    Attributes:
        value: The value.
        stderr: Its standard error over documents; None where it is unknown, as of one document.
        n: Number of documents.
        freedom: Degrees of freedom of the error; None for those of n documents, n - 1.
    """

    value: float
    stderr: float | None
    n: int
    freedom: float | None = None

    def row(self, task: str, metric: str, strength: float, second: float | None = None) -> Row:
        """The estimate as a line of the sweep's table."""
        return Row(task, metric, strength, None, self.value, self.stderr, self.n, second)


def mean(values: Sequence[float]) -> Estimate:
    """Mean of the documents' values.

    >>> mean([1.0, 2.0, 3.0])
    Estimate(value=2.0, stderr=0.5773502691896257, n=3, freedom=None)
    """
    count = len(values)
    if not count:
        raise ValueError("values is empty: there is no mean; give at least one")
    middle = math.fsum(values) / count
    if count == 1:
        return Estimate(middle, None, 1)
    variance = math.fsum((value - middle) ** 2 for value in values) / (count - 1)
    return Estimate(middle, math.sqrt(variance / count), count)


def mean_of_draws(
    values: Float[np.ndarray, "documents draws"], *, shared_draws: bool = False
) -> Estimate:
    """Mean over documents and draws, with its error over both.

    Noise is drawn for each document by itself, so its draws are nested in documents, and the error
    is that of the documents' own means. Where one draw does the same to every document, as a choice
    of ablated components does, documents and draws are crossed: both are sampled, and of n
    documents and D draws the variance is (MS_documents + MS_draws - MS_residual) / (n D).

    Args:
        values: What each document scores in each draw.
        shared_draws: Whether a draw does the same to every document.

    Source: the two-way variance of Cameron, Gelbach and Miller, "Robust inference with multiway
    clustering", Journal of Business and Economic Statistics 29, 2011, in mean squares (Searle,
    Casella and McCulloch, "Variance Components", 1992, section 4.5), less what says that draws
    differ by less than nothing; degrees of freedom by Satterthwaite, "An approximate distribution
    of estimates of variance components", Biometrics Bulletin 2, 1946.

    >>> mean_of_draws(np.array([[0.0, 1.0], [1.0, 2.0], [3.0, 2.0]])).stderr
    0.5773502691896257
    """
    found = mean(values.mean(1).tolist())
    n, draws = values.shape
    if not shared_draws or draws == 1 or found.stderr is None:
        return found
    rows, columns = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    residuals = values - rows - columns + values.mean()
    documents = draws * float(rows.var(ddof=1))
    between = n * float(columns.var(ddof=1))
    rest = float((residuals**2).sum()) / ((n - 1) * (draws - 1))
    if between <= rest:
        return found
    total = documents + between - rest
    spread = documents**2 / (n - 1) + between**2 / (draws - 1) + rest**2 / ((n - 1) * (draws - 1))
    return Estimate(found.value, math.sqrt(total / (n * draws)), n, total**2 / spread)


def ratio(values: Sequence[float], counts: Sequence[int]) -> Estimate:
    """Sum of the documents' values over the sum of their counts, with the delta method's error.

    The ratio R = Σ value / Σ count is one of two means over documents. To first order its error is
    that of the mean of value - R count, divided by the mean count.

    Args:
        values: Of each document, such as a loss in nats.
        counts: Of each document, such as its tokens; at least one in all.

    >>> ratio([1.0, 3.0], [2, 2]).value
    1.0
    """
    total = sum(counts)
    found = math.fsum(values) / total
    error = mean([one - found * count for one, count in zip(values, counts, strict=True)]).stderr
    return Estimate(found, None if error is None else error * len(counts) / total, len(counts))


def perplexity(negative_log_likelihoods: Sequence[float], tokens: Sequence[int]) -> Estimate:
    """Perplexity per token, with its standard error by the delta method.

    The mean over tokens is a ratio of two means over documents, R = Σ nll / Σ tokens; the error
    of exp R is exp R times that of R.

    Args:
        negative_log_likelihoods: Of each document, in nats.
        tokens: Number of tokens scored of each document, at least one.

    Returns:
        exp R; infinite, without an error, where that overflows.
    """
    if not sum(tokens):
        raise ValueError("tokens holds no token: there is no perplexity; give longer documents")
    found = ratio(negative_log_likelihoods, tokens)
    try:
        value = math.exp(found.value)
    except OverflowError:
        return Estimate(math.inf, None, len(tokens))
    if found.stderr is None or not math.isfinite(value) or not math.isfinite(found.stderr):
        return Estimate(value, None, len(tokens))
    return Estimate(value, value * found.stderr, len(tokens))
