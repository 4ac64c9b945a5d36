"""Settings of `vision-bench reengineer run`, as configs and options give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from aim_plugins.core.settings import (
    Classes,
    Count,
    Grid,
    Natural,
    NonNegative,
    Part,
    Positive,
    Share,
    bound,
    option,
)
from aim_plugins.core.strengths import parse_strengths
from vision_bench.classifiers.settings import TrainingSettings
from vision_bench.reengineering.choices import Augment, Granularity

if TYPE_CHECKING:
    from vision_bench.reengineering.problem import Problem


@dataclass(frozen=True)
class HeadSettings(TrainingSettings):
    """A classifier, and how a head for some of its classes is trained.

    Attributes:
        lr_head: Learning rate of the head.
        train_batch_size: Images in a training step.
        validation_share: Share of the training images that selects, and trains nothing.
    """

    lr_head: Positive = 0.1
    train_batch_size: Count = 64
    validation_share: Part = 0.1

    def check(self) -> None:
        super().check()
        if self.model.startswith("clip:"):
            raise ValueError(
                f"model={self.model!r}: a module is kept by the name of its architecture, which no "
                "folder has: give lenet5, a torchvision: or timm: name, or one of "
                "pytorch-cifar-models"
            )


@dataclass(frozen=True)
class ProblemSettings(HeadSettings):
    """A classifier, and which of its classes are needed.

    Attributes:
        classes: Names or indices of the classes to tell apart, separated by commas.
        target_class: Instead, a class to tell from all others.
        target_superclass_idx: Instead, name or index of one of CIFAR-100's 20 superclasses or of
            ImageNet's 67.
        superclass_type: "random" draws n_classes classes by the seed instead.
        n_classes: How many are drawn.
    """

    classes: Classes = option((), metavar="CLASSES")
    target_class: str | int | None = option(None, metavar="CLASS")
    target_superclass_idx: str | int | None = option(None, metavar="SUPERCLASS")
    superclass_type: Literal["predefined", "random"] = "predefined"
    n_classes: Count | None = None

    def check(self) -> None:
        super().check()
        drawn = self.superclass_type == "random"
        ways = {
            "classes": bool(self.classes),
            "target_class": self.target_class is not None,
            "target_superclass_idx": self.target_superclass_idx is not None,
            "superclass_type='random'": drawn,
        }
        chosen = [name for name, given in ways.items() if given]
        if len(chosen) != 1:
            given = " and ".join(chosen) or "no target problem"
            raise ValueError(
                f"{given} given: name the problem in one way, by classes (two or more), by "
                "target_class (one against the others), by target_superclass_idx, or by "
                "superclass_type='random' with n_classes"
            )
        if drawn != (self.n_classes is not None):
            raise ValueError(
                f"n_classes={self.n_classes} goes with superclass_type='random', which is "
                f"{self.superclass_type!r}: give both or neither"
            )

    def problem(self, classes: Sequence[str]) -> Problem:
        """The target problem.

        Args:
            classes: Names of the model's classes.

        Raises:
            ValueError: If there is no such class or superclass, or it has one class alone.
        """
        from vision_bench.reengineering.problem import binary, multiclass
        from vision_bench.reengineering.superclasses import predefined_superclass, random_superclass

        if self.target_class is not None:
            return binary(classes, self.target_class)
        if self.target_superclass_idx is not None:
            chosen = predefined_superclass(self.dataset, self.target_superclass_idx)
            return multiclass(classes, chosen)
        if self.n_classes is not None:
            return multiclass(classes, random_superclass(classes, self.n_classes, self.seed))
        return multiclass(classes, self.classes)


@dataclass(frozen=True)
class ReengineerSettings(ProblemSettings):
    """How the module is learned, and what it is held against.

    Attributes:
        granularity: "weight" masks every weight, as in the paper; "channel" gates channels, which
            are then removed, so that the module is really smaller and faster.
        lr_mask: Learning rate of the masks, which decides how fast idle weights go; several, such
            as "0.02,0.05", are gone through one after another.
        alpha: Weight of the penalty on what is retained; of several the same holds.
        n_epochs: Epochs of training for each of them.
        augment: What is trained on: the images themselves ("none"), mirrored at random ("flip"),
            also shifted ("crop-flip", CIFAR's) or cut and resized ("resized-crop-flip",
            ImageNet's).
        early_stop: Epochs without a better module after which one of them is left; 0 for never.
        baseline: The accuracy that the module has to reach on them: that of the whole model
            restricted to the problem's classes, or "whole", that of all its classes, as in the
            paper.
        tolerance: By how much it may fall short of that.
        target_share: Instead, the retained ratio of masks on weights, or the share of MACs of gates
            on channels, that the module has at most.
        round_to: Channels that stay come in multiples of this, layer by layer, as runtimes compute
            in blocks: other numbers may be slower than the whole model.
        fine_tune: Epochs of training the selected module's weights afterwards, which the paper does
            not; the whole model is given as many.
        lr_fine_tune: Highest learning rate of that, which rises and falls once.
        points: Modules along the training path that are kept and tested, at most.
        runtimes: Writes the selected module as ONNX too, and measures its latency in PyTorch,
            ONNX Runtime and OpenVINO.
        output: Folder of results; by default runs/reengineer/DATASET_MODEL.
    """

    granularity: Granularity = "weight"
    lr_mask: Grid = 0.05
    alpha: Grid = 1.0
    n_epochs: Count = 300
    augment: Augment = "flip"
    early_stop: Natural = 0
    baseline: Literal["restricted", "whole"] = "restricted"
    tolerance: NonNegative = 0.0
    target_share: Share | None = None
    round_to: Count = 8
    fine_tune: Natural = 0
    lr_fine_tune: Positive = 0.02
    points: Annotated[int, bound("a whole number from 3 upwards", lambda one: one >= 3)] = 8
    runtimes: bool = True
    output: str | None = None

    def check(self) -> None:
        super().check()
        rates, alphas = self._grids
        if len(rates) > 1 and len(alphas) > 1:
            raise ValueError(
                f"lr_mask={self.lr_mask!r} and alpha={self.alpha!r} both hold several: go through "
                "one of them at a time"
            )
        if 0.0 in rates:
            raise ValueError(f"lr_mask={self.lr_mask!r} holds 0, by which masks stay: give others")

    @property
    def stages(self) -> tuple[tuple[float, float], ...]:
        """Rates of the masks and weights of the penalty, in turn."""
        rates, alphas = self._grids
        return tuple((rate, alpha) for rate in rates for alpha in alphas)

    @property
    def _grids(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        rates = parse_strengths(self.lr_mask, name="lr_mask")
        return rates, parse_strengths(self.alpha, name="alpha")

    @property
    def folder(self) -> Path:
        """Folder of results."""
        return self.results("reengineer", self.output)
