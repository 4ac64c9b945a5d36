"""Subjects whose attributions are known, or found in another way."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from aim_plugins.attribution.dataset import ComponentDataset
from aim_plugins.attribution.plan import DatasetPlan
from aim_plugins.attribution.subject import BatchSubject, Subject
from aim_plugins.modulation.component_kinds import find_components
from aim_plugins.modulation.components import Components, Site


class FormulaSubject(Subject):
    """Outputs are b + W m + m' Q m of the factors m, of each example with matrices of its own."""

    def __init__(self, examples: int = 3, components: int = 6, curved: bool = False) -> None:
        super().__init__(
            nn.Linear(1, components).eval(),
            Components((Site("layer", "layer", components),)),
            examples,
        )
        nn.init.ones_(self.model.weight)
        nn.init.zeros_(self.model.bias)
        generator = torch.Generator().manual_seed(7)
        self.linear = torch.randn(examples, components, generator=generator)
        self.squares = torch.randn(examples, components, components, generator=generator)
        self.squares *= float(curved)
        self.constant = torch.arange(float(examples))

    def paired_outputs(self, factors: Tensor, owners: Tensor, places: Tensor) -> Tensor:
        own = factors[owners]
        self.passes.forward += len(places) / self.examples
        bent = torch.einsum("pi,pij,pj->p", own, self.squares[places], own)
        return self.constant[places] + (own * self.linear[places]).sum(1) + bent

    def gradients(self, factors: Tensor) -> tuple[Tensor, Tensor]:
        self.passes.backward += 1
        bent = (self.squares + self.squares.mT) @ factors
        return self.outputs(factors[None])[0], self.linear + bent


class ImageSubject(BatchSubject):
    """Images, of which the first class's logit is watched."""

    def __init__(self, model: nn.Module, components: Components, images: Tensor, **given) -> None:
        super().__init__(model, components, len(images), **given)
        self.images = images

    def _rows(self, places):
        return self.images[list(places)], None

    def _forward(self, inputs):
        return self.model(inputs)[:, 0]

    def _scaled(self, inputs, share):
        return inputs * share


def small_network(seed: int = 0, bias: bool = True) -> nn.Module:
    """Convolutions with and without batch norm, and a linear layer, of random weights."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=2, bias=bias),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 8),
        nn.Tanh(),
        nn.Linear(8, 3),
    )
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    model[1].bias.data.normal_()
    return model.eval()


def image_subject(kind: str = "conv_filters", *, images: int = 5, **given) -> ImageSubject:
    model = small_network()
    pictures = torch.randn(images, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    return ImageSubject(model, find_components(model, kind), pictures, **given)


def dataset_of(
    masks: int, components: int, examples: int = 4, *, passes: int = 0, seed: int = 0
) -> ComponentDataset:
    """Random masks and noisy outputs, in memory; gradients near the truth where there are any."""
    rng = np.random.default_rng(seed)
    subject = FormulaSubject(examples, components)
    plan = DatasetPlan.of(
        subject, output="margin", masks=masks - passes, gradient_passes=passes, alpha=0.3
    )
    ablated = rng.random((masks, components)) < 0.3
    truth = rng.normal(size=(examples, components)) * rng.exponential(size=components)
    outputs = (~ablated) @ truth.T + 2 + rng.normal(size=(masks, examples))
    packed = np.packbits(ablated, axis=1, bitorder="little")
    given = [packed, outputs.astype(np.float32)]
    if passes:
        noise = rng.normal(size=(2, *truth.shape))
        given += [(0.6 * truth + 0.2 * noise[0]).astype(np.float32)]
        given += [(0.3 * truth + 0.5 * noise[1]).astype(np.float32)]
    return ComponentDataset(plan, *given)
