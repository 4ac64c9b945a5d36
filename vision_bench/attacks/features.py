"""PGD on a feature extractor: images whose features are no longer those of any image.

Whoever fine-tunes a public model leaves its features much as they were, so what drives them astray
is crafted on the public model alone, and carries over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aim_plugins.core.settings import Count, Natural, Positive, Settings
from aim_plugins.modulation.freezing import evaluating, frozen
from vision_bench.attacks.gradient_sign import climb, gradient_sign, uniform_start

Normalised = Float[Tensor, "images channels height width"]

_GOAL, _OTHERS = 1000.0, 0.1
"""What the first feature is driven to, and the weight of the mean square of the others."""


@dataclass(frozen=True)
class FeatureAttack(Settings):
    """PGD in normalised space that drives the first feature to 1000, and the others to 0.

    Maximises -[(f₀ - 1000)² + 0.1 · mean(f₁², f₂², ...)] in the L∞ ball around the image.

    Attributes:
        eps: Radius of the ball, in units of normalised images.
        alpha: Size of a step.
        steps: Number of steps.
        clip: No value is moved beyond ± this; what lies beyond it already moves inwards only. The
            authors' code clips such values to it, farther than eps: with ImageNet's normalisation
            white lies at up to 2.64.
        seed: Seed of the random start, which also depends on the index of the image.

    Source:
        Qi et al. 2023 (SeaM), arXiv:2304.00245, section IV-D, `myloss` of its code; the attack is
        that of Zhang et al. 2022 (ReMoS).
    """

    eps: Positive = 0.1
    alpha: Positive = 0.01
    steps: Count = 40
    clip: Positive = 2.2
    seed: Natural = 0

    def __call__(
        self,
        extractor: nn.Module,
        images: Normalised,
        indices: Int[Tensor, " images"] | Sequence[int],
    ) -> Normalised:
        """Attacks images.

        Args:
            extractor: Takes normalised images, gives features [images, features]; it runs in eval
                mode, and is left as it was.
            images: Normalised images.
            indices: The place of each in its data set, which names its random start.

        Raises:
            ValueError: If the extractor gives something else than features.
        """
        box = self.box(images)
        start = uniform_start(torch.as_tensor(indices), images[0].numel(), self.seed)
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            frozen(extractor),
            evaluating(extractor),
        ):
            first = images.add(start.view(images.shape).to(images), alpha=self.eps).clamp(*box)
            return climb(
                lambda now: gradient_sign(lambda leaf: objective(extractor(leaf)), now),
                first,
                box,
                self.alpha,
                self.steps,
            )

    def box(self, images: Normalised) -> tuple[Normalised, Normalised]:
        """The lowest and the highest value of each pixel; its own lies between them."""
        low = torch.maximum(images - self.eps, images.clamp(max=-self.clip))
        high = torch.minimum(images + self.eps, images.clamp(min=self.clip))
        return low, high


def objective(features: Float[Tensor, "images ..."]) -> Float[Tensor, " images"]:
    """What the attack maximises, of each image.

    Raises:
        ValueError: If there are fewer than two features of each.
    """
    if features.dim() != 2 or features.shape[1] < 2:
        raise ValueError(
            f"the extractor gives a tensor of shape {tuple(features.shape)}: an attack on features "
            "needs at least two of each image"
        )
    wide = features.float() if features.dtype.itemsize < 4 else features
    return -((wide[:, 0] - _GOAL).square() + _OTHERS * wide[:, 1:].square().mean(1))
