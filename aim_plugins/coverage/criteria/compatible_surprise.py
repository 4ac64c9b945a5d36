"""Surprise coverage with the numbers of the library NeuraL-Coverage, see `compatible`.

All three look at all layers at once, and leave out neurons by a variance that is not one:
`library_variance` says how it is found. Classes are the labels of the data. Surprise s falls into
bucket int(s / T), so that bucket 0 reaches from -T to T.
"""

from __future__ import annotations

import abc
from collections.abc import Container

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor

from aim_plugins.coverage.criteria.criterion import NETWORK, Batch
from aim_plugins.coverage.criteria.surprise import (
    DSC,
    ClassTraces,
    SurpriseCoverage,
    signed_units,
)
from aim_plugins.coverage.distances import nearest_rows
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.moments import ClassMoments, Moments

BANDWIDTH = 0.2
"""The library's standard deviation of the kernel, in units of activation."""

MIN_VARIANCE = 1e-5
"""What the library calls variance must reach this."""

NO_DISTANCE = 1e-6
"""The library's surprise where the distance to another class is zero."""


def library_variance(
    layers: Layers, activations: Float[Tensor, "traces neurons"], batch_size: int
) -> Float32[Tensor, " neurons"]:
    """What the library takes for the variance of each neuron.

    It counts inputs once for each layer instead of once, so that means are pulled towards zero, the
    result depends on the places of the layers and on the batches, and is zero in the first layer if
    there is one batch only.

    Args:
        layers: All layers.
        activations: Of the training inputs, in their order.
        batch_size: Inputs of a batch in which the library reads them.
    """
    mean = torch.zeros(layers.neurons)
    variance = torch.zeros(layers.neurons)
    count = 0
    for batch in activations.float().split(batch_size):
        for place in layers.slices:
            rows, before = batch[:, place], count
            count += len(rows)
            mean[place] = (before * mean[place] + rows.sum(0)) / count
            spread = (rows - mean[place]).square().sum(0)
            variance[place] = before * variance[place] / count + before * spread / count**2
    return variance


def kept_neurons(
    layers: Layers, traces: ClassTraces, batch_size: int, min_variance: float
) -> Bool[Tensor, " neurons"]:
    """The neurons that the library looks at.

    Raises:
        ValueError: If the traces are not of all neurons, or no neuron is kept.
    """
    if not torch.equal(traces.columns, torch.arange(layers.neurons)):
        raise ValueError(
            f"traces of {len(traces.columns)} neurons: compat='neural-coverage' looks at all "
            f"{layers.neurons} of the network, give traces of all layers"
        )
    kept = library_variance(layers, traces.activations, batch_size) >= min_variance
    if not kept.any():
        raise ValueError(f"min_variance={min_variance} leaves no neuron: lower it")
    return kept


def _without(traces: ClassTraces, kept: Bool[Tensor, " neurons"]) -> ClassTraces:
    return ClassTraces(traces.columns[kept], traces.activations[:, kept], traces.classes)


class _TruncatedBuckets(SurpriseCoverage):
    def units(self, batch: Batch) -> Int[Tensor, "inputs 1"]:
        return signed_units((self.surprise(batch) / self.width).trunc())[:, None]


class _OfAllLayers(_TruncatedBuckets):
    """Surprise of all layers at once, by the neurons that the library keeps.

    Args:
        layers: All layers.
        traces: Of the training set, all neurons, with labels as classes.
        width: T.
        min_variance: Of what the library takes for the variance.
        batch_size: Inputs of a batch in which the library would read the training set.

    Raises:
        ValueError: If the traces are not of all neurons, or no neuron is kept.
    """

    def __init__(
        self,
        layers: Layers,
        traces: ClassTraces,
        width: float = 10.0,
        *,
        min_variance: float = MIN_VARIANCE,
        batch_size: int = 100,
    ) -> None:
        kept = kept_neurons(layers, traces, batch_size, min_variance)
        super().__init__(traces.columns[kept], width, NETWORK)
        self.learn(_without(traces, kept))

    @abc.abstractmethod
    def learn(self, traces: ClassTraces) -> None:
        """Learns from the traces of the kept neurons."""


class CompatibleLSC(_OfAllLayers):
    """LSC of all layers at once with a kernel of the same width 0.2 for every network.

    The density is that of scikit-learn, as there. In many neurons densities are below the least
    float, and where a class has more traces than a leaf of its tree, the tree adds bounds instead
    of kernels: on LeNet's neurons it is off by up to 3900 nats for a third of the inputs.

    Raises:
        ImportError: If scikit-learn is missing.
    """

    name = "LSC"
    summary = "buckets of surprise by likelihood, by labels"
    source = "Kim et al., ICSE 2019; NeuraL-Coverage"

    def learn(self, traces: ClassTraces) -> None:
        try:
            from sklearn.neighbors import KernelDensity
        except ImportError as error:
            raise ImportError(
                "compat='neural-coverage' of LSC needs scikit-learn: "
                "pip install 'aim-plugins[transport]'"
            ) from error
        rows = traces.finite()
        self.densities = {
            one: KernelDensity(bandwidth=BANDWIDTH).fit(rows.activations[rows.classes == one])
            for one in rows.classes.unique().tolist()
        }

    @property
    def known(self) -> Container[int]:
        return self.densities

    def class_surprise(
        self, rows: Float64[Tensor, "inputs neurons"], one: int
    ) -> Float64[Tensor, " inputs"]:
        return torch.from_numpy(-self.densities[one].score_samples(rows.numpy()))


class CompatibleDSC(_TruncatedBuckets, DSC):
    """DSC of all layers at once with the distance to other classes from the input itself.

    Surprise is |x - x_a| / |x - x_b| with x_b the trace of another class that is nearest to x, and
    1e-6 where that is x itself.

    Args:
        layers: All layers.
        traces: Of the training set, all neurons, with labels as classes.
        width: T.
        min_variance: Of what the library takes for the variance.
        batch_size: Inputs of a batch in which the library would read the training set.

    Raises:
        ValueError: If the traces are not of all neurons or of one class, or no neuron is kept.
    """

    def __init__(
        self,
        layers: Layers,
        traces: ClassTraces,
        width: float = 0.1,
        *,
        min_variance: float = MIN_VARIANCE,
        batch_size: int = 100,
    ) -> None:
        kept = kept_neurons(layers, traces, batch_size, min_variance)
        super().__init__(_without(traces, kept), width)

    def class_surprise(
        self, rows: Float64[Tensor, "inputs neurons"], one: int
    ) -> Float64[Tensor, " inputs"]:
        _, near = nearest_rows(rows, self.traces.activations[self.places[one]])
        far = self.distance_to_others(rows, one)
        return torch.where(far > 0, near / far, NO_DISTANCE)


class CompatibleMDSC(_OfAllLayers):
    """MDSC of all layers at once by the inverse of each covariance in float32, not shrunk.

    With more neurons than inputs of a class the inverse is of rounding errors; squares that come
    out negative are left out. Buckets are then no one's, the library's neither: they change with
    the machine.

    Raises:
        ValueError: If a covariance has no inverse even by rounding.
    """

    name = "MDSC"
    summary = "buckets of surprise by a Mahalanobis distance in float32"
    source = "Kim et al., ESEC/FSE 2020; NeuraL-Coverage"

    def learn(self, traces: ClassTraces) -> None:
        moments = ClassMoments(traces.columns)
        moments.update(traces.activations, traces.classes)
        self.inverses = {
            one: (found.mean.float(), _inverse(found, one))
            for one, found in moments.by_class.items()
        }

    @property
    def known(self) -> Container[int]:
        return self.inverses

    def class_surprise(
        self, rows: Float64[Tensor, "inputs neurons"], one: int
    ) -> Float64[Tensor, " inputs"]:
        mean, inverse = self.inverses[one]
        shift = rows.float() - mean
        return ((shift @ inverse) * shift).sum(1).sqrt().double()


def _inverse(moments: Moments, one: int) -> Float32[Tensor, "neurons neurons"]:
    inverse, failed = torch.linalg.inv_ex(moments.covariance.float())
    if failed:
        raise ValueError(
            f"class {one}: the covariance of {moments.count} inputs is singular, and "
            "compat='neural-coverage' does not shrink it: leave MDSC or compat out"
        )
    return inverse
