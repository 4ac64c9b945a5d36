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

from aim_plugins.sweep.intervals import wilson_interval
from aim_plugins.sweep.paired import PairedDifference, paired_difference
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

    def against(self, other: Accuracy) -> PairedDifference:
        """By how much it is above another accuracy on the same images."""
        return paired_difference(self.right.tolist(), other.right.tolist())

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
