"""Fitting attributions: one ridge regression for all examples, with gradients as its prior.

All examples share the masks, so they share one factorisation. Where there are fewer masks than
components it is one of masks. Gradients at masks tell the effects of all components at once: of an
output without terms of third order, a component's effect is the mean derivative where it is kept
plus half of what ablating it changes in that. Regression learns how far to trust either, and then
corrects their sum, each component as far as its effects are large.

Source: arXiv:2404.11534, section 3, step 2 (plain regression); Golub, Heath and Wahba, "Generalized
cross-validation as a method for choosing a good ridge parameter", Technometrics 21, 1979.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.attribution.attributions import AttributionMetadata, Attributions
from aim_plugins.attribution.checks import check_derivatives, check_finite, check_memory
from aim_plugins.attribution.dataset import ComponentDataset
from aim_plugins.attribution.metadata import AblationMetadata

_VALUES = 1 << 24
"""Values of masks that are in memory at a time."""

_FLOOR = 1e-3
"""The least variance of a component, as a share of the mean over components."""

_GRID = torch.logspace(-4, 4, 97, dtype=torch.float64)
"""Penalties that are tried, in units of the mean eigenvalue over masks."""


def fit_attributions(
    dataset: ComponentDataset,
    *,
    prior: Literal["gradient"] | None = "gradient",
    penalty: float | None = None,
) -> Attributions:
    """Fits a linear model of the outputs of every example.

    Args:
        dataset: Outputs under masks.
        prior: "gradient" shrinks weights towards mean gradients, with factors that fit all
            examples best together, and each component by what those leave to it; None shrinks
            all alike towards zero.
        penalty: Of squared weights, which is scikit-learn's `alpha` of `Ridge`; under a prior it is
            divided by each component's variance, whose mean is 1. None chooses it by generalised
            cross-validation, 0 is least squares.

    Raises:
        ValueError: If the penalty is below 0, the prior lacks gradients or is unknown, outputs or
            gradients are not finite, or so many masks and components need more memory than the
            machine has.
    """
    if penalty is not None and not 0 <= penalty < math.inf:
        raise ValueError(f"penalty={penalty:g}: give 0 or more, or None to choose it by the data")
    if prior not in ("gradient", None):
        raise ValueError(f"prior={prior!r}: give 'gradient' or None")
    if prior is not None and dataset.kept is None:
        raise ValueError(
            f"prior={prior!r}: the dataset has no gradients: build one with gradient_passes, or "
            "give prior=None"
        )
    wide = dataset.plan.rows < dataset.components
    check_memory(dataset.plan.rows, dataset.components)
    problem = _Dual(dataset) if wide else _Primal(dataset)
    if prior is None:
        return _attributions(dataset, problem, problem.solve(None, None, penalty), penalty)
    rows = slice(0, len(dataset.plan.examples))
    gradients = []
    for held in (dataset.kept, dataset.change):
        values = torch.from_numpy(held[rows]).double()
        check_derivatives(values, dataset.plan.examples, dataset.plan.read_components())
        gradients.append(values.T)
    factors = problem.factors(gradients)
    mean = factors[0] * gradients[0] + factors[1] * gradients[1]
    found = problem.solve(mean, variances_of(mean), penalty)
    return _attributions(dataset, problem, found, penalty, prior, factors)


def variances_of(
    weights: Float[Tensor, "components examples"],
) -> Float[Tensor, " components"]:
    """How far weights may lie from a prior: as far as the prior's own from 0, the mean being 1."""
    variances = weights.square().mean(1)
    mean = variances.mean()
    if mean == 0:
        return torch.ones_like(variances)
    variances = variances / mean + _FLOOR
    return variances / variances.mean()


def gcv_penalty(
    eigenvalues: Float[Tensor, " values"],
    energies: Float[Tensor, " values"],
    total: float,
    rows: int,
) -> float:
    """The penalty with the least generalised cross-validation error, summed over examples.

    Args:
        eigenvalues: Of the centred Gram matrix, of components or of masks.
        energies: Squared projection of all examples' centred outputs on each eigenvector of masks.
        total: Sum of the squares of all centred outputs.
        rows: Number of masks.
    """
    scale = eigenvalues.sum() / rows
    penalties = _GRID * (scale if scale > 0 else 1.0)
    kept = eigenvalues / (eigenvalues + penalties[:, None])
    left = (total - ((2 * kept - kept.square()) * energies).sum(1)).clamp(min=0)
    freedom = kept.sum(1) + 1  # an intercept besides
    # With as many parameters as masks, both are 0, and their ratio is one of rounding errors.
    errors = left / (1 - freedom / rows).square()
    return float(penalties[torch.where(freedom < rows - 1e-6, errors, math.inf).argmin()])


@dataclass(frozen=True)
class _Solution:
    """Weights [components, examples], and the penalty that they are of."""

    weights: Tensor
    penalty: float


class _Primal:
    """By the Gram matrix of components, of which masks are read once.

    Attributes:
        kept: Share of masks that keep each component.
        outputs: Mean output of each example.
    """

    def __init__(self, dataset: ComponentDataset) -> None:
        rows, size = dataset.plan.rows, dataset.components
        examples = len(dataset.plan.examples)
        self._rows = rows
        gram = torch.zeros(size, size, dtype=torch.float64)
        cross = torch.zeros(size, examples, dtype=torch.float64)
        kept, outputs, total = torch.zeros(size), torch.zeros(examples), torch.zeros(examples)
        kept, outputs, total = kept.double(), outputs.double(), total.double()
        for start, stop in _pieces(rows, size):
            # Products of zeros and ones are counts, which float32 holds exactly.
            masks = torch.from_numpy(~dataset.ablated(start, stop)).float()
            values = _outputs(dataset, start, stop)
            gram += masks.T @ masks
            cross += masks.double().T @ values
            kept += masks.sum(0)
            outputs += values.sum(0)
            total += values.square().sum(0)
        self.kept, self.outputs = kept / rows, outputs / rows
        self._gram = gram.addr_(self.kept, self.kept, alpha=-rows)
        self._cross = cross.addr_(self.kept, self.outputs, alpha=-rows)
        self._total = float((total - rows * self.outputs.square()).sum())

    def factors(self, priors: Sequence[Tensor]) -> list[float]:
        """What priors are multiplied by so that their sum fits best, all examples together."""
        explained = [self._gram @ one for one in priors]
        return _least_squares(
            [[float((one * other).sum()) for other in explained] for one in priors],
            [float((one * self._cross).sum()) for one in priors],
        )

    def solve(
        self, prior: Tensor | None, variances: Tensor | None, penalty: float | None
    ) -> _Solution:
        """Ridge regression towards a prior, with variances of weights about it."""
        roots = torch.ones_like(self.kept) if variances is None else variances.sqrt()
        gram = roots[:, None] * self._gram * roots
        cross, total = self._cross, self._total
        if prior is not None:
            explained = self._gram @ prior
            total -= float((prior * (2 * cross - explained)).sum())
            cross = cross - explained
        cross = roots[:, None] * cross
        if penalty:
            weights = _cholesky(gram, cross, penalty)
        else:
            values, vectors = torch.linalg.eigh(gram)
            rotated = vectors.T @ cross
            positive = _positive(values)
            if penalty is None:
                energies = torch.where(positive, rotated.square().sum(1) / values, 0)
                penalty = gcv_penalty(values.clamp(min=0), energies, total, self._rows)
            inverse = torch.where(positive, 1 / (values + penalty), 0)
            weights = vectors @ (inverse[:, None] * rotated)
        weights = roots[:, None] * weights
        return _Solution(weights if prior is None else weights + prior, penalty)


class _Dual:
    """By the Gram matrix of masks, of which components are read in pieces.

    Attributes:
        kept: Share of masks that keep each component.
        outputs: Mean output of each example.
    """

    def __init__(self, dataset: ComponentDataset) -> None:
        self._dataset = dataset
        self._rows, self._size = dataset.plan.rows, dataset.components
        values = _outputs(dataset, 0, self._rows)
        self.outputs = values.mean(0)
        self._values = values - self.outputs
        self.kept = torch.cat([mean for _, _, mean in self._columns()])

    def _columns(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Centred masks of some components, and the means."""
        for start, stop in _pieces(self._size, self._rows):
            masks = torch.from_numpy(~self._dataset.columns(start, stop)).double()
            mean = masks.mean(0)
            yield slice(start, start + len(mean)), masks - mean, mean

    def _predicted(self, weights: Tensor) -> Tensor:
        found = torch.zeros_like(self._values)
        for own, masks, _ in self._columns():
            found += masks @ weights[own]
        return found

    def factors(self, priors: Sequence[Tensor]) -> list[float]:
        """What priors are multiplied by so that their sum fits best, all examples together."""
        predicted = [self._predicted(one) for one in priors]
        return _least_squares(
            [[float((one * other).sum()) for other in predicted] for one in predicted],
            [float((one * self._values).sum()) for one in predicted],
        )

    def solve(
        self, prior: Tensor | None, variances: Tensor | None, penalty: float | None
    ) -> _Solution:
        """Ridge regression towards a prior, with variances of weights about it."""
        variances = torch.ones_like(self.kept) if variances is None else variances
        values = self._values if prior is None else self._values - self._predicted(prior)
        gram = torch.zeros(self._rows, self._rows, dtype=torch.float64)
        for own, masks, _ in self._columns():
            gram += (masks * variances[own]) @ masks.T
        if penalty:
            dual = _cholesky(gram, values, penalty)
        else:
            eigenvalues, vectors = torch.linalg.eigh(gram)
            rotated = vectors.T @ values
            if penalty is None:
                energies = rotated.square().sum(1)
                total = float(values.square().sum())
                penalty = gcv_penalty(eigenvalues.clamp(min=0), energies, total, self._rows)
            inverse = torch.where(_positive(eigenvalues), 1 / (eigenvalues + penalty), 0)
            dual = vectors @ (inverse[:, None] * rotated)
        weights = torch.empty(self._size, values.shape[1], dtype=torch.float64)
        for own, masks, _ in self._columns():
            weights[own] = variances[own, None] * (masks.T @ dual)
        return _Solution(weights if prior is None else weights + prior, penalty)


def _attributions(
    dataset: ComponentDataset,
    problem: _Primal | _Dual,
    found: _Solution,
    asked: float | None,
    prior: str = "",
    factors: Sequence[float] = (),
) -> Attributions:
    plan = dataset.plan
    shared = {one.name for one in dataclasses.fields(AblationMetadata)} - {"method"}
    metadata = AttributionMetadata(
        **{name: getattr(plan, name) for name in shared},
        method="least squares" if found.penalty == 0 and not prior else "ridge",
        prior=prior,
        prior_factors=list(factors),
        penalty=found.penalty,
        asked_penalty=asked,
    )
    intercepts = problem.outputs - problem.kept @ found.weights
    return Attributions(found.weights.T.float().contiguous(), intercepts.float(), metadata)


def _outputs(dataset: ComponentDataset, start: int, stop: int) -> Float[Tensor, "rows examples"]:
    """Outputs under some masks, which one infinite value of one example would spoil for all."""
    values = torch.from_numpy(dataset.outputs(start, stop)).double()
    check_finite(values, dataset.plan.examples, "mask", start)
    return values


def _pieces(count: int, width: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows of a width that are read at a time, each from a multiple of 8."""
    step = max(8, _VALUES // width // 8 * 8)
    return ((start, min(start + step, count)) for start in range(0, count, step))


def _cholesky(gram: Tensor, right: Tensor, penalty: float) -> Tensor:
    """Solves for all examples by one factorisation."""
    gram.diagonal().add_(penalty)
    return torch.cholesky_solve(right, torch.linalg.cholesky(gram))


def _positive(eigenvalues: Tensor) -> Tensor:
    """Which eigenvalues are above zero by more than rounding."""
    least = len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    return eigenvalues > least * eigenvalues[-1].clamp(min=0)


def _least_squares(gram: list[list[float]], right: list[float]) -> list[float]:
    """Solves normal equations, by the least solution where there are several."""
    return [float(one) for one in np.linalg.lstsq(np.array(gram), np.array(right), rcond=None)[0]]
