"""What a classifier is re-engineered into: the classifier, and a head for the classes needed.

Source: Qi et al., "Reusing Deep Neural Network Models through Model Re-engineering" (SeaM),
ICSE 2023, arXiv:2304.00245, section III; in the authors' code the same is `module_head`, a ReLU and
a linear layer behind the outputs of the model (`multi_class/models/resnet20.py`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Module(nn.Module):
    """A classifier whose outputs, behind a ReLU, are read by a linear head.

    Args:
        base: The classifier.
        head: The head.

    Attributes:
        base: The classifier.
        head: The head.
    """

    def __init__(self, base: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.head = head

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """The logits of the classes needed."""
        return self.head(F.relu(self.base(images)))


def make_head(inputs: int, classes: int, seed: int) -> nn.Linear:
    """A head as PyTorch initialises it, the same for a seed whatever was drawn before.

    Args:
        inputs: Outputs of the classifier.
        classes: Outputs of the head.
        seed: Seed of its weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(inputs, classes)
