"""Pixel counts by groups of images, and the jackknife standard errors that follow from them.

Images are dealt to groups in turn, and every metric is computed anew without each group. It needs
counts of groups only, so memory does not grow with the data; Kott, "The Delete-a-Group Jackknife",
Journal of Official Statistics 17, 2001.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vision_bench.confusion import ClassMetrics


@dataclass(frozen=True)
class GroupCounts:
    """Pixel counts of each class, by groups of images; float64, as the exact law counts fractions.

    Attributes:
        hits: Pixels of a class predicted as this class.
        predicted: Pixels predicted as a class.
        truth: Pixels labelled with a class.
    """

    hits: Float[Tensor, "groups levels classes"]
    predicted: Float[Tensor, "groups levels classes"]
    truth: Float[Tensor, "groups levels classes"]

    def metrics(self) -> dict[str, Tensor]:
        """Metrics of all groups together: means over classes by level, and by level and class."""
        return _metrics(self.hits.sum(0), self.truth.sum(0), self.predicted.sum(0))

    def standard_errors(self) -> dict[str, Tensor]:
        """Jackknife standard errors of `metrics`; NaN with one group, or a class in one only."""
        without = (part.sum(0) - part for part in (self.hits, self.truth, self.predicted))
        groups = len(self.hits)
        return {
            name: ((groups - 1) * values.var(0, correction=0)).sqrt()
            if groups > 1
            else torch.full_like(values[0], torch.nan)
            for name, values in _metrics(*without).items()
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

        return GroupCounts(
            add(self.hits, other.hits),
            add(self.predicted, other.predicted),
            add(self.truth, other.truth),
        )


def _metrics(hits: Tensor, truth: Tensor, predicted: Tensor) -> dict[str, Tensor]:
    classes = ClassMetrics.from_counts(hits, truth, predicted)
    return {"acc": hits.sum(-1) / truth.sum(-1), **classes.means(), **classes.by_name()}
