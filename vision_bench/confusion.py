"""Confusion matrices of a whole data set, and the metrics of each class that follow from them.

Segmentation counts pixels over all images first and divides once, as the benchmarks of ADE20K and
PASCAL VOC do; averaging the IoU of single images is another metric.

Two conventions are in use for a class that is predicted and never labelled. "present", the default
and that of AIM's script, counts it in means as 0; "labelled" leaves it out. Where every class is
labelled somewhere they agree; on a part of a data set, and the more so under noise, the second
gives higher means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from vision_bench.data.labels import IGNORE, check_labels, counted_pixels, require_classes

MeanOver = Literal["present", "labelled"]
"""Classes that means are over: those labelled or predicted somewhere, or those labelled."""


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of each class, float64; NaN where a class is left out of the mean.

    A class that is labelled and never predicted has precision 0, as its IoU and F1 are. One that
    is predicted and never labelled has no recall, and the others are 0 or NaN by convention.

    Attributes:
        iou: Intersection over union, |truth ∩ predicted| / |truth ∪ predicted|.
        recall: Share of a class's pixels that are found, which some papers call Acc.
        precision: Share of the pixels called a class that are of this class.
        f1: Harmonic mean of recall and precision, also called the Dice score.
    """

    iou: Float[Tensor, "*shape classes"]
    recall: Float[Tensor, "*shape classes"]
    precision: Float[Tensor, "*shape classes"]
    f1: Float[Tensor, "*shape classes"]

    @classmethod
    def from_counts(
        cls, hits: Tensor, truth: Tensor, predicted: Tensor, mean_over: MeanOver = "present"
    ) -> ClassMetrics:
        """Divides pixel counts.

        Args:
            hits: Pixels of each class that are predicted as this class, [..., classes].
            truth: Pixels labelled with each class.
            predicted: Pixels predicted as each class.
            mean_over: The convention, "present" or "labelled".

        Returns:
            The metrics, of the shape to which the counts broadcast.

        >>> counts = torch.tensor([[2, 0], [4, 0], [2, 2]])
        >>> ClassMetrics.from_counts(*counts).iou
        tensor([0.5000, 0.0000], dtype=torch.float64)
        >>> ClassMetrics.from_counts(*counts, mean_over="labelled").iou
        tensor([0.5000,    nan], dtype=torch.float64)
        """
        hits, truth, predicted = (part.double() for part in (hits, truth, predicted))
        labelled = truth > 0
        counted = labelled | (predicted > 0) if mean_over == "present" else labelled

        def share(of: Tensor, where: Tensor) -> Tensor:
            # No hit among no pixels is 0.
            return torch.where(where, hits / of.clamp(min=torch.finfo(of.dtype).tiny), torch.nan)

        return cls(
            iou=share(truth + predicted - hits, counted),
            recall=share(truth.expand_as(hits), labelled),
            precision=share(predicted, counted),
            f1=share((truth + predicted) / 2, counted),
        )

    def means(self) -> dict[str, Float[Tensor, "*shape"]]:
        """Means over the classes that are counted: `miou`, `mrecall`, `mprecision`, `mf1`."""
        return {f"m{name}": values.nanmean(-1) for name, values in self.by_name().items()}

    def by_name(self) -> dict[str, Float[Tensor, "*shape classes"]]:
        """The metrics by name, in the order in which tables show them."""
        names = ("iou", "recall", "precision", "f1")
        return {name: getattr(self, name) for name in names}


class ConfusionMatrix:
    """Counts pixels by ground truth (rows) and prediction (columns).

    Args:
        classes: Number of classes.
        ignore_index: Label of pixels that are left out; None counts every pixel.

    Raises:
        ValueError: If `classes` is below 1.

    >>> confusion = ConfusionMatrix(2)
    >>> confusion.update(torch.tensor([0, 0, 1, 255]), torch.tensor([0, 1, 1, 0]))
    >>> confusion.matrix
    tensor([[1, 1],
            [0, 1]])
    >>> confusion.metrics().recall
    tensor([0.5000, 1.0000], dtype=torch.float64)
    """

    def __init__(self, classes: int, ignore_index: int | None = IGNORE) -> None:
        if classes < 1:
            raise ValueError(f"classes={classes} is below 1: give the number of classes")
        self.classes = classes
        self.ignore_index = ignore_index
        self.matrix: Int64[Tensor, "truth predicted"] = torch.zeros(
            classes, classes, dtype=torch.int64
        )

    def update(
        self, labels: Integer[Tensor, "*shape"], predictions: Integer[Tensor, "*shape"]
    ) -> None:
        """Counts one image, or a batch.

        Args:
            labels: Class of each pixel, or `ignore_index`.
            predictions: Predicted class of each pixel, of the same shape.

        Raises:
            ValueError: If the shapes differ, or a label or prediction is no class.
        """
        if labels.shape != predictions.shape:
            raise ValueError(
                f"predictions have shape {tuple(predictions.shape)} and labels "
                f"{tuple(labels.shape)}: give one prediction per label"
            )
        check_labels(labels, self.classes, self.ignore_index)
        counted = counted_pixels(labels, self.ignore_index)
        rows, columns = labels[counted].long(), predictions[counted].long().to(labels.device)
        require_classes("predictions", columns, self.classes, "pass argmax indices of this model")
        cells = torch.bincount(rows * self.classes + columns, minlength=self.classes**2)
        self.matrix += cells.view_as(self.matrix).to(self.matrix.device)

    def merge(self, other: ConfusionMatrix) -> None:
        """Adds the counts of another part of the data.

        Raises:
            ValueError: If the other matrix has another number of classes.
        """
        if other.classes != self.classes:
            raise ValueError(
                f"other has {other.classes} classes and this matrix {self.classes}: "
                "merge matrices of one label set"
            )
        self.matrix += other.matrix

    def metrics(self, mean_over: MeanOver = "present") -> ClassMetrics:
        """IoU, recall, precision and F1 of each class.

        Args:
            mean_over: Whether a class that is predicted and never labelled counts as 0,
                "present", or not at all, "labelled".
        """
        return ClassMetrics.from_counts(
            self.matrix.diagonal(), self.matrix.sum(1), self.matrix.sum(0), mean_over
        )

    @property
    def accuracy(self) -> float:
        """Share of all counted pixels that are right; NaN without pixels."""
        pixels = int(self.matrix.sum())
        return int(self.matrix.diagonal().sum()) / pixels if pixels else float("nan")
