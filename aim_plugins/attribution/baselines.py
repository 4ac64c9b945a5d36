"""Attributions that need no regression, to compare with.

Sources: arXiv:2404.11534, section 4 and appendix C (which baselines); Dhamdhere, Sundararajan and
Yan, "How important is a neuron?", ICLR 2019 (conductance); Leino et al., "Influence-directed
explanations for deep convolutional networks", ITC 2018 (internal influence).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.attribution.captured import Captured, captured, summed
from aim_plugins.attribution.subject import MASKS, BatchSubject, Subject

_Sum = Callable[[list[Tensor]], Tensor]


def leave_one_out(subject: Subject) -> Float[Tensor, "examples components"]:
    """By how much the output falls when one component alone is ablated."""
    count = len(subject.components)
    weights = torch.empty(subject.examples, count)
    whole = subject.whole()
    for start in range(0, count, MASKS):
        own = torch.arange(start, min(start + MASKS, count))
        factors = torch.ones(len(own), count)
        factors[torch.arange(len(own)), own] = 0
        weights[:, own] = (whole - subject.outputs(factors)).T
    return weights


def gradient_times_parameter(subject: Subject) -> Float[Tensor, "examples components"]:
    """Products of the weights of each component and the output's derivatives by them, summed.

    That is the derivative by the component's factor.
    """
    return subject.gradients(torch.ones(len(subject.components)))[1]


def neuron_conductance(
    subject: BatchSubject, steps: int = 50
) -> Float[Tensor, "examples components"]:
    """What flows through each component on the way from an input of zeros to the example.

    Args:
        subject: Model, components and examples, whose inputs can be scaled.
        steps: How many steps the way has.

    Raises:
        ValueError: If the subject's inputs cannot be scaled, or a layer runs more than once in a
            pass, not at all, or on other rows than the batch's.
    """
    found = []
    for places in torch.arange(subject.examples).split(subject.batch_size):
        total = torch.zeros(len(places), len(subject.components))
        before: list[tuple[Tensor, Tensor]] = []
        for values, gradients, by_example in _along(subject, places, np.linspace(0, 1, steps + 1)):
            if before:
                change = [
                    (one - other) * (gradient + last) / 2
                    for one, gradient, (other, last) in zip(values, gradients, before, strict=True)
                ]
                total += by_example(change)
            before = list(zip(values, gradients, strict=True))
        found.append(total)
    return torch.cat(found)


def internal_influence(
    subject: BatchSubject, steps: int = 50
) -> Float[Tensor, "examples components"]:
    """Mean derivative by what each component computes, from an input of zeros to the example.

    Args:
        subject: Model, components and examples, whose inputs can be scaled.
        steps: Points of the Gauss-Legendre quadrature.

    Raises:
        ValueError: If the subject's inputs cannot be scaled, or a layer runs more than once in a
            pass, not at all, or on other rows than the batch's.
    """
    points, weights = np.polynomial.legendre.leggauss(steps)
    found = []
    for places in torch.arange(subject.examples).split(subject.batch_size):
        total = torch.zeros(len(places), len(subject.components))
        way = _along(subject, places, (points + 1) / 2)
        for weight, (_, gradients, by_example) in zip(weights / 2, way, strict=True):
            total += weight * by_example(gradients)
        found.append(total)
    return torch.cat(found)


def _along(
    subject: BatchSubject, places: Tensor, shares: np.ndarray
) -> Iterator[tuple[list[Tensor], list[Tensor], _Sum]]:
    """Values of all sites at points of the way, derivatives of the outputs by them, and their sums.

    Sums are by component and example of what rows of the batch have.
    """
    subject._check_rows(places)
    inputs, owners = subject._rows(places.tolist())
    rows = len(places) if owners is None else len(owners)
    for share in shares:
        with torch.enable_grad(), captured(subject.model, subject.components) as kept:
            output = subject._forward(subject._scaled(inputs, float(share))).float()
        values = [site.values for site in kept]
        gradients = torch.autograd.grad(output.sum(), values, materialize_grads=True)
        subject.passes.forward += len(places) / subject.examples
        subject.passes.backward += len(places) / subject.examples

        def by_example(found: list[Tensor], kept: list[Captured] = kept) -> Tensor:
            own = summed(kept, subject.components, found, rows).float().cpu()
            if owners is None:
                return own
            return torch.zeros(len(places), own.shape[1]).index_add_(0, owners.cpu(), own)

        yield [one.detach() for one in values], list(gradients), by_example
