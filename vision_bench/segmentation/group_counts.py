"""Pixel counts by groups of images, and the jackknife standard errors that follow from them.

Images are dealt to groups in turn, and every metric is computed anew without each group. It needs
counts of groups only, so memory does not grow with the data; Kott, "The Delete-a-Group Jackknife",
Journal of Official Statistics 17, 2001.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision_bench.confusion import ClassMetrics, MeanOver

_PARTS = ("hits", "predicted", "truth", "log_absent")


@dataclass(frozen=True)
class GroupCounts:
    """Pixel counts of each class, by groups of images; float64, as the exact law counts fractions.

    Attributes:
        hits: Pixels of a class predicted as this class.
        predicted: Pixels predicted as a class.
        truth: Pixels labelled with a class.
        log_absent: Of the exact law, log of the probability that no pixel is called a class; None
            of counted pixels.
    """

    hits: Float[Tensor, "groups levels classes"]
    predicted: Float[Tensor, "groups levels classes"]
    truth: Float[Tensor, "groups levels classes"]
    log_absent: Float[Tensor, "groups levels classes"] | None = None

    def parts(self) -> dict[str, Tensor]:
        """The counts by name."""
        found = {name: getattr(self, name) for name in _PARTS}
        return {name: part for name, part in found.items() if part is not None}

    def metrics(self, mean_over: MeanOver = "present") -> dict[str, Tensor]:
        """Metrics of all groups together: means over classes by level, and by level and class.

        Args:
            mean_over: Whether a class that is predicted and never labelled counts as 0 in means,
                "present", or not at all, "labelled".
        """
        return _metrics({name: part.sum(0) for name, part in self.parts().items()}, mean_over)

    def standard_errors(self, mean_over: MeanOver = "present") -> dict[str, Tensor]:
        """Jackknife standard errors of `metrics`; NaN with one group, or a class in one only."""
        without = {name: part.sum(0) - part for name, part in self.parts().items()}
        groups = len(self.hits)
        return {
            name: ((groups - 1) * values.var(0, correction=0)).sqrt()
            if groups > 1
            else torch.full_like(values[0], torch.nan)
            for name, values in _metrics(without, mean_over).items()
        }

    def joined(self, other: GroupCounts, images: int, groups: int) -> GroupCounts:
        """Counts of these images and of those that follow them.

        Args:
            other: Counts of the images that follow.
            images: Number of images in these counts.
            groups: Number of groups that images are dealt to.
        """
        # Image i belongs to the group i modulo the number of groups, from the first image on.
        places = (images + torch.arange(len(other.hits))) % groups
        used = max(len(self.hits), int(places.max()) + 1)

        def add(mine: Tensor, others: Tensor) -> Tensor:
            total = mine.new_zeros(used, *mine.shape[1:])
            total[: len(mine)] = mine
            return total.index_add_(0, places, others)

        mine, others = self.parts(), other.parts()
        return GroupCounts(**{name: add(mine[name], others[name]) for name in mine})


def _metrics(counts: dict[str, Tensor], mean_over: MeanOver) -> dict[str, Tensor]:
    hits, truth, predicted = (counts[name] for name in ("hits", "truth", "predicted"))
    classes = ClassMetrics.from_counts(hits, truth, predicted, mean_over)
    found = {"acc": hits.sum(-1) / truth.sum(-1), **classes.means(), **classes.by_name()}
    if mean_over == "present" and "log_absent" in counts:
        present = -torch.expm1(counts["log_absent"])
        found["miou"] = _expected_mean(classes.iou, truth > 0, present)
    return found


def _expected_mean(
    values: Float[Tensor, "*shape classes"],
    labelled: Bool[Tensor, "*shape classes"],
    present: Float[Tensor, "*shape classes"],
) -> Float[Tensor, "*shape"]:
    """Mean over the classes labelled or predicted, where it is uncertain which are predicted.

    With L labelled classes and K others that are predicted, Σ values · E[1/(L + K)]. With classes
    independent, E[1/(L + K)] = ∫₀¹ t^(L−1) Π(1 − q + q·t) dt over the others' probabilities q: a
    polynomial, which Gauss-Legendre integrates exactly.

    Args:
        values: Of each class; only those of labelled ones count.
        labelled: Whether a class is labelled.
        present: Probability that it is predicted at all.
    """
    classes = values.shape[-1]
    nodes, weights = (
        torch.from_numpy(part) / 2 for part in np.polynomial.legendre.leggauss(classes // 2 + 1)
    )
    nodes = nodes + 0.5
    product = (weights / nodes).expand(*values.shape[:-1], -1)
    for index in range(classes):
        q = torch.where(labelled[..., index], 1.0, present[..., index])[..., None]
        product = product * (1 - q + q * nodes)
    total = values.where(labelled, 0.0).sum(-1) * product.sum(-1)
    return total.where(labelled.any(-1), torch.nan)
