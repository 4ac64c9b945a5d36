"""What modules and what they are held against answer on the test images, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from aim_plugins.modulation.masks import masked
from aim_plugins.modulation.retained import MaskPoint
from vision_bench.reengineering.baselines import Accuracy, accuracy, logits_of
from vision_bench.reengineering.batches import TrainingImages


@dataclass(frozen=True)
class Subject:
    """The classifier that is re-engineered.

    Attributes:
        module: It, in eval mode, on its device.
        named: The part of it whose parameters masks name.
        batch_size: Images in a pass.
        device: Where it computes.
    """

    module: nn.Module
    named: nn.Module
    batch_size: int
    device: torch.device

    def logits(
        self, images: TrainingImages, masks: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "n classes"], Int[Tensor, " n"]]:
        """What it answers to images under masks, and their labels.

        Args:
            images: The images, taken as they are.
            masks: By parameter; none for the whole model.
        """
        with masked(self.named, masks):
            return logits_of(self.module, images, self.batch_size)

    @torch.inference_mode()
    def logits_count(self, example: Float[Tensor, "batch 3 height width"]) -> int:
        """How many logits it has."""
        return int(self.module(example.to(self.device)).shape[1])


def with_head(
    point: MaskPoint,
    logits: Float[Tensor, "n classes"],
    labels: Int[Tensor, " n"],
    relu: bool = True,
) -> Accuracy:
    """The accuracy of a head behind the outputs of a masked model.

    Args:
        point: The masks, and the head.
        logits: What the masked model answers.
        labels: Outputs of the problem.
        relu: Whether the head was trained behind a ReLU.
    """
    inputs = F.relu(logits) if relu else logits
    outputs = F.linear(inputs, point.head["weight"], point.head["bias"])
    return accuracy(outputs, labels)
