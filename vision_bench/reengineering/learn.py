"""Learning which weights a target problem needs.

Minimised is CE + α · share, by two Adams: one of the head alone, for every fifth epoch from the
first on, and one of head and masks for the others. The model's weights stay as they are, and its
batch normalisation in eval mode.

Source: Qi et al., arXiv:2304.00245, section III-B; `Reengineer` of the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from aim_plugins.core.identity import seed_of
from aim_plugins.modulation.channels import ChannelMasks
from aim_plugins.modulation.masks import Masks
from aim_plugins.modulation.retained import MaskPoint, below
from vision_bench.reengineering.losses import finite
from vision_bench.reengineering.module import Module
from vision_bench.reengineering.path import Epoch, Snapshot

Batches = Iterable[tuple[Float[Tensor, "batch 3 height width"], Int[Tensor, " batch"]]]

_HEAD_EVERY = 5
"""Every fifth epoch trains the head alone, from the first on."""


@dataclass(frozen=True)
class Recipe:
    """How masks are learned.

    Attributes:
        lr_head: Learning rate of the head.
        stages: Learning rates of the scores and weights α of the penalty, one after another, each
            going on from where the one before arrived. Weights that the problem does not use are
            pressed on by the penalty alone, and as Adam moves them by its rate in a step whatever α
            is, the rate decides how fast they go.
        epochs: Epochs for each of them.
        seed: Of dropout, where the model has any.
    """

    lr_head: float = 0.1
    stages: Sequence[tuple[float, float]] = ((0.05, 1.0),)
    epochs: int = 300
    seed: int = 0

    @property
    def total(self) -> int:
        """Epochs in all."""
        return self.epochs * len(self.stages)

    def stage_of(self, epoch: int) -> tuple[float, float]:
        """The rate of the scores and the weight of the penalty in an epoch."""
        return self.stages[epoch // self.epochs]


def train_epoch(
    network: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    seed: int,
    penalty: Callable[[], Tensor] | None = None,
    title: str = "learning masks",
) -> float:
    """Trains an epoch, in train mode but for batch normalisation, which keeps its statistics.

    Args:
        network: A masked network.
        batches: Training images and their labels.
        optimizer: Of what is trained.
        seed: Of dropout.
        penalty: What is added to the cross-entropy.
        title: What an error calls this.

    Returns:
        The mean cross-entropy, in nats.

    Raises:
        ValueError: If the loss is not finite.

    Source: `Reengineer._train` of the authors' code.
    """
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network.train()
        for layer in network.modules():
            if isinstance(layer, _BatchNorm):
                layer.eval()
        for images, labels in batches:
            optimizer.zero_grad()
            loss = finite(F.cross_entropy(network(images), labels), optimizer, title)
            losses.append(loss.detach())
            if penalty is not None:
                loss = loss + penalty()
            loss.backward()
            optimizer.step()
    return float(torch.stack(losses).mean())


class Learner:
    """Masks and a head on their way.

    Args:
        module: The classifier and its head.
        named: The part of it whose parameters the masks name.
        masks: The masks.
        recipe: How to learn them.
    """

    def __init__(self, module: Module, named: nn.Module, masks: Masks, recipe: Recipe) -> None:
        self.module, self.named, self.masks, self.recipe = module, named, masks, recipe
        head = {"params": list(module.head.parameters()), "lr": recipe.lr_head}
        scores = {"params": list(masks.parameters()), "lr": recipe.stages[0][0]}
        self._of_head = torch.optim.Adam([head])
        self._of_both = torch.optim.Adam([scores, dict(head)])

    def train(self, number: int, batches: Batches) -> float:
        """Trains an epoch.

        Args:
            number: Of the epoch, counted from 0.
            batches: Training images and their labels.

        Returns:
            The mean cross-entropy, in nats.
        """
        optimizer = self._of_head if number % _HEAD_EVERY == 0 else self._of_both
        rate, alpha = self.recipe.stage_of(number)
        self._of_both.param_groups[0]["lr"] = rate
        seed = seed_of(self.recipe.seed, "dropout", number)

        def penalty() -> Tensor:
            return alpha * self.masks.retained_share()

        with self.masks.training_on(self.named):
            pressing = penalty if optimizer is self._of_both else None
            return train_epoch(self.module, batches, optimizer, seed, pressing)

    @torch.no_grad()
    def right(self, batches: Batches) -> Bool[Tensor, " images"]:
        """Which images the masked classifier and its head tell right."""
        with self.masks.training_on(self.named):
            self.module.eval()
            found = [self.module(images).argmax(1) == labels for images, labels in batches]
        return torch.cat(found).cpu()

    def snapshot(self, number: int, loss: float, accuracy: float) -> Snapshot:
        """The masks and the head as they are."""
        masks = self.masks
        epoch = Epoch(
            number,
            self.recipe.stage_of(number)[1],
            loss,
            masks.retained_share().item(),
            masks.retained_ratio(),
            accuracy,
        )
        head = {
            name: one.detach().cpu().clone() for name, one in self.module.head.state_dict().items()
        }
        channels = masks.open_channels() if isinstance(masks, ChannelMasks) else {}
        binary = {name: mask.cpu() for name, mask in masks.binary().items()}
        return Snapshot(epoch, MaskPoint(binary, head, channels))

    # What a killed run needs to go on -------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything that training changes, as tensors by name."""
        found = {f"masks.{name}": one for name, one in self.masks.state_dict().items()}
        found |= {f"head.{name}": one for name, one in self.module.head.state_dict().items()}
        for words, optimizer in self._optimizers():
            for place, moments in optimizer.state_dict()["state"].items():
                found |= {f"{words}.{place}.{name}": one for name, one in moments.items()}
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from a state."""
        self.masks.load_state_dict(below(state, "masks"))
        self.module.head.load_state_dict(below(state, "head"))
        for words, optimizer in self._optimizers():
            content: dict[str, Any] = optimizer.state_dict()
            moments: dict[int, dict[str, Tensor]] = {}
            for name, one in below(state, words).items():
                place, _, kind = name.partition(".")
                moments.setdefault(int(place), {})[kind] = one
            optimizer.load_state_dict({**content, "state": moments})

    def _optimizers(self) -> list[tuple[str, torch.optim.Adam]]:
        return [("of_head", self._of_head), ("of_both", self._of_both)]
