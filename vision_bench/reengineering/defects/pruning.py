"""Masks learned with the output layer, until enough weights are gone: SeaM's second stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from aim_plugins.core.identity import seed_of
from aim_plugins.modulation.masks import WeightMasks
from vision_bench.reengineering.learn import Batches, train_epoch
from vision_bench.reengineering.progress import Best, Progress
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
    file: Path | None = None,
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
        file: Where the state is kept after each epoch, so that a killed run goes on.

    Raises:
        ValueError: If the loss is not finite, or the first epoch removes every weight.
        OSError: If the file cannot be written.

    Source: `Reengineer.alter` of the authors' `defect_inherit`.
    """
    from tqdm import tqdm

    masks = WeightMasks(model, names)
    layer = model.get_submodule(output_layer)
    optimiser = _adam(masks, layer, recipe)
    # Of equally good masks the first are kept, as the authors do.
    best = Best(last_of_equals=False)
    progress = Progress({"masks": masks, "layer": layer}, optimiser, file=file, best=best)
    emptied = False
    with (
        masks.training_on(model),
        tqdm(desc=title, total=recipe.epochs, unit="epoch", disable=not title) as bar,
    ):
        bar.update(progress.epochs)
        layer.requires_grad_(True)
        while not progress.is_over(recipe.epochs, recipe.patience):
            epoch = progress.epochs
            _train(model, masks, optimiser, target.batches(epoch), recipe, epoch, title)
            retained, accuracy = float(masks.retained_share().detach()), target.accuracy(model)
            bar.set_postfix_str(f"retained {retained:.1%}, validation {accuracy:.1%}")
            bar.update()
            if emptied := retained == 0:
                break
            if 1 - retained >= recipe.threshold:
                return Pruned(masks.binary(), retained, accuracy, epoch, True)
            numbers = {"retained": retained, "accuracy": accuracy}
            progress.finish_epoch(accuracy - retained, masks.binary(), **numbers)
    if not best.state:
        raise ValueError(
            f"the masks removed every weight in the first epoch: lower alpha={recipe.alpha:g} or "
            f"lr_mask={recipe.lr_mask:g}"
        )
    chosen = {name: best.state[name] for name in masks.names}  # a file keeps no order
    return Pruned(chosen, epoch=best.epoch, reached=False, emptied=emptied, **best.notes)


def _adam(masks: WeightMasks, layer: nn.Module, recipe: PruningRecipe) -> torch.optim.Adam:
    return torch.optim.Adam(
        [
            {"params": list(masks.parameters()), "lr": recipe.lr_mask, "setting": "lr_mask"},
            {
                "params": list(layer.parameters()),
                "lr": recipe.lr_output,
                "setting": "lr_s2_output_layer",
            },
        ]
    )


def _train(
    model: nn.Module,
    masks: WeightMasks,
    optimiser: torch.optim.Adam,
    batches: Batches,
    recipe: PruningRecipe,
    epoch: int,
    title: str,
) -> None:
    """One epoch; masks act on the model."""

    def penalty() -> Tensor:
        return recipe.alpha * masks.retained_share()

    seed = seed_of(recipe.seed, "dropout", epoch)
    train_epoch(model, batches, optimiser, seed, penalty, title or "learning masks")
