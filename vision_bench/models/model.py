"""A vision model as everything here takes it: its module, what its images need, its identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from aim_plugins.core.commands import say
from aim_plugins.core.identity import model_fingerprint
from vision_bench.models.names import RANDOM, plain_name
from vision_bench.models.preprocessing import Preprocessing

Task = Literal["classification", "segmentation"]


@dataclass(frozen=True)
class VisionModel:
    """A frozen model with what is needed to feed it and to recognise it again.

    Attributes:
        name: The name it was loaded by.
        module: The model in eval mode; called on normalised images [batch, 3, h, w] it returns
            logits [batch, classes], or [batch, classes, H, W] for segmentation (a quarter of h and
            w for SegFormer).
        task: "classification" or "segmentation".
        classes: Number of classes.
        preprocessing: What its images need.
        fingerprint: SHA-256 that identifies architecture and weights.
        preprocessing_source: Where the preprocessing is known from, in words.
        class_names: What the model itself calls its classes, in order; None where it does not say.
        weights: The name of the file or folder that holds the weights, "hub" or "random"; the
            fingerprint is what identifies them.
    """

    name: str
    module: nn.Module
    task: Task
    classes: int
    preprocessing: Preprocessing
    fingerprint: str
    preprocessing_source: str = "as given"
    class_names: tuple[str, ...] | None = None
    weights: str = "as given"

    @property
    def title(self) -> str:
        """What a person would call it."""
        return plain_name(self.name)

    def describe_weights(self) -> str:
        """Says which weights it has, for the terminal and the report."""
        return f"weights: {self.weights}" + ", untrained" * (self.weights == RANDOM)

    def describe_preprocessing(self, rule: str | None = None) -> str:
        """Says what is done to images, and where that is known from.

        Args:
            rule: What a data set resizes images by in the place of the model's size.
        """
        return f"{self.preprocessing.describe(rule)} ({self.preprocessing_source})"

    def tell(self, rule: str | None = None) -> None:
        """Says both before a pass."""
        say(self.describe_weights())
        say(f"preprocessing: {self.describe_preprocessing(rule)}")


class LogitsOnly(nn.Module):
    """Reduces what a model returns to its logits.

    Args:
        model: A model that returns a tensor, an object with `logits` as in transformers, or a
            dictionary with `out` or `logits` as in torchvision's segmentation.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of normalised images."""
        outputs = self.model(images)
        if isinstance(outputs, dict):
            outputs = next((outputs[key] for key in ("logits", "out") if key in outputs), outputs)
        logits = getattr(outputs, "logits", outputs)
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"{type(self.model).__name__} returns {type(outputs).__name__}, not logits: wrap "
                "it in a module that returns a tensor [batch, classes, ...]"
            )
        return logits


def named_module(module: nn.Module) -> nn.Module:
    """The module whose parts carry the names that a person knows."""
    return module.model if isinstance(module, LogitsOnly) else module


def wrap_model(
    module: nn.Module,
    *,
    classes: int,
    preprocessing: Preprocessing,
    task: Task = "classification",
    name: str | None = None,
) -> VisionModel:
    """Makes any PyTorch model usable here.

    Args:
        module: Returns logits [batch, classes, ...] for normalised images, as a tensor or as
            `LogitsOnly` reads them. It is put into eval mode.
        classes: Number of classes.
        preprocessing: What its images need.
        task: "classification" or "segmentation".
        name: What to call it in results; default: its class.

    Returns:
        The model.

    Raises:
        ValueError: If `task` is unknown or `classes` is below 2.

    >>> head = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    >>> wrap_model(head, classes=10, preprocessing=Preprocessing(), name="linear").name
    'linear'
    """
    if task not in ("classification", "segmentation"):
        raise ValueError(f"task={task!r} is neither 'classification' nor 'segmentation'")
    if classes < 2:
        raise ValueError(f"classes={classes} is below 2")
    architecture = name or type(module).__name__
    return VisionModel(
        name=architecture,
        module=LogitsOnly(module.eval()),
        task=task,
        classes=classes,
        preprocessing=preprocessing,
        fingerprint=model_fingerprint(module, architecture),
    )
