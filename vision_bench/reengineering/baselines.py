"""What a module's accuracy is held against: the model itself, and the model told of the classes.

A model of all classes may answer an image of the problem with a class outside of it. A module
cannot, and gains by that alone whatever its masks have learned. The *restricted* baseline is the
model's best answer among the problem's classes: it costs no training, and is what a module has to
come near. Accuracies are of the same images, so that differences are paired.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from aim_plugins.sweep.intervals import paired_interval, wilson_interval
from vision_bench.reengineering.batches import TrainingImages
from vision_bench.reengineering.problem import Problem, predictions


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers, with the answers.

    Attributes:
        right: Of each image, whether it was answered correctly.
    """

    right: Bool[Tensor, " images"]

    @property
    def value(self) -> float:
        """The share of right answers."""
        return int(self.right.sum()) / len(self.right)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share, over images."""
        return wilson_interval(self.value, len(self.right))

    def to_json(self) -> str:
        """A digit for each image.

        >>> Accuracy.from_json("011").value.__round__(3)
        0.667
        """
        return "".join("1" if one else "0" for one in self.right.tolist())

    @classmethod
    def from_json(cls, text: str) -> Accuracy:
        """Reads what `to_json` wrote."""
        return cls(torch.tensor([digit == "1" for digit in text], dtype=torch.bool))


@dataclass(frozen=True)
class Baselines:
    """Accuracies of the model that a module is made of.

    Attributes:
        whole: Of its answers among all classes.
        restricted: Of its answers among the problem's classes.
    """

    whole: Accuracy
    restricted: Accuracy


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two accuracies on the same images.

    Attributes:
        value: The first accuracy less the second.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p: How likely answers would change so unevenly, or more, if both were equally good.
    """

    value: float
    low: float
    high: float
    p: float


@torch.no_grad()
def logits_of(
    module: nn.Module, images: TrainingImages, batch_size: int
) -> tuple[Float[Tensor, "images classes"], Int[Tensor, " images"]]:
    """The logits of all images in the order of their data set, and their labels.

    Args:
        module: A network in eval mode.
        images: The images.
        batch_size: Images in a pass.

    Raises:
        ValueError: If a logit is NaN.
    """
    device = next(module.parameters()).device
    logits, labels = [], []
    for batch, expected in images.in_order(batch_size):
        logits.append(module(batch.to(device)).float().cpu())
        labels.append(expected)
    found = torch.cat(logits)
    if found.isnan().any():
        raise ValueError(
            f"logits of {int(found.isnan().any(1).sum())} of {len(found)} images are NaN: the "
            "network's weights are not usable, or training diverged"
        )
    return found, torch.cat(labels)


def accuracy(logits: Float[Tensor, "images outputs"], labels: Int[Tensor, " images"]) -> Accuracy:
    """The accuracy of a network whose outputs are those of the problem."""
    return Accuracy(logits.argmax(1) == labels)


def baselines(
    logits: Float[Tensor, "images classes"], labels: Int[Tensor, " images"], problem: Problem
) -> Baselines:
    """Accuracies of a model that knows more classes than the problem.

    Args:
        logits: Of all classes of the model.
        labels: Which output of the problem is right.
        problem: The problem.
    """
    return Baselines(
        whole=Accuracy(problem.outputs_of(logits.argmax(1)) == labels),
        restricted=Accuracy(predictions(logits, problem) == labels),
    )


def paired_difference(
    first: Bool[Tensor, " images"], second: Bool[Tensor, " images"]
) -> PairedDifference:
    """By how much one accuracy is above another one on the same images.

    Args:
        first: Which images are answered correctly.
        second: Which are by what it is compared with.

    Returns:
        The difference, with Agresti and Min's interval and McNemar's exact p.

    Raises:
        ValueError: If there is no image.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions
    or percentages", Psychometrika 12, 1947, with the binomial law in place of the normal one.
    """
    from scipy.stats import binomtest

    if not len(first):
        raise ValueError("first is empty: give the answers to at least one image")
    won, lost = int((first & ~second).sum()), int((second & ~first).sum())
    p = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    return PairedDifference((won - lost) / len(first), *paired_interval(won, lost, len(first)), p)
