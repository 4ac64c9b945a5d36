"""The attack of Carlini and Wagner: the nearest image that another class wins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from aim_plugins.core.settings import Count, Positive, bound
from vision_bench.attacks.attack import Attack, Labels, lead, logits_of
from vision_bench.attacks.normalised import Pixels

_NonNegative = Annotated[
    float, bound("a finite number from 0 upwards", lambda value: 0 <= value < math.inf)
]

_TANH_SHARE = 0.999999
"""Keeps atanh finite at black and white pixels, as the authors' code does."""


@dataclass(frozen=True)
class CarliniWagner(Attack):
    """The L2 attack of Carlini and Wagner: the nearest image that another class wins.

    Minimises ‖x′ − x‖² + c · max(Z_y − max_{j≠y} Z_j, −confidence) over w, x′ = (tanh w + 1) / 2,
    by Adam. Each image has a c of its own: ten times as much after a search that found nothing,
    else the middle between the largest that failed and the smallest that did not.

    The nearest image of all steps is returned, and the clean one where no step succeeded. Pixels
    that are black or white at the start hardly move: tanh is flat there.

    Attributes:
        confidence: By how much, in logits, another class has to win (κ).
        c: First weight of the logits against the distance; a small one overshoots least.
        searches: Number of values of c that are tried.
        steps: Adam's steps for each.
        lr: Adam's rate, in units of w.
    """

    name: ClassVar[str] = "cw"
    source: ClassVar[str] = "Carlini and Wagner 2017, arXiv 1608.04644, section VI.A, f₆"

    confidence: _NonNegative = 0.0
    c: Positive = 0.01
    searches: Count = 6
    steps: Count = 100
    lr: Positive = 0.01

    def perturb(
        self, model: nn.Module, images: Pixels, labels: Labels, indices: Int[Tensor, " images"]
    ) -> Pixels:
        """Searches c for each image, and keeps the nearest success."""
        with torch.no_grad():
            lost = lead(logits_of(model, images, labels), labels) < -self.confidence
        nearest = _Nearest.start(images, lost)
        c = torch.full((len(images),), self.c, dtype=images.dtype, device=images.device)
        failed, worked = torch.zeros_like(c), torch.full_like(c, math.inf)
        for _ in range(self.searches):
            success = self._descend(model, images, labels, c, nearest)
            failed = torch.where(success, failed, c)
            worked = torch.where(success, torch.minimum(worked, c), worked)
            c = torch.where(worked.isinf(), c * 10, (failed + worked) / 2)
        return nearest.images

    def _descend(
        self,
        model: nn.Module,
        images: Pixels,
        labels: Labels,
        c: Float[Tensor, " images"],
        nearest: _Nearest,
    ) -> Bool[Tensor, " images"]:
        """Minimises at one c for each image; says which images were changed in class."""
        w = torch.atanh((2 * images - 1) * _TANH_SHARE).requires_grad_()
        # Elementwise, so that the rows of a batch do not mix.
        optimizer = torch.optim.Adam([w], lr=self.lr)
        success = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        for step in range(self.steps + 1):
            found = (torch.tanh(w) + 1) / 2
            margin = lead(logits_of(model, found, labels), labels)
            distance = (found - images).square().flatten(1).sum(1)
            won = margin.detach() < -self.confidence
            success |= won
            nearest.offer(found.detach(), distance.detach(), won)
            if step < self.steps:
                loss = distance + c * margin.clamp(min=-self.confidence)
                (w.grad,) = torch.autograd.grad(loss.sum(), w)
                optimizer.step()
        return success


@dataclass
class _Nearest:
    """The nearest successful image of each row so far; at first the clean one."""

    images: Pixels
    distances: Float[Tensor, " images"]

    @classmethod
    def start(cls, images: Pixels, lost: Bool[Tensor, " images"]) -> _Nearest:
        """Images that are lost already are at distance 0, and stay."""
        distances = torch.full((len(images),), math.inf, dtype=images.dtype, device=images.device)
        return cls(images.clone(), distances.masked_fill_(lost, 0.0))

    def offer(
        self, images: Pixels, distances: Float[Tensor, " images"], won: Bool[Tensor, " images"]
    ) -> None:
        """Takes what won and is nearer."""
        nearer = won & (distances < self.distances)
        self.images = torch.where(nearer[:, None, None, None], images, self.images)
        self.distances = torch.where(nearer, distances, self.distances)
