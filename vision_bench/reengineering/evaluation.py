"""What modules and what they are held against answer on the test images, once."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from aim_plugins.modulation.masks import masked
from aim_plugins.modulation.retained import MaskPoint
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

    @torch.inference_mode()
    def logits(
        self, images: TrainingImages, masks: Mapping[str, Tensor] | None = None
    ) -> tuple[Float[Tensor, "n classes"], Int[Tensor, " n"]]:
        """What it answers to images, masked or whole, and their labels.

        Args:
            images: The images, taken as they are.
            masks: By parameter; None for the whole model.
        """
        found, labels = [], []
        with masked(self.named, masks) if masks else contextlib.nullcontext():
            for batch, truth in images.in_order(self.batch_size):
                found.append(self.module(batch.to(self.device)).float().cpu())
                labels.append(truth)
        # Copies of ordinary tensors, as heads are trained on them.
        return torch.cat(found).clone(), torch.cat(labels).clone()

    @torch.inference_mode()
    def logits_count(self, example: Float[Tensor, "batch 3 height width"]) -> int:
        """How many logits it has."""
        return int(self.module(example.to(self.device)).shape[1])


def right(
    point: MaskPoint, logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]
) -> Bool[Tensor, " n"]:
    """Which images a head tells right.

    Args:
        point: The masks, and the head.
        logits: What the masked model answers.
        labels: Outputs of the problem.
    """
    outputs = F.linear(F.relu(logits), point.head["weight"], point.head["bias"])
    return outputs.argmax(1) == labels
