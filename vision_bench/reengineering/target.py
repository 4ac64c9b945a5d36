"""The problem that a public model is reused for: images to train on, and to choose states on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vision_bench.data.classification import ClassificationData
from vision_bench.reengineering.batches import TrainingImages
from vision_bench.reengineering.choices import Augment
from vision_bench.reengineering.problem import split_off


@dataclass(frozen=True)
class Target:
    """A problem that a model is fine-tuned for.

    Attributes:
        training: What it learns from.
        validation: What the best state is chosen on; no test image is.
        classes: How many it has.
        batch_size: Images in a step.
        device: Where to compute.
    """

    training: TrainingImages
    validation: TrainingImages
    classes: int
    batch_size: int
    device: torch.device

    @classmethod
    def of(
        cls,
        data: ClassificationData,
        *,
        validation_share: float,
        augment: Augment,
        batch_size: int,
        device: torch.device,
        seed: int = 0,
        workers: int = 0,
    ) -> Target:
        """Reads a data set's training images, and splits a part of every class off.

        Args:
            data: The training split, with the model's preprocessing.
            validation_share: The share that is split off.
            augment: Which random views are trained on.
            batch_size: Images in a step.
            device: Where to compute.
            seed: Seed of the split, of order and views.
            workers: Processes that read.

        Raises:
            ValueError: If images differ in size, or a class cannot be split.
        """
        rest, held = split_off(data, validation_share, seed)
        training = TrainingImages(rest, augment=augment, seed=seed, workers=workers)
        validation = TrainingImages(held, workers=workers)
        return cls(training, validation, len(data.classes), batch_size, device)

    @property
    def unreadable(self) -> dict[str, str]:
        """By name, why an image was left out."""
        return {**self.training.data.unreadable, **self.validation.data.unreadable}

    @property
    def steps(self) -> int:
        """Batches of an epoch, at most."""
        return -(-len(self.training.data) // self.batch_size)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order.

        A last batch of a single image, of which batch normalisation knows no variance, is left out.
        """
        alone = len(self.training.data) == 1
        for images, labels in self.training.epoch(epoch, self.batch_size):
            if len(labels) > 1 or alone:
                yield images.to(self.device), labels.to(self.device)

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """Share of the validation images that a model answers rightly; it is put into eval mode."""
        model.eval()
        right = total = 0
        for images, labels in self.validation.in_order(self.batch_size):
            found = model(images.to(self.device)).argmax(1).cpu()
            right += int((found == labels).sum())
            total += len(labels)
        return right / max(total, 1)
