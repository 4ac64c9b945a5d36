"""Fine-tuning: gradient descent, the best state on a validation split, and a mask that holds."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn import functional as F

from vision_bench.reengineering.target import Target

Masks = Mapping[str, Bool[Tensor, "*shape"]]


@dataclass(frozen=True)
class Recipe:
    """How to descend.

    Attributes:
        epochs: Passes over the training images at most.
        patience: Epochs without a better validation accuracy after which it ends; 0 for never.
        momentum: Of stochastic gradient descent.
        weight_decay: Of the same.
        seed: Seed of dropout.
        one_cycle: Whether rates rise to theirs and fall again over all epochs (Smith and Topin,
            arXiv:1708.07120), rather than stay.
    """

    epochs: int
    patience: int
    momentum: float
    weight_decay: float
    seed: int
    one_cycle: bool = False


@dataclass(frozen=True)
class Fitted:
    """What came of it.

    Attributes:
        accuracy: On the validation split, of the state that was kept.
        epoch: Which one that is, from 0.
        epochs: How many were run.
    """

    accuracy: float
    epoch: int
    epochs: int


class Held:
    """Weights that are 0 and stay 0.

    Without a gradient, a weight of 0 gets no momentum either, and decay leaves it where it is.

    Args:
        model: The model, whose masked weights are set to 0.
        masks: By parameter, true where it is retained.
    """

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        self.parameters = [
            (parameter := model.get_parameter(name), mask.to(parameter.device))
            for name, mask in masks.items()
        ]
        with torch.no_grad():
            for parameter, mask in self.parameters:
                parameter.mul_(mask)

    def clear_gradients(self) -> None:
        """Takes the gradients of these weights away; call it before a step."""
        for parameter, mask in self.parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(mask)


class Best:
    """The best state of a model so far, of equal ones the last, as the authors keep it."""

    def __init__(self) -> None:
        self.value, self.epoch = -float("inf"), -1
        self.state: Any = None

    def offer(self, value: float, epoch: int, state: Any) -> None:
        """Takes a state that is no worse; it is copied, as training goes on in place."""
        if value >= self.value:
            self.value, self.epoch, self.state = value, epoch, copy.deepcopy(state)

    def is_stale(self, epoch: int, patience: int) -> bool:
        """Whether there was no better one for so many epochs."""
        return 0 < patience <= epoch - self.epoch


def fine_tune(
    model: nn.Module,
    groups: Sequence[Mapping[str, Any]],
    target: Target,
    recipe: Recipe,
    *,
    masks: Masks | None = None,
    hold: bool = True,
    title: str = "",
) -> Fitted:
    """Fine-tunes a model in place; it ends in the best state, in eval mode.

    Args:
        model: The model, on the target's device.
        groups: What is trained, as optimisers take it: parameters with their rates. The others are
            left as they are, but for the statistics of batch normalisation.
        target: The problem.
        recipe: How.
        masks: Weights outside them are set to 0 first.
        hold: Whether these stay 0. The authors' code lets them grow again.
        title: Of the progress bar; none is shown without one.

    Raises:
        ValueError: If the loss is not finite.
    """
    from tqdm import trange

    held = Held(model, masks or {})
    optimiser = torch.optim.SGD(
        [dict(one) for one in groups],
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    schedule = None
    if recipe.one_cycle:
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            [one["lr"] for one in groups],
            epochs=recipe.epochs,
            steps_per_epoch=target.steps,
            cycle_momentum=False,
        )
    best = Best()
    with (
        torch.random.fork_rng(),
        trange(recipe.epochs, desc=title, unit="epoch", disable=not title) as bar,
    ):
        torch.manual_seed(recipe.seed)
        for epoch in bar:
            model.train()
            for images, labels in target.batches(epoch):
                optimiser.zero_grad()
                finite(F.cross_entropy(model(images), labels), title).backward()
                if hold:
                    held.clear_gradients()
                optimiser.step()
                if schedule is not None:
                    schedule.step()
            accuracy = target.accuracy(model)
            bar.set_postfix_str(f"validation {accuracy:.1%}")
            best.offer(accuracy, epoch, model.state_dict())
            if best.is_stale(epoch, recipe.patience):
                break
    assert best.state is not None  # there is at least one epoch
    model.load_state_dict(best.state)
    return Fitted(best.value, best.epoch, epoch + 1)


def finite(loss: Tensor, title: str) -> Tensor:
    """A loss, unless it is not finite."""
    if not loss.isfinite():
        raise ValueError(f"{title or 'training'}: the loss is {loss.item()}; give lower rates")
    return loss
