"""A ResNet-20 and a LeNet-5 on Fashion-MNIST, or on digits where that is not installed.

The ResNet's architecture and checkpoint are those of pytorch-cifar-models, so that the trained file
is loaded as a published one would be. A part of the data and a few epochs are enough for a curve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vision_bench.data.classification import ClassificationData, load_dataset
from vision_bench.demo.data import dataset_name, dataset_root
from vision_bench.demo.store import make_once
from vision_bench.demo.training import fit, reproducible
from vision_bench.models.architectures.lenet import LENET
from vision_bench.models.known_preprocessing import write_header
from vision_bench.models.load import load_model
from vision_bench.models.model import VisionModel

ARCHITECTURE = "cifar10_resnet20"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class ClassifierRecipe:
    """How the classifier is trained.

    Attributes:
        dataset: Name of the data set.
        images: Number of training images, evenly over the training split; None takes all.
        epochs: Passes over them.
        flip: Whether images are mirrored at random.
        batch_size: Images in a step.
        learning_rate: The highest one; it rises and falls once (OneCycle).
        weight_decay: Of stochastic gradient descent with Nesterov momentum 0.9.
        seed: Of the first weights, the order of the images and the mirroring.
        version: Changes with the training code.
    """

    dataset: str
    images: int | None
    epochs: int
    flip: bool
    batch_size: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    seed: int = 0
    version: int = 1


@dataclass(frozen=True)
class DemoClassifier:
    """A classifier of the demo.

    Attributes:
        name: Of its folder in the cache.
        architecture: Its name in `vision_bench.models.load`.
        recipes: How it is trained, by data set.
    """

    name: str
    architecture: str
    recipes: Mapping[str, ClassifierRecipe]

    def weights(self) -> Path:
        """The trained classifier's file in the cache; trains it on the first call.

        The record beside it notes the accuracy on the test split.
        """
        recipe, root = self.recipes[dataset_name()], dataset_root()

        def make(folder: Path) -> dict[str, Any]:
            from safetensors.torch import save_file

            model = train_classifier(recipe, root, architecture=self.architecture)
            header = write_header(model.preprocessing)
            save_file(model.module.state_dict(), folder / WEIGHTS, header)
            test = load_dataset(recipe.dataset, root, preprocessing=model.preprocessing)
            return {"accuracy": accuracy(model.module, test), "images": len(test)}

        return make_once(f"{self.name}-{recipe.dataset}", asdict(recipe), make) / WEIGHTS


RESNET20 = DemoClassifier(
    "resnet20",
    ARCHITECTURE,
    {
        "fashion-mnist": ClassifierRecipe("fashion-mnist", images=12_000, epochs=6, flip=True),
        "digits": ClassifierRecipe("digits", images=None, epochs=40, flip=False, batch_size=64),
    },
)
LENET5 = DemoClassifier(
    "lenet5",
    LENET,
    {
        "fashion-mnist": ClassifierRecipe(
            "fashion-mnist", images=12_000, epochs=12, flip=True, batch_size=64, learning_rate=0.05
        ),
        "digits": ClassifierRecipe(
            "digits", images=None, epochs=40, flip=False, batch_size=64, learning_rate=0.05
        ),
    },
)


def classifier_weights() -> Path:
    """The trained ResNet-20; see `DemoClassifier.weights`."""
    return RESNET20.weights()


def lenet_weights() -> Path:
    """The trained LeNet-5; see `DemoClassifier.weights`."""
    return LENET5.weights()


def train_classifier(
    recipe: ClassifierRecipe,
    root: Path | None = None,
    *,
    architecture: str = ARCHITECTURE,
    progress: bool = True,
    poison: Callable[[ClassificationData], ClassificationData] | None = None,
) -> VisionModel:
    """Trains a classifier on one thread of the CPU.

    Args:
        recipe: Data set and settings.
        root: Where the data set lies, as `load_dataset` takes it.
        architecture: Name of the model in `vision_bench.models.load`.
        progress: Whether to show a progress bar.
        poison: Makes of the training images those that are trained on.

    Returns:
        The model in eval mode.
    """
    with reproducible(recipe.seed):
        model = load_model(architecture, weights="random")
        data = load_dataset(
            recipe.dataset,
            root,
            split="train",
            preprocessing=model.preprocessing,
            limit=recipe.images,
        )
        data = data if poison is None else poison(data)
        images = torch.stack([data[index][0] for index in range(len(data))])
        _train(model.module, images, data.labels, recipe, progress)
    return model


@torch.no_grad()
def accuracy(module: nn.Module, data: ClassificationData) -> float:
    """Share of a data set's images that a classifier in eval mode gets right."""
    right = 0
    for positions in torch.arange(len(data)).split(250):
        images = torch.stack([data[int(index)][0] for index in positions])
        right += int((module(images).argmax(1) == data.labels[positions]).sum())
    return right / len(data)


def _train(
    module: nn.Module,
    images: Float[Tensor, "n 3 height width"],
    labels: Int[Tensor, " n"],
    recipe: ClassifierRecipe,
    progress: bool,
) -> None:
    module.train()
    optimizer = torch.optim.SGD(
        module.parameters(),
        lr=recipe.learning_rate,
        momentum=0.9,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )

    def loss_of(chosen: Tensor) -> Tensor:
        batch = images[chosen]
        if recipe.flip:
            mirrored = torch.rand(len(batch)) < 0.5
            batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
        return F.cross_entropy(module(batch), labels[chosen])

    fit(
        optimizer,
        loss_of,
        count=len(images),
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        title=f"training on {recipe.dataset}",
        progress=progress,
    )
    module.eval()
