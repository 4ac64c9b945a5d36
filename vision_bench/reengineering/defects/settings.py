"""Settings of `vision-bench reengineer defects`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.settings import Count, Names, Natural, NonNegative, Part, Positive, Share
from vision_bench.classifiers.settings import ClassifierSettings, TrainingSettings
from vision_bench.data.names import dataset_name
from vision_bench.models.names import plain_name
from vision_bench.reengineering.choices import Augment

STANDARD, SEAM, REGROWN, RETRAIN = "standard", "seam", "regrown", "retrain"
MAGNITUDE_MASKS, RANDOM_MASKS = "magnitude", "random"
ARMS: Mapping[str, str] = {
    STANDARD: "all weights of the public model fine-tuned",
    SEAM: "weights that masks learned on the target retain, the others held at 0",
    MAGNITUDE_MASKS: "as many weights, the largest ones",
    RANDOM_MASKS: "as many weights, drawn at random",
    RETRAIN: "the same network from random weights",
    REGROWN: "the weights of seam, but the others may grow again, as in the authors' code",
}
"""What is compared, by name."""

WITH_MASKS = (SEAM, MAGNITUDE_MASKS, RANDOM_MASKS, REGROWN)
"""Those that need learned masks."""

_CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000, "fashion-mnist": 10, "digits": 10}
_CLASSES |= {"waterbirds": 2, "celeba": 2}


@dataclass(frozen=True)
class DefectsSettings(TrainingSettings):
    """A public classifier, and the data set that it is reused for.

    Model, weights and preprocessing are the public model's; the data set is the one that it is
    fine-tuned for and tested on.

    Attributes:
        pretrained_on: The data set whose classes the public weights tell apart.
        pretrained_classes: How many these are; needed only of pretrained_on="folder".
        validation_share: Share of the training images on which states are chosen.
        arms: What is compared: standard, seam, magnitude, random, retrain, and regrown, the
            authors' code, which lets removed weights grow again.
        n_epochs: Passes over the training images at most, in every stage.
        early_stop: Epochs without a better validation accuracy after which a stage ends; 0 for
            never.
        lr_s1_output_layer: Rate of the output layer in stage 1, which trains it alone.
        lr_s2_output_layer: Rate of the output layer while masks are learned, in stage 2.
        lr_mask: Rate of the masks' scores.
        alpha: Weight of the retained share in the loss.
        prune_threshold: Share of weights after whose removal stage 2 ends.
        lr_s3_output_layer: Rate of the output layer in fine-tuning, stage 3 and standard.
        lr_s3_hidden_layer: Rate of all other weights there.
        lr_retrain: Rate of training from random weights.
        momentum: Of stochastic gradient descent, but for training from random weights.
        momentum_retrain: Of that.
        weight_decay: Of both.
        augment: What is trained on: images as they are, mirrored at random, cut out of a rim and
            mirrored, or random parts of them resized and mirrored, as in the authors' code.
        train_batch_size: Images in a training step.
        eps: Radius of the attack's ball, in units of normalised images.
        eps_iter: Size of its steps.
        nb_iter: Number of its steps.
        clip: Normalised values that it moves nothing beyond.
        output: Folder of results; by default below runs/reengineer-defects.
    """

    pretrained_on: str = "imagenet"
    pretrained_classes: Count | None = None
    validation_share: Part = 0.1
    arms: Names = (STANDARD, SEAM, MAGNITUDE_MASKS, RANDOM_MASKS, RETRAIN)
    n_epochs: Count = 300
    early_stop: Natural = 30
    lr_s1_output_layer: Positive = 0.1
    lr_s2_output_layer: Positive = 0.001
    lr_mask: Positive = 0.05
    alpha: NonNegative = 0.5
    prune_threshold: Share = 0.6
    lr_s3_output_layer: Positive = 0.05
    lr_s3_hidden_layer: Positive = 0.005
    lr_retrain: Positive = 0.1
    momentum: NonNegative = 0.0
    momentum_retrain: NonNegative = 0.5
    weight_decay: NonNegative = 1e-4
    augment: Augment = "resized-crop-flip"
    train_batch_size: Count = 64
    eps: Positive = 0.1
    eps_iter: Positive = 0.01
    nb_iter: Count = 40
    clip: Positive = 2.2
    output: str | None = None

    def check(self) -> None:
        super().check()
        for one in self.arms:
            if one not in ARMS:
                raise ValueError(f"arms={','.join(self.arms)}: {did_you_mean(one, ARMS)}")
        if STANDARD not in self.arms or len(set(self.arms)) < max(len(self.arms), 2):
            raise ValueError(
                f"arms={','.join(self.arms)}: name {STANDARD!r}, which the others are compared "
                "with, and at least another one, each once"
            )
        if dataset_name(self.pretrained_on) == "folder" and self.pretrained_classes is None:
            raise ValueError(
                "pretrained_on='folder' does not tell how many classes the weights know: give "
                "pretrained_classes"
            )

    @property
    def public(self) -> ClassifierSettings:
        """The public model with the data that it was trained on, of which only classes count."""
        return ClassifierSettings(
            self.pretrained_on, self.model, weights=self.weights, preprocessing=self.preprocessing
        )

    @property
    def public_classes(self) -> int:
        """How many classes the public weights tell apart."""
        return self.pretrained_classes or _CLASSES[dataset_name(self.pretrained_on)]

    @property
    def folder(self) -> Path:
        """Where results go."""
        model = plain_name(self.public.model_name)
        name = f"{dataset_name(self.pretrained_on)}_{model}_{self.dataset.lower()}"
        return Path(self.output or f"runs/reengineer-defects/{name}")
