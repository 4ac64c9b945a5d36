"""Statistics of pooled activations, for all neurons of a module at once, in float64."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

ROUNDING = 1e-6
"""Relative spread up to which a neuron counts as constant: a few roundings of float32."""


_FOLDS = 4
_STEPS, _SETTLED = 100, 1e-14  # of Newton's method: most steps, and the error that ends them
_MARGINAL_ERROR = 1e-6


def in_double(samples: Tensor) -> Tensor:
    """float64, on the CPU where the device has none."""
    return samples.detach().to("cpu" if samples.device.type == "mps" else samples.device).double()


def constant_neurons(samples: Float[Tensor, "n neurons"]) -> Bool[Tensor, " neurons"]:
    """Neurons whose samples are all the same, up to float32's rounding."""
    low, high = samples.amin(0), samples.amax(0)  # twice as fast as aminmax
    return high - low <= ROUNDING * torch.maximum(low.abs(), high.abs())


def optimal_coupling(
    n: int, m: int
) -> tuple[Int64[Tensor, " pairs"], Int64[Tensor, " pairs"], Float64[Tensor, " pairs"]]:
    """How much of each of n sorted samples goes to each of m sorted ones, in one dimension.

    The quantile functions are steps with ends i / n and j / m; between neighbours of all these
    ends lies one pair of samples.

    >>> optimal_coupling(2, 3)
    (tensor([0, 0, 1, 1]), tensor([0, 1, 1, 2]), tensor([0.3333, 0.1667, 0.1667, 0.3333],
    dtype=torch.float64))

    Returns:
        Source index, target index and weight of each pair; weights sum to 1.
    """
    # In units of 1 / (n m) the ends are integers, so equal ones coincide exactly.
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    return starts // m, starts // n, (ends - starts).double() / (n * m)


def entropic_coupling(
    costs: Float64[Tensor, "n m"], source: Float64[Tensor, " n"], target: Float64[Tensor, " m"]
) -> Float64[Tensor, "n m"]:
    """How much of each source point goes to each target point at least cost, with an entropy.

    It is the P with these marginals that minimises Σ P (C + λ log P), λ the median of the costs C,
    so that the unit of costs does not matter.

    Args:
        costs: Of each pair.
        source: Masses of the source points, above 0; they sum to 1.
        target: Masses of the target points.

    Raises:
        ValueError: If rounding keeps its marginals from these, since costs are of too unlike size.

    Source: arXiv 1803.00567, proposition 4.4 (the dual) and section 4.4 (in logarithms, lest a far
    point underflow); λ is that of arXiv 2603.02237's code.
    """
    scaled = costs / costs.quantile(0.5).clamp_min(torch.finfo(costs.dtype).tiny)
    # Where λ is as large as the costs, Newton's method needs no good start; each half as large one
    # starts from the potentials of the one before.
    halvings = math.ceil(math.log2(max(float(scaled.max()), 1.0)))
    potentials = torch.zeros_like(target)
    for halving in reversed(range(halvings + 1)):
        coupling, potentials = _balanced(scaled / 2**halving, source, target, 2 * potentials)
    error = float((coupling.sum(0) - target).abs().max())
    if not error <= _MARGINAL_ERROR:
        raise ValueError(
            f"clusters cannot be coupled: masses are off by {error:.1g}, as costs up to "
            f"{float(costs.max()):.3g} are beyond float64 beside their median, "
            f"{float(costs.quantile(0.5)):.3g}: give clusters=1, or leave out what lies so far off"
        )
    return coupling


def _balanced(
    costs: Float64[Tensor, "n m"],
    source: Float64[Tensor, " n"],
    target: Float64[Tensor, " m"],
    potentials: Float64[Tensor, " m"],
) -> tuple[Float64[Tensor, "n m"], Float64[Tensor, " m"]]:
    """The coupling at λ = 1 and the target's potentials, by Newton's method on the semi-dual.

    The source's masses are met in every step. As one changes potentials by 1 at most, the semi-dual
    never falls: it is a sum of log-sum-exp (arXiv 0910.4627, proposition 1).
    """
    for _ in range(_STEPS):
        coupling = source[:, None] * (potentials - costs).softmax(1)
        short = target - coupling.sum(0)
        if float(short.abs().max()) <= _SETTLED:
            break
        # Its Hessian is the Laplacian of a graph; from its edges it keeps those that are faint.
        edges = (coupling.T @ (coupling / source[:, None])).fill_diagonal_(0)
        step = torch.linalg.pinv(edges.sum(1).diag() - edges, hermitian=True) @ short
        potentials = potentials + step / max(1.0, float(step.max() - step.min()))
    return coupling, potentials


def cluster_means(
    samples: Float[Tensor, "n neurons"], clusters: int
) -> tuple[Float64[Tensor, "clusters neurons"], Float64[Tensor, " clusters"]]:
    """Means and shares of samples in clusters by k-means, always from the same seed.

    Args:
        samples: The samples, on the CPU.
        clusters: How many; as many as there are different samples, if those are fewer.

    Raises:
        ImportError: If scikit-learn is missing.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ImportError(
            "method='chars' needs scikit-learn: pip install 'aim-plugins[transport]'"
        ) from error
    values = in_double(samples)
    count = min(clusters, len(values.unique(dim=0)))
    labels = KMeans(count, n_init=1, random_state=0).fit_predict(values.numpy())
    members = torch.nn.functional.one_hot(torch.from_numpy(labels).long()).double()
    sizes = members.sum(0)
    return members.T @ values / sizes[:, None], sizes / len(values)


def auroc(
    positive: Float[Tensor, "n neurons"], negative: Float[Tensor, "m neurons"]
) -> Float64[Tensor, " neurons"]:
    """Probability that a positive sample exceeds a negative one, ties counting half.

    Equals the area under the ROC curve, and the Mann-Whitney statistic by midranks over n m.
    """
    ordered = sorted_samples(negative)
    values = positive.T.contiguous()
    below = torch.searchsorted(ordered, values).sum(-1)
    not_above = torch.searchsorted(ordered, values, right=True).sum(-1)
    return (below + not_above).double() / (2 * len(positive) * len(negative))


def probe_direction(
    samples: Float64[Tensor, "samples neurons"], n_source: int
) -> Float64[Tensor, " neurons"]:
    """Unit normal of a logistic regression, from the first `n_source` samples to the others.

    Zero where no neuron differs between samples.

    Raises:
        ImportError: If scikit-learn is missing.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError(
            "method='iti' needs scikit-learn: pip install 'aim-plugins[transport]'"
        ) from error
    scaler = StandardScaler().fit(samples.numpy())
    # Newton's method has no random part, and this tolerance leaves no trace of the samples' order.
    probe = LogisticRegression(solver="newton-cg", tol=1e-10, max_iter=1000)
    probe.fit(scaler.transform(samples.numpy()), np.arange(len(samples)) >= n_source)
    normal = torch.from_numpy(probe.coef_[0] / scaler.scale_)
    length = normal.norm()
    return normal / length if length > 0 else normal


def principal_direction(
    source: Float64[Tensor, "pairs neurons"], target: Float64[Tensor, "pairs neurons"]
) -> Float64[Tensor, " neurons"]:
    """Unit vector along which the differences of pairs are longest, from source to target.

    It is the first eigenvector of the second moment of target less source, about 0. Its sign makes
    the target's mean project on it further than the source's. Zero where no pair differs.
    """
    differences = target - source
    direction = torch.linalg.svd(differences, full_matrices=False).Vh[0]
    if not bool((differences != 0).any()):
        return torch.zeros_like(direction)
    return -direction if differences.mean(0) @ direction < 0 else direction


def separation(
    source: Float[Tensor, "n neurons"],
    target: Float[Tensor, "m neurons"],
    owners: tuple[Int64[Tensor, " n"], Int64[Tensor, " m"]],
) -> float:
    """How far apart the sides are along the difference of their means, in deviations of a side.

    The difference is taken on three quarters of the sentences, and the distance on the others, in
    turn; where sentences are too few for that, both on all.

    Args:
        source: Samples of the source.
        target: Samples of the target.
        owners: The sentence of each sample of either side, counted from 0.

    Returns:
        The mean over turns; infinite where the samples of a side are all alike, 0 where all are.
    """
    sides = in_double(source), in_double(target)
    fewest = min(int(one.max()) + 1 for one in owners)
    folds = _FOLDS if fewest >= 2 * _FOLDS else 1
    found = []
    for fold in range(folds):
        held = [
            (one % folds == fold).to(side.device) for one, side in zip(owners, sides, strict=True)
        ]
        known = [
            side if folds == 1 else side[~away] for side, away in zip(sides, held, strict=True)
        ]
        direction = known[1].mean(0) - known[0].mean(0)
        first, second = (side[away] @ direction for side, away in zip(sides, held, strict=True))
        spread = ((first.var() + second.var()) / 2).sqrt()
        gap = second.mean() - first.mean()
        found.append(float(gap / spread) if float(gap) else 0.0)
    return sum(found) / folds


def sorted_samples(samples: Float[Tensor, "n neurons"]) -> Float[Tensor, "neurons n"]:
    """Each neuron's samples in rising order."""
    columns = samples.T.contiguous()
    if columns.device.type == "cpu":
        # NumPy sorts with vector instructions and without indices, several times faster.
        return torch.from_numpy(np.sort(columns.numpy(), axis=-1))
    return columns.sort(dim=-1).values


def coupled_moment(
    source: Float64[Tensor, "neurons n"], target: Float64[Tensor, "neurons m"]
) -> Float64[Tensor, " neurons"]:
    """Integral of the product of both quantile functions, for sorted samples."""
    if source.shape == target.shape:
        return (source * target).mean(-1)
    coupling = optimal_coupling(source.shape[1], target.shape[1])
    sources, targets, weights = (part.to(source.device) for part in coupling)
    return (source[:, sources] * target[:, targets]) @ weights
