"""The rival of an edit: the last layer is fine-tuned on the same images that the edit is made of.

Learning rate and number of steps are chosen as the size of an edit is, by the same rule and on the
same images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

RATES = (0.001, 0.01, 0.1, 1.0)
"""Learning rates that are tried; logits of features of any size take one of them well."""
STEPS = (1, 3, 10, 30, 100)
"""Numbers of steps that are tried of each."""
_MOMENTUM = 0.9


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned last layer.

    Attributes:
        rate: Learning rate.
        steps: Steps of gradient descent, each over all images.
        weight: Its weight.
        bias: Its bias; None where it has none.
    """

    rate: float
    steps: int
    weight: Float[Tensor, "classes features"]
    bias: Float[Tensor, " classes"] | None

    @property
    def words(self) -> str:
        """What was done."""
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        return f"{steps} of rate {self.rate:g}"

    def answers(self, features: Float[Tensor, "images features"]) -> Int[Tensor, " images"]:
        """The classes that images are answered with."""
        return F.linear(features, self.weight, self.bias).argmax(1)

    @contextlib.contextmanager
    def applied(self, layer: nn.Linear) -> Iterator[None]:
        """Gives a layer these weights while the block runs."""
        own = {"weight": layer.weight.data, "bias": None if layer.bias is None else layer.bias.data}
        try:
            layer.weight.data = self.weight.to(layer.weight)
            if self.bias is not None:
                layer.bias.data = self.bias.to(layer.bias)
            yield
        finally:
            layer.weight.data = own["weight"]
            if own["bias"] is not None:
                layer.bias.data = own["bias"]


def fine_tune(
    layer: nn.Linear,
    features: Float[Tensor, "images features"],
    labels: Int[Tensor, " images"],
    targets: int,
    *,
    lower: bool,
) -> list[Tuned]:
    """Fine-tunes a last layer by every rate; returns its states after each number of steps.

    Targets and references count as much in sum, however many of each there are.

    Args:
        layer: The layer, which is left as it is.
        features: What it takes in of the targets, then of the references.
        labels: Their classes.
        targets: How many of them are targets.
        lower: Whether targets are to be answered otherwise: then their best other class is what is
            learned of them.
    """
    wanted, features = labels.clone(), features.float()
    start = layer.weight.detach().cpu().float(), _bias_of(layer)
    if lower:
        logits = F.linear(features[:targets], *start)
        wanted[:targets] = logits.scatter(1, labels[:targets, None], -torch.inf).argmax(1)
    others = len(labels) - targets
    counts = torch.tensor([targets] * targets + [others] * others)
    weights = 1 / counts / (2 if targets and others else 1)
    found = []
    for rate in RATES:
        leaves = [one.clone().requires_grad_() for one in start if one is not None]
        optimiser = torch.optim.SGD(leaves, lr=rate, momentum=_MOMENTUM)
        for step in range(1, STEPS[-1] + 1):
            optimiser.zero_grad()
            losses = F.cross_entropy(F.linear(features, *leaves), wanted, reduction="none")
            (losses * weights).sum().backward()
            optimiser.step()
            if step in STEPS:
                state = [one.detach().clone() for one in leaves]
                found.append(Tuned(rate, step, state[0], state[1] if len(state) > 1 else None))
    return found


def _bias_of(layer: nn.Linear) -> Tensor | None:
    return None if layer.bias is None else layer.bias.detach().cpu().float()
