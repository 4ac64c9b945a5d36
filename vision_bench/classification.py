"""Accuracy of a classifier under logit noise, exact and sampled.

AIM's utility modulation, "AI Model Modulation with Logits Redistribution" (arXiv:2603.12755): every
logit receives independent noise N(0, σ²), and the argmax is the answer. Its expected accuracy at
every σ follows exactly from the clean logits; sampled runs, which a deployed model is, scatter
around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import SupportsFloat

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.modulation.noise import prefix_keys, standard_normal
from aim_plugins.modulation.ordering import label_probability
from aim_plugins.sweep.strengths import parse_strengths
from aim_plugins.sweep.table import Row

_NOISE_ELEMENTS = 1 << 20
"""Draws held at a time."""


@dataclass(frozen=True)
class AccuracyCurve:
    """Top-1 accuracy at every strength; all tensors are float64 and on the CPU.

    Attributes:
        stds: Noise standard deviations in logit units.
        expected: Exact expectation over the noise of the accuracy on these documents.
        expected_stderr: Its standard error over documents, as a sample of all documents.
        noise_std_of_accuracy: Standard deviation over the noise of one draw's accuracy on these
            documents: how far `sampled` scatters around `expected`.
        sampled: Accuracy of each draw; every strength scales the same noise.
        sampled_stderr: Standard error of each sampled accuracy over documents.
        n: Number of documents.
    """

    stds: tuple[float, ...]
    expected: Float[Tensor, " strengths"]
    expected_stderr: Float[Tensor, " strengths"]
    noise_std_of_accuracy: Float[Tensor, " strengths"]
    sampled: Float[Tensor, "strengths draws"]
    sampled_stderr: Float[Tensor, "strengths draws"]
    n: int

    def rows(self, task: str) -> list[Row]:
        """The curve as rows of a sweep's table, metrics `acc` and `acc_expected`.

        Args:
            task: Name of the data set and model in the table.

        Returns:
            By metric, strength and draw.
        """
        rows = []
        for std, values, stderrs in zip(self.stds, self.sampled, self.sampled_stderr, strict=True):
            for draw, (value, stderr) in enumerate(zip(values, stderrs, strict=True)):
                rows.append(Row(task, "acc", std, draw, float(value), float(stderr), self.n))
        for std, value, stderr in zip(self.stds, self.expected, self.expected_stderr, strict=True):
            rows.append(Row(task, "acc_expected", std, None, float(value), float(stderr), self.n))
        return rows


def accuracy_curve(
    logits: Float[Tensor, "documents classes"],
    labels: Int[Tensor, " documents"],
    stds: str | SupportsFloat | Sequence[SupportsFloat],
    *,
    draws: int = 1,
    seed: int = 0,
) -> AccuracyCurve:
    """Measures accuracy against noise strength, exactly and by sampling.

    The noise of a document depends on its index and the seed alone, so a document keeps its noise
    when others are added behind it.

    Args:
        logits: Clean logits of a labelled data set; −inf marks an impossible class.
        labels: Class index of each document.
        stds: Noise standard deviations in logit units, or a grid such as "0:20:0.2".
        draws: Sampled runs per strength; draw d has the seed `seed + d`. 0 leaves sampling out.
        seed: Seed of the first draw.

    Returns:
        The curve.

    Raises:
        ValueError: If there are no documents, `draws` is negative, a std is negative or not finite,
            or logits or labels are not usable.

    >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    >>> accuracy_curve(logits, torch.tensor([0, 1]), [0, 1], draws=0).expected
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    strengths = parse_strengths(stds, name="stds")
    if draws < 0:
        raise ValueError(f"draws={draws} is negative: give 0 or more")
    n = len(logits)
    if n == 0:
        raise ValueError("logits hold no document: give at least one row")
    probability = label_probability(logits, labels, strengths).cpu()
    correct = _sampled_correct(logits, labels, strengths, draws=draws, seed=seed)
    expected, sampled = probability.mean(1), correct / n
    return AccuracyCurve(
        stds=strengths,
        expected=expected,
        expected_stderr=_standard_error(probability.var(1, correction=0), n),
        noise_std_of_accuracy=(probability * (1 - probability)).clamp(min=0).sum(1).sqrt() / n,
        sampled=sampled,
        sampled_stderr=_standard_error(sampled * (1 - sampled), n),
        n=n,
    )


def _sampled_correct(
    logits: Float[Tensor, "documents classes"],
    labels: Int[Tensor, " documents"],
    stds: Sequence[float],
    *,
    draws: int,
    seed: int,
) -> Float[Tensor, "strengths draws"]:
    """Number of documents whose noisy argmax is the label."""
    correct = torch.zeros(len(stds), draws, dtype=torch.float64)
    for chunk in _chunks(*logits.shape):
        documents = torch.arange(chunk.start, chunk.stop, device=logits.device)
        keys = prefix_keys(documents[:, None])[:, 0]
        # Half-precision logits would swallow small noise.
        clean = logits[chunk].to(torch.promote_types(logits.dtype, torch.float32))
        for draw in range(draws):
            noise = standard_normal(keys, logits.shape[1], seed=seed + draw, dtype=clean.dtype)
            for s, std in enumerate(stds):
                noisy = torch.add(clean, noise, alpha=std) if std > 0 else clean
                correct[s, draw] += int((noisy.argmax(1) == labels[chunk]).sum())
    return correct


def _chunks(documents: int, classes: int) -> Iterator[slice]:
    size = max(1, _NOISE_ELEMENTS // classes)
    return (slice(start, min(start + size, documents)) for start in range(0, documents, size))


def _standard_error(variance: Tensor, n: int) -> Tensor:
    """Standard error of a mean over documents, from the variance with the divisor n."""
    return (variance / (n - 1)).sqrt() if n > 1 else torch.full_like(variance, torch.nan)
