"""What every attack is: it takes a classifier of pixels, images and labels, and gives images."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aim_plugins.core.settings import Settings, bound
from aim_plugins.modulation.freezing import evaluating, frozen
from vision_bench.attacks.normalised import Pixels

Labels = Int[Tensor, " images"]

Eps = Annotated[float, bound("a share of the range [0, 1], as in 8 / 255", lambda e: 0 <= e <= 1)]

_ROUNDING = 1e-6
"""How far normalising and undoing it may carry pixels out of [0, 1]."""


@dataclass(frozen=True)
class Attack(Settings, abc.ABC):
    """An untargeted attack on a classifier of pixels in [0, 1].

    Attributes:
        name: Its name in `ATTACKS`.
        source: The paper.
    """

    name: ClassVar[str]
    source: ClassVar[str]

    def __call__(
        self,
        model: nn.Module,
        images: Pixels,
        labels: Labels,
        indices: Int[Tensor, " images"] | Sequence[int] | None = None,
    ) -> Pixels:
        """Attacks images.

        Args:
            model: Takes pixels, gives logits; see `NormalisedModel`.
            images: Pixels in [0, 1].
            labels: The class of each, whose logit the attack works against.
            indices: The place of each image in its data set, which names its random start; by
                default its place here.

        Returns:
            New pixels in [0, 1], on the device and of the type of `images`.

        Raises:
            ValueError: If pixels are outside [0, 1], labels or indices do not fit the images or
                the classes, or a logit is not finite.
        """
        places = torch.arange(len(images)) if indices is None else torch.as_tensor(indices)
        _check(images, labels, places)
        if not len(images):
            return images.clone()
        # A clone made here takes part in gradients even when the caller is in inference mode.
        with torch.inference_mode(False), torch.enable_grad(), frozen(model), evaluating(model):
            clean = images.clone().clamp_(0, 1)
            return self.perturb(model, clean, labels.clone().to(clean.device), places)

    @abc.abstractmethod
    def perturb(
        self, model: nn.Module, images: Pixels, labels: Labels, indices: Int[Tensor, " images"]
    ) -> Pixels:
        """Attacks checked images, as a subclass does; gradients are on, and parameters frozen."""


def logits_of(model: nn.Module, images: Pixels, labels: Labels) -> Float[Tensor, "images classes"]:
    """Logits of pixels, in float32 or wider.

    Raises:
        ValueError: If they are not [images, classes], lack a class of the labels, or are not
            finite.
    """
    logits = model(images)
    if logits.dim() != 2 or len(logits) != len(images) or logits.shape[1] < 2:
        raise ValueError(
            f"model gives an output of shape {tuple(logits.shape)} for {len(images)} images: "
            "an attack needs logits [images, classes] of at least 2 classes"
        )
    if (top := int(labels.max())) >= logits.shape[1]:
        raise ValueError(f"labels hold {top}, but the model has classes 0 to {logits.shape[1] - 1}")
    if not (finite := logits.detach().isfinite().all(1)).all():
        first = int((~finite).nonzero()[0])
        raise ValueError(
            f"logits of {int((~finite).sum())} images are not finite, first of image {first} of "
            "the batch: run the network in float32, and check its weights"
        )
    return logits.float() if logits.dtype.itemsize < 4 else logits


def own(logits: Tensor, labels: Labels) -> Float[Tensor, " images"]:
    """The logit of each label."""
    return logits.gather(1, labels.long()[:, None])[:, 0]


def others(logits: Tensor, labels: Labels) -> Float[Tensor, "images classes"]:
    """Logits, with −∞ at the label."""
    return logits.scatter(1, labels.long()[:, None], -math.inf)


def lead(logits: Tensor, labels: Labels) -> Float[Tensor, " images"]:
    """By how much the label wins over the best other class."""
    return own(logits, labels) - others(logits, labels).amax(1)


def _check(images: Tensor, labels: Tensor, indices: Tensor) -> None:
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(
            f"images are {images.dtype} of shape {tuple(images.shape)}: give floats of shape "
            "[images, channels, height, width]"
        )
    for name, values in (("labels", labels), ("indices", indices)):
        if values.shape != images.shape[:1] or values.is_floating_point():
            raise ValueError(
                f"{name} are {values.dtype} of shape {tuple(values.shape)} for {len(images)} "
                "images: give a whole number for each"
            )
    if not len(images):
        return
    low, high = map(float, images.aminmax())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise ValueError(
            f"images hold values from {low:.4g} to {high:.4g}: an attack takes pixels in [0, 1]; "
            "undo the normalisation by NormalisedModel.pixels"
        )
    if (least := int(labels.min())) < 0:
        raise ValueError(f"labels hold {least}: give classes from 0 upwards")
