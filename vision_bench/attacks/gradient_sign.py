"""Attacks that step along the sign of the gradient, in the L∞ ball around the image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aim_plugins.core.settings import Count, Natural
from aim_plugins.modulation.noise import prefix_keys, standard_normal
from vision_bench.attacks.attack import Attack, Eps, Labels, logits_of, others, own
from vision_bench.attacks.normalised import Pixels


@dataclass(frozen=True)
class FGSM(Attack):
    """The fast gradient sign method: x + eps · sign(∇ₓ loss), one step.

    Attributes:
        eps: Largest change of a pixel, as a share of the range [0, 1].
    """

    name: ClassVar[str] = "fgsm"
    source: ClassVar[str] = "Goodfellow, Shlens and Szegedy 2015, arXiv 1412.6572, section 4"

    eps: Eps = 8 / 255

    def perturb(
        self, model: nn.Module, images: Pixels, labels: Labels, indices: Int[Tensor, " images"]
    ) -> Pixels:
        """One step of eps along the sign of the gradient."""
        return images.add(_ascent(model, images, labels), alpha=self.eps).clamp_(0, 1)


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent in the L∞ ball: steps of FGSM, each projected onto the ball.

    Attributes:
        eps: Radius of the ball, as a share of the range [0, 1].
        alpha: Size of a step, of the same unit.
        steps: Number of steps.
        random_start: Whether to start anywhere in the ball, rather than at the image.
        seed: Seed of the start, which also depends on the index of the image.
    """

    name: ClassVar[str] = "pgd"
    source: ClassVar[str] = "Madry et al. 2018, arXiv 1706.06083, section 2.1"

    eps: Eps = 8 / 255
    alpha: Eps = 2 / 255
    steps: Count = 10
    random_start: bool = True
    seed: Natural = 0

    def perturb(
        self, model: nn.Module, images: Pixels, labels: Labels, indices: Int[Tensor, " images"]
    ) -> Pixels:
        """Starts in the ball, and climbs."""
        low, high = (images - self.eps).clamp_(min=0), (images + self.eps).clamp_(max=1)
        found = images
        if self.random_start:
            start = uniform_start(indices, images[0].numel(), self.seed).view(images.shape)
            found = images.add(start.to(images), alpha=self.eps).clamp_(0, 1)
        return climb(
            lambda now: _ascent(model, now, labels), found, (low, high), self.alpha, self.steps
        )


def climb(
    ascent: Callable[[Pixels], Pixels],
    start: Pixels,
    box: tuple[Pixels, Pixels],
    alpha: float,
    steps: int,
) -> Pixels:
    """Steps along the sign of a gradient, each projected onto a box: the loop of PGD.

    Args:
        ascent: The sign of the objective's gradient at images.
        start: Where to start, inside the box.
        box: The lowest and the highest value of each pixel.
        alpha: Size of a step.
        steps: Number of steps.
    """
    found = start
    for _ in range(steps):
        found = found.add(ascent(found), alpha=alpha).clamp(*box)
    return found


def gradient_sign(
    objective: Callable[[Pixels], Float[Tensor, " images"]], images: Pixels
) -> Pixels:
    """Sign of the gradient of what each image is worth.

    Raises:
        ValueError: If a gradient is NaN.
    """
    leaf = images.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(leaf).sum(), leaf)
    if (broken := gradient.isnan().flatten(1).any(1)).any():
        first = int(broken.nonzero()[0])
        raise ValueError(
            f"the gradient of {int(broken.sum())} images is nan, first of image {first} of the "
            "batch: an operation of the network has no derivative there, such as a root of 0"
        )
    return gradient.sign()


def uniform_start(
    indices: Int[Tensor, " images"], pixels: int, seed: int = 0
) -> Float[Tensor, "images pixels"]:
    """Draws from the uniform law on [-1, 1], a pure function of seed, index and pixel.

    Args:
        indices: Place of each image in its data set.
        pixels: Number of draws for each.
        seed: Seed of the draw.
    """
    keys = prefix_keys(indices.to(torch.int64).cpu()[:, None])[:, 0]
    # erf(z / √2) is 2 Φ(z) − 1, and so uniform.
    return torch.erf(standard_normal(keys, pixels, seed=seed) / math.sqrt(2))


def _ascent(model: nn.Module, images: Pixels, labels: Labels) -> Pixels:
    """Sign of the gradient of the cross-entropy.

    Taken of the log-odds against the label, of which the cross-entropy is the softplus, so that the
    signs are the same. Its own gradient underflows to 0 where a network is sure of the label.
    """

    def log_odds(now: Pixels) -> Float[Tensor, " images"]:
        logits = logits_of(model, now, labels)
        return others(logits, labels).logsumexp(1) - own(logits, labels)

    return gradient_sign(log_odds, images)
