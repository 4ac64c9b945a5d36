"""Confidence of a classifier, and how far it is from its accuracy.

The confidence of an answer is the largest probability of the softmax. Under logit noise it is that
of the *noisy* softmax: what the deployed, modulated model reports about the one answer it gives. It
is not the probability that noise leads to this answer, which is
`aim_plugins.modulation.ordering.argmax_probabilities`. Strong noise spreads logits, so that the
noisy softmax grows more certain of answers that are less and less often right: entropy falls, and
the calibration error rises towards 1 − 1/K for K classes.

Source: Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599), equation 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BINS = 15
"""Bins of equal width in [0, 1], as in Guo et al., section 5."""

_SMALLEST = -200.0
"""Log-probabilities below this add nothing to an entropy; e^-200 is 0 in single precision."""


@dataclass(frozen=True)
class Reliability:
    """Sums of a reliability diagram: what the answers in each bin of confidence amount to.

    Attributes:
        count: Answers whose confidence lies in the bin.
        confidence: Sum of their confidences.
        correct: How many of them are right.
    """

    count: Float[Tensor, "*batch bins"]
    confidence: Float[Tensor, "*batch bins"]
    correct: Float[Tensor, "*batch bins"]

    @classmethod
    def of(
        cls, confidence: Float[Tensor, " n"], correct: Bool[Tensor, " n"], bins: int = BINS
    ) -> Reliability:
        """Sorts answers into bins (m/bins, (m + 1)/bins].

        Args:
            confidence: Confidence of each answer, from above 0 to 1.
            correct: Whether each answer is right.
            bins: Number of bins of equal width.

        Returns:
            float64 sums.
        """
        edges = torch.arange(1, bins, device=confidence.device).to(confidence.dtype) / bins
        place = torch.bucketize(confidence, edges)
        count, total, right = (
            torch.bincount(place, weights.double(), minlength=bins)
            for weights in (torch.ones_like(confidence), confidence, correct)
        )
        return cls(count, total, right)

    def error(self) -> Float[Tensor, "*batch"]:
        """Expected calibration error: mean distance of confidence and accuracy, over answers.

        >>> Reliability.of(torch.tensor([0.9, 0.9]), torch.tensor([True, False])).error()
        tensor(0.4000, dtype=torch.float64)
        """
        return (self.confidence - self.correct).abs().sum(-1) / self.count.sum(-1)


def confidence_and_entropy(
    logits: Float[Tensor, "classes n"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Largest probability and entropy of the softmax.

    Args:
        logits: One column per answer; −inf marks an impossible class. Overwritten.

    Returns:
        The confidence, and the entropy −Σ p log p in nats.
    """
    # Classes stand first, because reductions over a few classes of many answers are then fast.
    shifted = logits.sub_(logits.amax(0))
    weights = shifted.exp()
    total = weights.sum(0)
    # An impossible class has weight 0, and 0 · −inf would be NaN.
    mean = weights.mul_(shifted.clamp_(min=_SMALLEST)).sum(0).div_(total)
    return total.reciprocal(), total.log().sub_(mean).clamp_(min=0)
