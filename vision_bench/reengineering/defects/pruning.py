"""Masks learned with the output layer, until enough weights are gone: SeaM's second stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from aim_plugins.core.identity import seed_of
from aim_plugins.modulation.masks import WeightMasks
from vision_bench.reengineering.fine_tuning import Best, finite
from vision_bench.reengineering.learn import train_epoch
from vision_bench.reengineering.target import Target


@dataclass(frozen=True)
class PruningRecipe:
    """How masks are learned.

    Attributes:
        lr_mask: Adam's rate of their scores.
        lr_output: Adam's rate of the output layer.
        alpha: Weight of the retained share in the loss.
        threshold: Share of the weights after whose removal it ends.
        epochs: Passes over the training images at most.
        patience: Epochs without a better accuracy less retained share after which it ends; 0 for
            never.
        seed: Seed of dropout.
    """

    lr_mask: float
    lr_output: float
    alpha: float
    threshold: float
    epochs: int
    patience: int
    seed: int = 0


@dataclass(frozen=True)
class Pruned:
    """What was learned.

    Attributes:
        masks: By parameter, true where it is retained.
        retained: Share of their elements that is.
        accuracy: On the validation split, with the masks.
        epoch: Which epoch they are of, from 0.
        reached: Whether the threshold was.
        emptied: Whether the epoch after left no weight at all, so that these were taken.
    """

    masks: Mapping[str, Bool[Tensor, "*shape"]]
    retained: float
    accuracy: float
    epoch: int
    reached: bool
    emptied: bool = False


def learn_masks(
    model: nn.Module,
    output_layer: str,
    names: Sequence[str],
    target: Target,
    recipe: PruningRecipe,
    *,
    title: str = "",
) -> Pruned:
    """Learns which weights a problem needs; the model's hidden weights stay as they are.

    One optimiser moves masks and output layer, by the cross-entropy plus alpha times the retained
    share. The masks of the first epoch that ends below the threshold are taken; else, and where
    that epoch removed everything, those of the best accuracy less retained share.

    Args:
        model: A model whose output layer is trained, on the target's device. That layer is trained
            on.
        output_layer: Its name.
        names: The parameters that get masks.
        target: The problem.
        recipe: How.
        title: Of the progress bar; none is shown without one.

    Raises:
        ValueError: If the loss is not finite, or the first epoch removes every weight.

    Source: `Reengineer.alter` of the authors' `defect_inherit`.
    """
    from tqdm import trange

    masks = WeightMasks(model, names)
    layer = model.get_submodule(output_layer)
    optimiser = torch.optim.Adam(
        [
            {"params": list(masks.parameters()), "lr": recipe.lr_mask},
            {"params": list(layer.parameters()), "lr": recipe.lr_output},
        ]
    )
    best = Best()

    def penalty() -> Tensor:
        return recipe.alpha * masks.retained_share()

    with (
        masks.training_on(model),
        trange(recipe.epochs, desc=title, unit="epoch", disable=not title) as bar,
    ):
        layer.requires_grad_(True)
        for epoch in bar:
            seed = seed_of(recipe.seed, "dropout", epoch)
            loss = train_epoch(model, target.batches(epoch), optimiser, seed, penalty)
            finite(torch.tensor(loss), title)
            retained, accuracy = float(masks.retained_share().detach()), target.accuracy(model)
            bar.set_postfix_str(f"retained {retained:.1%}, validation {accuracy:.1%}")
            if emptied := retained == 0:
                break
            if 1 - retained >= recipe.threshold:
                return Pruned(masks.binary(), retained, accuracy, epoch, True)
            if accuracy - retained > best.value:  # of equal ones the first, as the authors keep it
                best.offer(accuracy - retained, epoch, (masks.binary(), retained, accuracy))
            if best.is_stale(epoch, recipe.patience):
                break
    if best.state is None:
        raise ValueError(
            f"the masks removed every weight in the first epoch: lower alpha={recipe.alpha:g} or "
            f"lr_mask={recipe.lr_mask:g}"
        )
    chosen, retained, accuracy = best.state
    return Pruned(chosen, retained, accuracy, best.epoch, False, emptied)
