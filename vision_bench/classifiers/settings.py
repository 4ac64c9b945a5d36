"""Settings of a classifier and its data, which every command that measures one has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aim_plugins.core.files import existing, existing_folder
from aim_plugins.core.settings import Count, Natural, Settings, option
from vision_bench.data.classes import class_index
from vision_bench.data.names import NEED_ROOT, dataset_name, required_root
from vision_bench.models.names import check_weights, plain_name
from vision_bench.models.preprocessing import Choice

_CIFAR = ("cifar10", "cifar100")


@dataclass(frozen=True)
class ClassifierSettings(Settings):
    """A classifier and a labelled data set.

    Attributes:
        dataset: cifar10, cifar100, imagenet, fashion-mnist, digits, waterbirds, celeba or folder.
        model: torchvision:NAME, timm:NAME, clip:FOLDER, lenet5, or a model of pytorch-cifar-models,
            of which the architecture will do, such as resnet56.
        data_root: Folder of the data set; by default "data" for CIFAR.
        split: The data set's split; by default the one to evaluate on.
        labels: For ImageNet's images in one folder, the list of their labels.
        limit: Number of images, taken evenly over the data set; by default all.
        on_error: "skip" leaves unusable images out and counts them, "raise" stops at the first.
        weights: File of the model's weights; "hub" downloads the published ones, the default for
            models of pytorch-cifar-models on CIFAR, and "random" leaves the model untrained.
        preprocessing: What is done to images, where that is not known of the weights or is to be
            something else: fields such as "size=48 crop=48 mean=0.5,0.5,0.5 std=0.2,0.2,0.2", or
            "published" for that of the architecture's published weights.
        prompts: The texts that CLIP tells classes by, with {} for the name; several are averaged;
            by default "a photo of a {}.".
        batch_size: Images in a forward pass.
        workers: Processes that read images.
        device: Where to compute; by default a GPU where there is one.
    """

    dataset: str
    model: str
    data_root: str | None = None
    split: str | None = None
    labels: str | None = None
    limit: Count | None = None
    on_error: Literal["skip", "raise"] = "skip"
    weights: str | None = None
    preprocessing: Choice | None = option(None, metavar="FIELDS")
    prompts: Sequence[str] = option((), metavar="TEXT")
    batch_size: Count = 128
    workers: Natural = 0
    device: str | None = None

    def check(self) -> None:
        super().check()
        dataset_name(self.dataset)

    def check_files(self) -> None:
        super().check_files()
        if self.labels is not None:
            existing(self.labels, "labels")
        if dataset_name(self.dataset) in NEED_ROOT:
            required_root(self.data_root, "the data set")
        # Of CIFAR's default folder `load` says what belongs there.
        if self.data_root is not None:
            existing_folder(self.data_root, "data_root")
        check_weights(self.weights)

    @property
    def published_name(self) -> str:
        """The model's name in pytorch-cifar-models, empty for a model from elsewhere.

        >>> ClassifierSettings(dataset="cifar100", model="resnet56").published_name
        'cifar100_resnet56'
        """
        from vision_bench.models.architectures.cifar import CIFAR_MODELS

        # Without a checkpoint for its data set, an architecture is that of CIFAR-10.
        names = (f"{self._plain_dataset}_{self.model}", f"cifar10_{self.model}", self.model)
        return next((name for name in names if name in CIFAR_MODELS), "")

    @property
    def model_name(self) -> str:
        """The model's name in `vision_bench.models.load`."""
        return self.published_name or self.model

    @property
    def data_folder(self) -> str | None:
        """Folder of the data set."""
        return self.data_root or ("data" if self._plain_dataset in _CIFAR else None)

    @property
    def weights_source(self) -> str | None:
        """What `load_model` takes."""
        dataset = self._plain_dataset
        published = dataset in _CIFAR and self.published_name.startswith(f"{dataset}_")
        return self.weights or ("hub" if published else None)

    @property
    def _plain_dataset(self) -> str:
        """The data set's name as in those of pytorch-cifar-models."""
        return self.dataset.lower().replace("-", "").replace("_", "")


@dataclass(frozen=True)
class TrainingSettings(ClassifierSettings):
    """A classifier, and the images that it was trained on.

    Attributes:
        train_root: Folder of the training data; by default that of the data set.
        train_split: Split of the training data.
        train_limit: Training images, taken evenly; by default all.
        seed: Seed of what is drawn.
    """

    train_root: str | None = None
    train_split: str = "train"
    train_limit: Count | None = None
    seed: int = 0

    def check_files(self) -> None:
        super().check_files()
        if self.train_root is not None:
            existing_folder(self.train_root, "train_root")

    @property
    def train_folder(self) -> str | None:
        """Folder of the training data."""
        return self.train_root or self.data_folder

    def results(self, words: str, output: str | None) -> Path:
        """Folder of results of a command.

        Args:
            words: What the command is called.
            output: The folder that was asked for.
        """
        name = f"{self.dataset.lower()}_{plain_name(self.model_name)}"
        return Path(output or f"runs/{words}/{name}")


@dataclass(frozen=True, kw_only=True)
class FocusSettings(Settings):
    """Noise on logits: how often it is drawn, and on which classes.

    Attributes:
        draws: Draws of the noise; draw d has the seed SEED + d.
        focus_target: Names or indices of the classes that focus modulation makes more likely; none
            for utility modulation, noise on all classes.
        focus_negative: Makes them less likely instead.
    """

    draws: Count = 1
    focus_target: Sequence[str | int] = option((), metavar="CLASS")
    focus_negative: bool = False

    def check(self) -> None:
        super().check()
        if self.focus_negative and not self.focus_target:
            raise ValueError("focus_negative needs classes to act on: name them as focus_target")

    def targets(self, names: Sequence[str]) -> dict[int, int] | None:
        """Target classes and their signs; None for utility modulation.

        Raises:
            ValueError: If one is no class or is named twice.
        """
        sign = -1 if self.focus_negative else 1
        indices = [class_index(entry, names, "focus_target") for entry in self.focus_target]
        if len(set(indices)) < len(indices):
            raise ValueError(f"focus_target={list(self.focus_target)} names a class twice")
        return {index: sign for index in indices} or None
