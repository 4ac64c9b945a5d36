"""Means and covariances of activations, gathered batch by batch in float64.

Count, mean and scatter (the sum of outer products of deviations) are all that a covariance needs,
and those of two parts of a data set give those of the whole.

Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances" (COMPSTAT 1982), for matrices; Chen, Wiesel, Eldar and Hero, "Shrinkage algorithms for
MMSE covariance estimation" (IEEE Transactions on Signal Processing, 2010), Eq. 23.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

MEMORY_LIMIT = 2**31
"""The most bytes that matrices or traces of one criterion may take: 2 GiB."""

ROUNDING = 1e-12
"""Spread relative to the mean up to which rows count as all the same."""


def check_memory(what: str, size: int, mend: str) -> None:
    """Refuses what would take more than `MEMORY_LIMIT`.

    Args:
        what: The argument, with its value.
        size: Bytes it needs.
        mend: What to do about it.

    Raises:
        ValueError: If it is too large.
    """
    if size > MEMORY_LIMIT:
        need, limit = (f"{one / 2**30:.1f} GiB" for one in (size, MEMORY_LIMIT))
        raise ValueError(f"{what} needs {need} of at most {limit}: {mend}")


def finite_rows(rows: Float[Tensor, "inputs neurons"]) -> Float[Tensor, "finite neurons"]:
    """Leaves out inputs with an activation that is not finite."""
    return rows[rows.isfinite().all(1)]


@dataclass
class Moments:
    """What is left of the activations of some inputs.

    Attributes:
        count: Number of inputs.
        mean: Their mean.
        scatter: Sum of the outer products of their deviations from it.
    """

    count: int
    mean: Float64[Tensor, " neurons"]
    scatter: Float64[Tensor, "neurons neurons"]

    @classmethod
    def empty(cls, neurons: int) -> Moments:
        """Moments of no input."""
        zeros = torch.zeros(neurons, dtype=torch.float64)
        return cls(0, zeros, torch.zeros(neurons, neurons, dtype=torch.float64))

    @classmethod
    def of(cls, rows: Float[Tensor, "inputs neurons"]) -> Moments:
        """Moments of a batch, leaving out inputs with an activation that is not finite."""
        rows = finite_rows(rows).double()
        if not len(rows):
            return cls.empty(rows.shape[1])
        mean = rows.mean(0)
        deviations = rows - mean
        return cls(len(rows), mean, deviations.T @ deviations)

    def merge(self, other: Moments) -> None:
        """Takes in moments of other inputs."""
        total = self.count + other.count
        if not other.count:
            return
        shift = other.mean - self.mean
        self.scatter = self.scatter + other.scatter
        self.scatter += torch.outer(shift, shift) * (self.count * other.count / total)
        self.mean = self.mean + shift * (other.count / total)
        self.count = total

    def update(self, rows: Float[Tensor, "inputs neurons"]) -> None:
        """Takes in a batch."""
        self.merge(Moments.of(rows))

    @property
    def covariance(self) -> Float64[Tensor, "neurons neurons"]:
        """The covariance with divisor `count`; zero of no input."""
        return self.scatter / max(1, self.count)

    @property
    def is_constant(self) -> bool:
        """Whether the inputs do not differ, up to float64's rounding."""
        variance = float(self.covariance.trace())
        return variance <= (ROUNDING * float(self.mean.norm())) ** 2

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Count, mean and scatter as tensors, under names that begin with `prefix`."""
        count = torch.tensor(self.count)
        return {
            f"{prefix}.count": count,
            f"{prefix}.mean": self.mean,
            f"{prefix}.scatter": self.scatter,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], prefix: str) -> Moments:
        """Reads what `state` returned."""
        count, mean, scatter = (state[f"{prefix}.{name}"] for name in ("count", "mean", "scatter"))
        return cls(int(count), mean.double(), scatter.double())


@dataclass
class ClassMoments:
    """Moments of a training set, class by class, of some neurons.

    Attributes:
        columns: The columns of these neurons, see `aim_plugins.coverage.layers`.
        by_class: The moments of each class met so far.
    """

    columns: Int[Tensor, " neurons"]
    by_class: dict[int, Moments] = field(default_factory=dict)

    def update(
        self, activations: Float[Tensor, "inputs neurons"], classes: Int[Tensor, " inputs"]
    ) -> None:
        """Takes in a batch of training inputs.

        Args:
            activations: Of the neurons of `columns` alone.
            classes: The class of each input.

        Raises:
            ValueError: If the matrices of all classes would take more than `MEMORY_LIMIT`.
        """
        for one in classes.unique().tolist():
            self._add(one, Moments.of(activations[classes == one]))

    def merge(self, other: ClassMoments) -> None:
        """Takes in the moments of other training inputs.

        Raises:
            ValueError: If they are of other neurons.
        """
        if not torch.equal(self.columns, other.columns):
            raise ValueError(
                f"moments of {len(other.columns)} neurons meet moments of {len(self.columns)} "
                "others: gather both from the same layer"
            )
        for one, moments in other.by_class.items():
            self._add(one, moments)

    def _add(self, one: int, moments: Moments) -> None:
        if one not in self.by_class:
            neurons = len(self.columns)
            classes = len(self.by_class) + 1
            check_memory(
                f"layer with {neurons} neurons and {classes} classes or more",
                classes * neurons**2 * 8,
                "choose one with fewer neurons",
            )
            self.by_class[one] = Moments.empty(neurons)
        self.by_class[one].merge(moments)


def oas_shrinkage(covariance: Float64[Tensor, "neurons neurons"], count: int) -> float:
    """The share of a scaled identity in the covariance estimate of OAS.

    Oracle Approximating Shrinkage needs only count and covariance, which merge; that of Ledoit and
    Wolf needs fourth moments besides.

    Args:
        covariance: Of `count` inputs, taken as Gaussian.
        count: Their number.

    Returns:
        A share from 0 to 1.
    """
    neurons = len(covariance)
    squares, square = float(covariance.pow(2).sum()), float(covariance.trace()) ** 2
    above = (1 - 2 / neurons) * squares + square
    below = (count + 1 - 2 / neurons) * (squares - square / neurons)
    # A multiple of the identity has nothing to shrink, and shares of it are all the same.
    return 1.0 if below <= above else max(0.0, above / below)


def shrunk_cholesky(
    covariance: Float64[Tensor, "neurons neurons"], count: int, shrinkage: float | None
) -> Float64[Tensor, "neurons neurons"]:
    """Cholesky factor of a covariance that is pulled towards a multiple of the identity.

    Args:
        covariance: Of `count` inputs.
        count: Their number.
        shrinkage: Share of the identity, from 0 to 1; that of `oas_shrinkage` if None.

    Raises:
        ValueError: If the covariance is singular, as it is with fewer inputs than neurons and
            without shrinkage.
    """
    share = oas_shrinkage(covariance, count) if shrinkage is None else shrinkage
    shrunk = (1 - share) * covariance
    shrunk.diagonal().add_(share * covariance.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(shrunk)
    if failed:
        raise ValueError(
            f"shrinkage={share:g} leaves the covariance of {count} inputs and "
            f"{len(covariance)} neurons singular: leave shrinkage out, or make it larger"
        )
    return factor
