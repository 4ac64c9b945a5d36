"""Surprise coverage: in how many ways inputs surprise a network that knows its training set.

The surprise adequacy of an input says how far its activations in a chosen layer (its trace) lie
from those of training inputs of its class; coverage is the number of buckets of equal width that
these values fall into. The paper counts buckets up to a bound that somebody has to choose; here
none is needed, and none of the buckets is lost.

All three are defined for every input. An input of a class that training never predicted is
infinitely surprising, one with an activation that is not finite has no surprise (NaN), and neither
falls into a bucket.

Source: Kim, Feldt and Yoo, "Guiding deep learning system testing using surprise adequacy" (ICSE
2019, arXiv:1808.08444), on likelihood, distance and coverage; Kim, Ju, Feldt and Yoo, "Reducing DNN
labelling cost using surprise adequacy" (ESEC/FSE 2020), on the Mahalanobis distance.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Container
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from aim_plugins.coverage.criteria.criterion import NETWORK, Batch, OpenUnits
from aim_plugins.coverage.distances import KernelDensity, nearest_rows
from aim_plugins.coverage.moments import ClassMoments, Moments, check_memory, shrunk_cholesky

BUCKETS = 2.0**60
"""Bound on the number of a bucket, within int64."""


@dataclass(frozen=True)
class ClassTraces:
    """Activations of a training set in some neurons.

    Attributes:
        columns: The columns of these neurons, see `aim_plugins.coverage.layers`.
        activations: Of each training input, in these neurons.
        classes: The class of each training input: what the model predicts.
    """

    columns: Int[Tensor, " neurons"]
    activations: Float[Tensor, "traces neurons"]
    classes: Int[Tensor, " traces"]

    def finite(self) -> ClassTraces:
        """The traces without those that have an activation which is not finite, class by class.

        Raises:
            ValueError: If none is left, or if they would take too much memory in float64.
        """
        kept = self.activations.isfinite().all(1)
        if not kept.any():
            raise ValueError(f"none of {len(kept)} traces is finite: give training inputs")
        check_memory(
            f"layer with {len(self.columns)} neurons and {len(kept)} training inputs",
            len(kept) * len(self.columns) * 8,
            "choose a smaller layer or fewer training inputs",
        )
        order = self.classes[kept].argsort(stable=True)
        return ClassTraces(
            self.columns, self.activations[kept][order].double(), self.classes[kept][order]
        )


class SurpriseCoverage(OpenUnits):
    """Buckets of surprise that inputs fall into.

    Args:
        columns: The columns of the neurons to look at.
        width: Width of a bucket, in units of the surprise.
        group: Name of their layer.

    Raises:
        ValueError: If the width is not positive.
    """

    def __init__(self, columns: Int[Tensor, " neurons"], width: float, group: str) -> None:
        super().__init__((group,))
        if not width > 0:
            raise ValueError(f"width={width}: give a positive width of buckets")
        self.columns, self.width = columns, width

    @abc.abstractmethod
    def class_surprise(
        self, rows: Float64[Tensor, "inputs neurons"], one: int
    ) -> Float64[Tensor, " inputs"]:
        """Surprise of inputs of one class, from finite activations of the chosen neurons."""

    @property
    @abc.abstractmethod
    def known(self) -> Container[int]:
        """Classes by which inputs can be compared; those of others are infinitely surprising."""

    def surprise(self, batch: Batch) -> Float64[Tensor, " inputs"]:
        """The surprise adequacy of each input; the higher, the farther from training."""
        rows = batch.neurons[:, self.columns].double()
        values = torch.full((len(rows),), math.nan, dtype=torch.float64)
        finite = rows.isfinite().all(1)
        for one in batch.classes[finite].unique().tolist():
            chosen = finite & (batch.classes == one)
            known = one in self.known
            values[chosen] = self.class_surprise(rows[chosen], one) if known else math.inf
        return values

    def units(self, batch: Batch) -> Int[Tensor, "inputs 1"]:
        return bucket_units(self.surprise(batch), self.width)[:, None]


def bucket_units(values: Float64[Tensor, " inputs"], width: float) -> Int[Tensor, " inputs"]:
    """The bucket of each value as a unit; -1 where it is not finite.

    Bucket b reaches from b to b + 1 widths. A logarithm may be negative, and units may not: b is
    unit 2 b, and below zero unit -2 b - 1.
    """
    return signed_units((values / width).floor())


def signed_units(places: Float64[Tensor, " inputs"]) -> Int[Tensor, " inputs"]:
    """Units of buckets whose numbers may be negative; -1 where a number is not finite."""
    whole = places.nan_to_num(0.0).clamp(-BUCKETS, BUCKETS).long()
    units = torch.where(whole >= 0, 2 * whole, -2 * whole - 1)
    return units.masked_fill(~places.isfinite(), -1)


class LSC(SurpriseCoverage):
    """Surprise by likelihood: minus the log density of the trace among those of its class.

    The density has a Gaussian kernel with the covariance of the class times n^(-2 / (d + 4)) for n
    traces of d neurons (Scott's rule), as in the paper. Neurons that hardly vary over the training
    set are left out; the authors' code leaves out those that hardly vary in any one class, which
    are the ones that tell classes apart, because its covariances would be singular. Here they are
    kept regular by shrinkage. The traces of a class with one trace, or with equal ones, have no
    density, and inputs of such a class are infinitely surprising.

    Args:
        traces: Of the training set.
        width: Width of a bucket, in nats.
        bandwidth: Standard deviation of the kernel, the same in all directions, in units of
            activation; by Scott's rule if None.
        min_variance: Variance over the training set below which a neuron is left out.
        shrinkage: Share of the identity in the covariance; that of OAS if None, 0 for the paper's.
        group: Name of the layer.

    Raises:
        ValueError: If no neuron or trace is left, a covariance is singular, or memory too small.
    """

    name: ClassVar[str] = "LSC"
    summary: ClassVar[str] = "buckets of surprise by likelihood"
    source: ClassVar[str] = "Kim et al., ICSE 2019, likelihood-based surprise adequacy"

    def __init__(
        self,
        traces: ClassTraces,
        width: float = 10.0,
        *,
        bandwidth: float | None = None,
        min_variance: float = 1e-5,
        shrinkage: float | None = None,
        group: str = NETWORK,
    ) -> None:
        if bandwidth is not None and not bandwidth > 0:
            raise ValueError(f"bandwidth={bandwidth}: give a positive one, or none")
        traces = traces.finite()
        kept = traces.activations.var(0, correction=0) >= min_variance
        if not kept.any():
            raise ValueError(
                f"min_variance={min_variance}: none of {len(kept)} neurons varies as much over "
                f"{len(traces.classes)} training inputs: lower it or choose another layer"
            )
        super().__init__(traces.columns[kept], width, group)
        self.densities: dict[int, KernelDensity] = {}
        for one in traces.classes.unique().tolist():
            rows = traces.activations[traces.classes == one][:, kept]
            factor = _kernel_factor(rows, bandwidth, shrinkage)
            if factor is not None:
                self.densities[one] = KernelDensity.fit(rows, factor)

    @property
    def known(self) -> Container[int]:
        return self.densities

    def class_surprise(
        self, rows: Float64[Tensor, "inputs neurons"], one: int
    ) -> Float64[Tensor, " inputs"]:
        return -self.densities[one].log_density(rows)


def _kernel_factor(
    rows: Float64[Tensor, "traces neurons"], bandwidth: float | None, shrinkage: float | None
) -> Float64[Tensor, "neurons neurons"] | None:
    """Factor of the kernel's covariance, or None where the traces have no spread."""
    count, neurons = rows.shape
    if bandwidth is not None:
        return bandwidth * torch.eye(neurons, dtype=torch.float64)
    moments = Moments.of(rows)
    if moments.is_constant:
        return None
    # Scott's rule scales the unbiased covariance.
    factor = shrunk_cholesky(moments.covariance * (count / (count - 1)), count, shrinkage)
    return factor * count ** (-1 / (neurons + 4))


class DSC(SurpriseCoverage):
    """Surprise by distance: how far the trace is from its class, against the next class.

    With x_a the nearest training trace of the input's class, and x_b the one of other classes that
    is nearest to x_a, surprise is |x - x_a| / |x_a - x_b|. It is 0 for a trace seen in training,
    and infinite for another one if x_a is seen with another class too.

    Args:
        traces: Of the training set.
        width: Width of a bucket; surprise has no unit.
        group: Name of the layer.

    Raises:
        ValueError: If the traces are not of two classes, or take too much memory.
    """

    name: ClassVar[str] = "DSC"
    summary: ClassVar[str] = "buckets of surprise by distance"
    source: ClassVar[str] = "Kim et al., ICSE 2019, distance-based surprise adequacy"

    def __init__(self, traces: ClassTraces, width: float = 0.1, *, group: str = NETWORK) -> None:
        self.traces = traces.finite()
        if len(found := self.traces.classes.unique()) < 2:
            raise ValueError(
                f"traces of one class, {int(found[0])}: DSC compares classes, give training "
                "inputs of two or more"
            )
        super().__init__(traces.columns, width, group)
        classes, counts = self.traces.classes.unique_consecutive(return_counts=True)
        ends = counts.cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        self.places = dict(zip(classes.tolist(), map(slice, starts, ends), strict=True))
        # Filled in when a trace is first the nearest of its class.
        self._to_other_class = torch.full((len(self.traces.classes),), math.nan).double()

    @property
    def known(self) -> Container[int]:
        return self.places

    def class_surprise(
        self, rows: Float64[Tensor, "inputs neurons"], one: int
    ) -> Float64[Tensor, " inputs"]:
        place = self.places[one]
        nearest, distance = nearest_rows(rows, self.traces.activations[place])
        return distance_ratio(distance, self._between_classes(nearest + place.start, one))

    def distance_to_others(
        self, rows: Float64[Tensor, "inputs neurons"], one: int
    ) -> Float64[Tensor, " inputs"]:
        """Distance of each row to the nearest training trace that is not of a class."""
        place = self.places[one]
        # Views of what lies before and after the class: a mask would copy nearly all traces.
        parts = (self.traces.activations[: place.start], self.traces.activations[place.stop :])
        found = [nearest_rows(rows, part)[1] for part in parts if len(part)]
        return torch.stack(found).amin(0)

    def _between_classes(
        self, nearest: Int[Tensor, " inputs"], one: int
    ) -> Float64[Tensor, " inputs"]:
        new = nearest[self._to_other_class[nearest].isnan()].unique()
        if len(new):
            rows = self.traces.activations[new]
            self._to_other_class[new] = self.distance_to_others(rows, one)
        return self._to_other_class[nearest]


def distance_ratio(
    own: Float64[Tensor, " inputs"], other: Float64[Tensor, " inputs"]
) -> Float64[Tensor, " inputs"]:
    """The ratio of two distances, 0 where the first is."""
    return torch.where(own > 0, own / other, 0.0)


class MDSC(SurpriseCoverage):
    """Surprise by the Mahalanobis distance of the trace from the mean of its class.

    Covariances of a class are all but singular where neurons are many or depend on each other, so
    they are shrunk towards a multiple of the identity. Inputs of a class with one trace, or with
    equal ones, are infinitely surprising.

    Args:
        moments: Of the training set.
        width: Width of a bucket, in standard deviations.
        shrinkage: Share of the identity in the covariance; that of OAS if None, 0 for the paper's.
        group: Name of the layer.

    Raises:
        ValueError: If a covariance is singular.
    """

    name: ClassVar[str] = "MDSC"
    summary: ClassVar[str] = "buckets of surprise by the Mahalanobis distance"
    source: ClassVar[str] = (
        "Kim et al., ESEC/FSE 2020, Mahalanobis distance-based surprise adequacy"
    )

    def __init__(
        self,
        moments: ClassMoments,
        width: float = 10.0,
        *,
        shrinkage: float | None = None,
        group: str = NETWORK,
    ) -> None:
        super().__init__(moments.columns, width, group)
        self.shapes = {
            one: (found.mean, shrunk_cholesky(found.covariance, found.count, shrinkage))
            for one, found in moments.by_class.items()
            if not found.is_constant
        }

    @property
    def known(self) -> Container[int]:
        return self.shapes

    def class_surprise(
        self, rows: Float64[Tensor, "inputs neurons"], one: int
    ) -> Float64[Tensor, " inputs"]:
        mean, factor = self.shapes[one]
        return torch.linalg.solve_triangular(factor, (rows - mean).T, upper=False).norm(dim=0)
