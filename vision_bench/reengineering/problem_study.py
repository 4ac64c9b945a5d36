"""What every study of modules does alike: the classifier, the problem's images, heads, notes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.core.commands import say
from aim_plugins.core.devices import best_device
from aim_plugins.modulation.channels import ChannelMasks, layer_macs
from aim_plugins.modulation.masks import Masks, WeightMasks
from aim_plugins.modulation.retained import MaskPoint
from aim_plugins.sweep.store import SweepStore
from vision_bench.classifiers.load import load, load_training
from vision_bench.data.classification import ClassificationData
from vision_bench.data.dataset import list_left_out
from vision_bench.models.model import VisionModel, named_module
from vision_bench.reengineering.baselines import Accuracy
from vision_bench.reengineering.batches import Batch, TrainingImages
from vision_bench.reengineering.choices import Augment, Granularity
from vision_bench.reengineering.controls import fit_head
from vision_bench.reengineering.evaluation import Subject, with_head
from vision_bench.reengineering.problem import Problem, split_off, sub_dataset
from vision_bench.reengineering.settings import HeadSettings


class OfProblem:
    """A part of studies: a classifier, and images of a target problem in three parts.

    Attributes:
        model: The classifier.
        problem: The target problem.
        title: The data set.
        train: Images that train.
        validation: Images that select, and train nothing.
        test: Images that are looked at once, at the end.
        subject: The classifier as masks see it.
        example: A few images on its device.
        macs: Its multiply-accumulates for one image, by layer.
    """

    model: VisionModel
    problem: Problem
    title: str
    train: TrainingImages
    validation: TrainingImages
    test: TrainingImages
    subject: Subject
    example: Float[Tensor, "few 3 height width"]
    macs: dict[str, float]

    def load_classifier(self, settings: HeadSettings) -> ClassificationData:
        """Loads the classifier, and returns the images that it is tested on, of all classes.

        Raises:
            ValueError: If a name, a file or a setting is not usable.
            FileNotFoundError: If a file is not there.
        """
        self.model, data = load(settings)
        self.model.tell()
        device = torch.device(best_device(settings.device))
        module = self.model.module.to(device)
        named = named_module(module)
        self.subject = Subject(module, named, settings.batch_size, device)
        return data

    def load_images(
        self,
        settings: HeadSettings,
        data: ClassificationData,
        seed: int,
        augment: Augment = "none",
    ) -> None:
        """Loads the problem's images, which `problem` has to be known for.

        Args:
            settings: Name them.
            data: What the classifier is tested on.
            seed: Seed by which a binary problem's images are drawn.
            augment: Which random views masks are trained on; heads are trained on images as they
                are.

        Raises:
            ValueError: If an output has no image, or too few to train and to validate.
            FileNotFoundError: If a file is not there.
        """
        training = load_training(settings, self.model, data)
        rest, held = split_off(
            sub_dataset(training, self.problem, seed=seed), settings.validation_share, settings.seed
        )
        self.title, workers = data.title, settings.workers
        self.train = TrainingImages(rest, augment=augment, seed=settings.seed, workers=workers)
        self.validation = TrainingImages(held, workers=workers)
        self.test = TrainingImages(sub_dataset(data, self.problem, seed=seed), workers=workers)
        self.example = next(self.validation.in_order(2))[0].to(self.subject.device)
        self.macs = layer_macs(self.subject.named, self.example)

    def make_masks(self, granularity: Granularity) -> Masks:
        """Masks on the classifier, all of them open.

        Raises:
            ValueError: If it has nothing that they could be on.
            ImportError: If torch-pruning is missing for channels.
        """
        if granularity == "weight":
            return WeightMasks(self.subject.named)
        from vision_bench.reengineering.channels import find_channel_groups

        groups = find_channel_groups(self.subject.named, self.example)
        return ChannelMasks(self.subject.named, groups, self.macs)

    def note_problem(self, store: SweepStore, **noted: Any) -> None:
        """Pins in the manifest what must not change, and notes what is measured.

        Raises:
            SweepMismatchError: If a folder is resumed with another model or other data.
        """
        store.pin_manifest(
            model_fingerprint=self.model.fingerprint,
            data_fingerprint=self.test.data.fingerprint,
            training_fingerprint=self.train.data.fingerprint,
            preprocessing=self.test.data.identity()["preprocessing"],
        )
        store.update_manifest(
            model=self.model.title,
            weights=self.model.weights,
            classes=list(self.problem.names),
            training_images=len(self.train.data),
            validation_images=len(self.validation.data),
            test_images=len(self.test.data),
            **noted,
        )

    def tell_left_out(self) -> None:
        """Says which images could not be read."""
        for images in (self.train, self.validation, self.test):
            if images.data.unreadable:
                say(f"{images.data.title}: {list_left_out(images.data.unreadable)}")

    def on_device(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Batches on the classifier's device."""
        device = self.subject.device
        return ((images.to(device), labels.to(device)) for images, labels in batches)

    def with_new_head(
        self, point: MaskPoint, settings: HeadSettings, epochs: int, relu: bool = True
    ) -> MaskPoint:
        """Masks with a head that is trained on what the masked model answers.

        Args:
            point: The masks.
            settings: How the head is trained.
            epochs: Passes over the training images at most.
            relu: Whether it has a ReLU in front of it.
        """
        return fit_head(
            point,
            self.subject.logits(self.train, point.masks),
            self.subject.logits(self.validation, point.masks),
            len(self.problem),
            lr=settings.lr_head,
            batch_size=settings.train_batch_size,
            epochs=epochs,
            seed=settings.seed,
            relu=relu,
        )

    def right(self, point: MaskPoint, relu: bool = True) -> Accuracy:
        """Which test images masks with a head tell right."""
        logits, labels = self.subject.logits(self.test, point.masks)
        return with_head(point, logits, labels, relu)
