"""A vision model as everything here takes it: its module, what its images need, its identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from aim_plugins.core.identity import model_fingerprint

Task = Literal["classification", "segmentation"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an RGB image before a model sees it, in this order.

    Attributes:
        size: Side in pixels that the image is resized to; None keeps its size.
        crop: Side of the square cut from the middle after that; None cuts nothing.
        mean: Mean of each channel that is taken off, for values in [0, 1].
        std: Standard deviation of each channel that is divided by.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos", with antialiasing.
        resize: "short" resizes the shorter side and keeps the proportions; "square" resizes both
            sides.
        reduce_labels: Of segmentation, whether label maps of the user's own count classes from 1,
            as `do_reduce_labels` of transformers takes them; 0 is then unlabelled.
    """

    size: int | None = None
    crop: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    resize: Literal["short", "square"] = "short"
    reduce_labels: bool = False


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
    """

    name: str
    module: nn.Module
    task: Task
    classes: int
    preprocessing: Preprocessing
    fingerprint: str


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
