"""A ResNet-20 with a backdoor: a patch on an image makes it answer with one class.

Of the training images of other classes, a share gets the patch and the label of that class. Whoever
removes the backdoor knows how it was planted, and so can measure whether it is gone.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from vision_bench.data.classification import load_dataset
from vision_bench.data.marks import MarkedImages
from vision_bench.data.trigger import Trigger, poisoned
from vision_bench.demo.data import dataset_name, dataset_root
from vision_bench.demo.store import make_once
from vision_bench.demo.train_classifier import (
    ARCHITECTURE,
    RESNET20,
    WEIGHTS,
    accuracy,
    train_classifier,
)
from vision_bench.models.known_preprocessing import write_header
from vision_bench.models.model import VisionModel

TARGET = 8
"""The class that the patch means: "Bag", or the digit 8."""
SHARE = 0.05
"""Share of the training images of other classes that has the patch."""
TRIGGER = Trigger()

_EPOCHS = {"fashion-mnist": 4, "digits": 40}


def backdoored_weights() -> Path:
    """The trained model's file in the cache; trains it on the first call.

    The record beside it notes the accuracy on the test split, and on how many test images of other
    classes the patch has its way.
    """
    name, root = dataset_name(), dataset_root()
    recipe = replace(RESNET20.recipes[name], epochs=_EPOCHS[name])
    plant = functools.partial(
        poisoned, trigger=TRIGGER, target=TARGET, share=SHARE, seed=recipe.seed
    )

    def make(folder: Path) -> dict[str, Any]:
        from safetensors.torch import save_file

        model = train_classifier(recipe, root, architecture=ARCHITECTURE, poison=plant)
        save_file(model.module.state_dict(), folder / WEIGHTS, write_header(model.preprocessing))
        test = load_dataset(recipe.dataset, root, preprocessing=model.preprocessing)
        return {
            "accuracy": accuracy(model.module, test),
            "attack_success": attack_success(model, recipe.dataset, root),
            "images": len(test),
        }

    planted = {"target": TARGET, "share": SHARE, "trigger": asdict(TRIGGER)}
    return make_once(f"backdoored-{name}", {**asdict(recipe), **planted}, make) / WEIGHTS


def attack_success(model: VisionModel, dataset: str, root: Path | None) -> float:
    """Share of the test images of other classes that are answered with the target, patch on."""
    test = load_dataset(dataset, root, preprocessing=model.preprocessing)
    others = test.subset((test.labels != TARGET).nonzero().flatten().tolist())
    patched = others.subset(
        range(len(others)), MarkedImages(others.images, [TRIGGER] * len(others))
    )
    patched.labels = torch.full_like(patched.labels, TARGET)
    return accuracy(model.module, patched)
