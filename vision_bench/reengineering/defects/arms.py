"""The ways to reuse a public model that are compared; every one ends in a fine-tuned classifier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from aim_plugins.core.identity import seed_of
from aim_plugins.modulation.masks import magnitude_masks, random_masks
from vision_bench.models.load import load_model
from vision_bench.models.model import VisionModel
from vision_bench.models.names import RANDOM
from vision_bench.reengineering.defects.output_layer import (
    hidden_parameters,
    replace_output_layer,
)
from vision_bench.reengineering.defects.pruning import Pruned, PruningRecipe, learn_masks
from vision_bench.reengineering.defects.settings import (
    MAGNITUDE_MASKS,
    RANDOM_MASKS,
    REGROWN,
    RETRAIN,
    DefectsSettings,
)
from vision_bench.reengineering.fine_tuning import Fitted, Recipe, fine_tune
from vision_bench.reengineering.target import Target

Masks = Mapping[str, Bool[Tensor, "*shape"]]


@dataclass(frozen=True)
class Arm:
    """A classifier of the target's classes.

    Attributes:
        module: It, in eval mode.
        retained: Share of the public model's hidden weights that are not held at 0; None where it
            has none of them.
        fitted: What came of fine-tuning.
    """

    module: nn.Module
    retained: float | None
    fitted: Fitted


class Reuse:
    """Makes the arms of one public model and one target.

    Args:
        public: The public model.
        output_layer: Name of its output layer.
        target: The problem.
        settings: How.
        folder: Where a stage keeps its state after each epoch, and goes on from; empty it once what
            came of it is kept.
    """

    def __init__(
        self,
        public: VisionModel,
        output_layer: str,
        target: Target,
        settings: DefectsSettings,
        folder: Path,
    ) -> None:
        self.public, self.output_layer = public, output_layer
        self.target, self.settings, self.folder = target, settings, folder
        self.names = hidden_parameters(public.module, output_layer)

    def learn_masks(self) -> Pruned:
        """SeaM's stages 1 and 2: the output layer alone, then masks with it."""
        settings, model = self.settings, self._renewed()
        layer = model.get_submodule(self.output_layer)
        model.requires_grad_(False)
        layer.requires_grad_(True)
        rates = [_group(layer.parameters(), settings, "lr_s1_output_layer")]
        recipe = self._recipe("stage 1", settings.momentum)
        title, file = "stage 1: output layer", self.folder / "stage-1.safetensors"
        fine_tune(model, rates, self.target, recipe, title=title, file=file)
        return learn_masks(
            model,
            self.output_layer,
            self.names,
            self.target,
            PruningRecipe(
                settings.lr_mask,
                settings.lr_s2_output_layer,
                settings.alpha,
                settings.prune_threshold,
                settings.n_epochs,
                settings.early_stop,
                seed_of(settings.seed, "stage 2"),
            ),
            title="stage 2: masks",
            file=self.folder / "stage-2.safetensors",
        )

    def make(self, name: str, learned: Masks | None) -> Arm:
        """Makes an arm.

        Args:
            name: Its name.
            learned: The masks of `learn_masks`, for an arm that needs them.

        Raises:
            ValueError: If the loss is not finite.
        """
        if name == RETRAIN:
            return self._retrained()
        masks = None if learned is None else self._masks(name, learned)
        settings, model = self.settings, self._renewed()
        layer = model.get_submodule(self.output_layer)
        own = {id(one) for one in layer.parameters()}
        hidden = [one for one in model.parameters() if id(one) not in own]
        rates = [
            _group(hidden, settings, "lr_s3_hidden_layer"),
            _group(layer.parameters(), settings, "lr_s3_output_layer"),
        ]
        # The authors end standard fine-tuning by the number of epochs alone; one rule for all arms
        # compares them at the same effort.
        recipe, hold = self._recipe("fine-tuning", settings.momentum), name != REGROWN
        fitted = fine_tune(
            model, rates, self.target, recipe,
            masks=masks, hold=hold, title=name, file=self._file(name),
        )  # fmt: skip
        held = masks if hold else None
        return Arm(model, 1.0 if held is None else share_of(held), fitted)

    def _masks(self, name: str, learned: Masks) -> Masks:
        """The masks of an arm: those that were learned, or as many weights chosen otherwise."""
        if name == MAGNITUDE_MASKS:
            return magnitude_masks(self.public.module, self.names, share_of(learned))
        if name == RANDOM_MASKS:
            seed = seed_of(self.settings.seed, name)
            return random_masks(self.public.module, self.names, share_of(learned), seed)
        return learned

    def _retrained(self) -> Arm:
        settings = self.settings
        seed = seed_of(settings.seed, "weights")
        model = random_network(self.public, self.target.classes, self.target.device, seed)
        rates = [_group(model.parameters(), settings, "lr_retrain")]
        recipe = self._recipe("retraining", settings.momentum_retrain)
        file = self._file(RETRAIN)
        fitted = fine_tune(model, rates, self.target, recipe, title=RETRAIN, file=file)
        return Arm(model, None, fitted)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _renewed(self) -> nn.Module:
        seed = seed_of(self.settings.seed, "output layer")
        model = replace_output_layer(
            self.public.module, self.output_layer, self.target.classes, seed
        )
        return model.to(self.target.device)

    def _recipe(self, stage: str, momentum: float) -> Recipe:
        settings = self.settings
        return Recipe(
            settings.n_epochs,
            settings.early_stop,
            momentum,
            settings.weight_decay,
            seed_of(settings.seed, stage),
        )


def random_network(public: VisionModel, classes: int, device: torch.device, seed: int) -> nn.Module:
    """The network of a public model with random weights, for other classes.

    Raises:
        ValueError: If the model cannot be made with random weights, or for so many classes.
    """
    known = asdict(public.preprocessing)
    del known["reduce_labels"]
    return load_model(
        public.name,
        weights=RANDOM,
        classes=classes,
        preprocessing=known,
        device=device,
        seed=seed,
    ).module


def _group(
    parameters: Iterable[nn.Parameter], settings: DefectsSettings, rate: str
) -> dict[str, Any]:
    """Parameters with a rate, as optimisers take them."""
    return {"params": list(parameters), "lr": getattr(settings, rate), "setting": rate}


def share_of(masks: Masks) -> float:
    """Share of the elements of masks that are retained."""
    kept = sum(int(one.sum()) for one in masks.values())
    return kept / sum(one.numel() for one in masks.values())
