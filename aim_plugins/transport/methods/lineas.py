"""LinEAS: affine maps of all sites, learned together by gradient descent through the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.transport.methods.method import Method
from aim_plugins.transport.statistics import optimal_coupling

Parameters = Mapping[str, tuple[Float[Tensor, " _"], Float[Tensor, " _"]]]
"""Scale and shift of each site, while they are learned."""

Push = Callable[[Parameters], Mapping[str, Tensor]]
"""Responses of source sentences behind the maps at each site, for one step."""

_LAST_RATE = 0.1  # share of the learning rate that the cosine schedule ends at


@dataclass(frozen=True)
class LinEAS(Method):
    """T(x) = ω x + b of each neuron, with all sites' maps learned together.

    With ξ the responses of source sentences behind all maps up to a site, that site's included, and
    η those of target sentences in the plain model, the maps minimise

        Σ over sites of the mean over neurons of W₂²(ξ, η),

    the squared Wasserstein distance in one dimension, between sorted samples. So a map answers for
    what it does to all later sites. `sparsity` γ adds the sparse group lasso

        γ Σ over sites of |ω - 1|₁ + |b|₁ + √d (|ω - 1|₂ + |b|₂)

    by a proximal step after each step of descent, which leaves whole neurons and sites alone.

    Source: arXiv 2503.10679, eq. 4 (loss), section 3.3 (penalty) and algorithm 1; plain gradient
    descent in 1000 steps at a learning rate of 0.1 that falls along a cosine to a tenth of it, 32
    sentences a side, mean pooling and no penalty are the settings of github.com/apple/ml-lineas.
    The paper sums over neurons as well, and its code takes means over sites and neurons and sums
    over the samples of a batch, 32 of them, so that its step is 32 / sites times ours. Its code
    draws as many target as source samples in each step; here every target sample counts in all
    steps. The paper sets weights before both parts of the penalty, which are 1 here.

    Attributes:
        BATCH: Source sentences in a step, or all where there are fewer.
        steps: Steps of descent, each a forward and a backward pass over a batch of the source.
        learning_rate: Length of the first steps.
        sparsity: Weight γ of the penalty.
    """

    name: ClassVar[str] = "lineas"
    title: ClassVar[str] = "LinEAS"
    bounded: ClassVar[bool] = False
    joint: ClassVar[bool] = True
    together: ClassVar[bool] = True
    incremental: ClassVar[str] = "source"

    BATCH: ClassVar[int] = 32
    steps: int = 1000
    learning_rate: float = 0.1
    sparsity: float = 0.0

    def _fit(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The maps of a model that ends at its only site."""

        def push(parameters: Parameters) -> dict[str, Tensor]:
            scale, shift = parameters["site"]
            return {"site": source * scale + shift}

        return self.descend(push, {"site": target})["site"]

    def descend(
        self,
        push: Push,
        targets: Mapping[str, Float[Tensor, "responses _"]],
        on_step: Callable[[float], None] = lambda loss: None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Learns the maps of all sites.

        Args:
            push: Pushes a batch of source sentences through maps.
            targets: Responses of target sentences in the plain model at each site.
            on_step: Called with the loss before each step.

        Returns:
            Scale and shift of each site.

        Raises:
            ValueError: If the loss grows beyond all numbers.
        """
        parameters = {
            site: (
                torch.ones_like(one[0], requires_grad=True),
                torch.zeros_like(one[0], requires_grad=True),
            )
            for site, one in targets.items()
        }
        ordered = {site: one.T.sort(dim=-1).values for site, one in targets.items()}
        moving = [one for pair in parameters.values() for one in pair]
        optimizer = torch.optim.SGD(moving, lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, self.steps, eta_min=_LAST_RATE * self.learning_rate
        )
        for step in range(self.steps):
            with torch.enable_grad():
                responses = push(parameters)
                losses = [distance(responses[site], one) for site, one in ordered.items()]
                loss = torch.stack([one.to(losses[0].device) for one in losses]).sum()
            found = float(loss.detach())
            if not math.isfinite(found):
                raise ValueError(
                    f"learning_rate={self.learning_rate:g}: the descent of LinEAS left all numbers "
                    f"at step {step + 1}: give a smaller one, such as {self.learning_rate / 10:g}"
                )
            on_step(found)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if self.sparsity:
                shrink(parameters, float(schedule.get_last_lr()[0]) * self.sparsity)
            schedule.step()
        return {site: (one.detach(), two.detach()) for site, (one, two) in parameters.items()}


def distance(
    source: Float[Tensor, "n neurons"], target: Float[Tensor, "neurons m"]
) -> Float[Tensor, ""]:
    """Mean over neurons of the squared Wasserstein distance in one dimension.

    Args:
        source: Samples of each neuron, in any order.
        target: Those that they are held against, sorted.
    """
    ordered = source.T.sort(dim=-1).values
    if ordered.shape == target.shape:
        return (ordered - target).square().mean()
    starts, ends, weights = (
        one.to(source.device) for one in optimal_coupling(len(source), target.shape[1])
    )
    gaps = ordered[:, starts] - target[:, ends]
    return (gaps.square() @ weights.to(gaps.dtype)).mean()


@torch.no_grad()
def shrink(parameters: Parameters, threshold: float) -> None:
    """The proximal step of the sparse group lasso, in place: soft thresholds, then whole groups.

    Args:
        parameters: Scale and shift of each site; either is a group.
        threshold: Learning rate times weight of the penalty.
    """
    for scale, shift in parameters.values():
        for group, neutral in ((scale, 1.0), (shift, 0.0)):
            away = group - neutral
            soft = away.sign() * (away.abs() - threshold).clamp(min=0)
            length = soft.norm()
            kept = (1 - threshold * math.sqrt(len(soft)) / length).clamp(min=0)
            group.copy_(torch.where(length > 0, kept * soft, 0.0) + neutral)
