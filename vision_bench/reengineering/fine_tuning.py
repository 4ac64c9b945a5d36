"""Fine-tuning: gradient descent, the best state on a validation split, and a mask that holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from aim_plugins.core.identity import seed_of
from vision_bench.reengineering.losses import finite
from vision_bench.reengineering.progress import Progress
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


def fine_tune(
    model: nn.Module,
    groups: Sequence[Mapping[str, Any]],
    target: Target,
    recipe: Recipe,
    *,
    masks: Masks | None = None,
    hold: bool = True,
    title: str = "",
    file: Path | None = None,
) -> Fitted:
    """Fine-tunes a model in place; it ends in the best state, in eval mode.

    Args:
        model: The model, on the target's device.
        groups: What is trained, as optimisers take it: parameters with their rates, and as
            `setting` what a person calls these. The others are left as they are, but for the
            statistics of batch normalisation.
        target: The problem.
        recipe: How.
        masks: Weights outside them are set to 0 first.
        hold: Whether these stay 0. The authors' code lets them grow again.
        title: Of the progress bar; none is shown without one.
        file: Where the state is kept after each epoch, so that a killed run goes on.

    Raises:
        ValueError: If the loss is not finite.
        OSError: If the file cannot be written.
    """
    from tqdm import tqdm

    held = Held(model, masks or {})
    optimiser = torch.optim.SGD(
        [dict(one) for one in groups],
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    schedule = _one_cycle(optimiser, recipe.epochs, target.steps) if recipe.one_cycle else None
    # Of equally good states the last is kept, as the authors do.
    progress = Progress({"model": model}, optimiser, schedule, file=file)
    with tqdm(desc=title, total=recipe.epochs, unit="epoch", disable=not title) as bar:
        bar.update(progress.epochs)
        while not progress.is_over(recipe.epochs, recipe.patience):
            seed = seed_of(recipe.seed, "dropout", progress.epochs)
            batches = target.batches(progress.epochs)
            _descend(model, batches, optimiser, schedule, held if hold else None, seed, title)
            accuracy = target.accuracy(model)
            progress.finish_epoch(accuracy, model.state_dict())
            bar.set_postfix_str(f"validation {accuracy:.1%}")
            bar.update()
    best = progress.best
    model.load_state_dict(best.state)
    model.eval()
    return Fitted(best.value, best.epoch, progress.epochs)


def _descend(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimiser: torch.optim.Optimizer,
    schedule: LRScheduler | None,
    held: Held | None,
    seed: int,
    title: str,
) -> None:
    """One epoch."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.train()
        for images, labels in batches:
            optimiser.zero_grad()
            finite(F.cross_entropy(model(images), labels), optimiser, title).backward()
            if held is not None:
                held.clear_gradients()
            optimiser.step()
            if schedule is not None:
                schedule.step()


def _one_cycle(optimiser: torch.optim.Optimizer, epochs: int, steps: int) -> LRScheduler:
    """Rates that rise to those of the groups, and fall."""
    rates = [group["lr"] for group in optimiser.param_groups]
    return OneCycleLR(optimiser, rates, epochs=epochs, steps_per_epoch=steps, cycle_momentum=False)
