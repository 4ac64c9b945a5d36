"""Pixel counts by groups of images, and the jackknife standard errors that follow from them.

Images are dealt to groups in turn, and every metric is computed anew without each group. It needs
counts of groups only, so memory does not grow with the data; Kott, "The Delete-a-Group Jackknife",
Journal of Official Statistics 17, 2001.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision_bench.confusion import ClassMetrics, MeanOver

JACKKNIFE_GROUPS = 128
"""Groups of images; a standard error then is known to 6% of itself."""

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
        without = self._without_each(mean_over)
        return {name: _jackknife_error(values) for name, values in without.items()}

    def errors_of_differences(
        self, other: GroupCounts, mean_over: MeanOver = "present"
    ) -> dict[str, Tensor]:
        """Jackknife standard errors of the differences from the metrics of another model.

        Each group is left out of both, so that what makes images hard for both cancels out.

        Args:
            other: Counts of the same images, dealt to the same groups.
            mean_over: As in `metrics`.
        """
        mine, theirs = (one._without_each(mean_over) for one in (self, other))
        return {name: _jackknife_error(mine[name] - theirs[name]) for name in mine}

    def _without_each(self, mean_over: MeanOver) -> dict[str, Tensor]:
        """Metrics without each of the groups."""
        parts = self.parts().items()
        return _metrics({name: part.sum(0) - part for name, part in parts}, mean_over)

    def joined(self, other: GroupCounts, images: int) -> GroupCounts:
        """Counts of these images and of those that follow them.

        Args:
            other: Counts of the images that follow.
            images: Number of images in these counts.
        """
        # Image i belongs to the group i modulo the number of groups, from the first image on.
        places = (images + torch.arange(len(other.hits))) % JACKKNIFE_GROUPS
        used = max(len(self.hits), int(places.max()) + 1)

        def add(mine: Tensor, others: Tensor) -> Tensor:
            total = mine.new_zeros(used, *mine.shape[1:])
            total[: len(mine)] = mine
            return total.index_add_(0, places, others)

        mine, others = self.parts(), other.parts()
        return GroupCounts(**{name: add(mine[name], others[name]) for name in mine})


class GroupCounter:
    """Counts of one draw, or of the exact law, by groups of images."""

    def __init__(self, levels: Sequence[float], classes: int) -> None:
        shape = (JACKKNIFE_GROUPS, len(levels), classes)
        self.hits, self.predicted, self.truth = torch.zeros(3, *shape, dtype=torch.float64)
        self.log_absent: Tensor | None = None

    def add(self, confusion: Tensor, image: int, log_absent: Tensor | None = None) -> None:
        """Adds the counts [levels, truth, predicted] of an image, and what `GroupCounts` notes."""
        group = image % JACKKNIFE_GROUPS
        self.hits[group] += confusion.diagonal(dim1=1, dim2=2)
        self.predicted[group] += confusion.sum(1)
        self.truth[group] += confusion.sum(2)
        if log_absent is not None:
            if self.log_absent is None:
                self.log_absent = torch.zeros_like(self.hits)
            self.log_absent[group] += log_absent

    def finish(self, images: int) -> GroupCounts:
        """The counts of so many images."""
        used = slice(min(images, JACKKNIFE_GROUPS))
        absent = None if self.log_absent is None else self.log_absent[used]
        return GroupCounts(self.hits[used], self.predicted[used], self.truth[used], absent)


def _jackknife_error(without: Float[Tensor, "groups ..."]) -> Float[Tensor, "*shape"]:
    """The standard error of a value, from what it is without each group; NaN of one group."""
    groups = len(without)
    if groups < 2:
        return torch.full_like(without[0], torch.nan)
    return ((groups - 1) * without.var(0, correction=0)).sqrt()


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
