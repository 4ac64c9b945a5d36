"""Exact laws of the argmax of a row of logits under Gaussian noise, without sampling.

AIM adds independent noise n_j ~ N(0, σ²) to every logit and takes the argmax ("AI Model Modulation
with Logits Redistribution", arXiv:2603.12755, utility and focus modulation). The probability that
class k comes out is an integral over the noise of that class alone,

    P_k = ∫ φ(z) ∏_{j≠k} Φ((l_k − l_j)/σ + z) dz,

which no product of pairwise probabilities gives, since all pairs share n_k. Written as an integral
over the winning value t = l_max + σu, one grid of nodes u serves all classes of a row:

    P_k = Σ_u h·φ(x_k)/Φ(x_k) · ∏_j Φ(x_j),   x_j = (l_max − l_j)/σ + u.

The nodes do not depend on σ, so that ties, near-ties and tiny σ need no special care
(`aim_plugins.modulation.quadrature`). All laws are computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import SupportsFloat

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aim_plugins.core.strengths import validate_strength
from aim_plugins.modulation.quadrature import (
    HALF_NORMAL_SUPPORT,
    LEGENDRE_NODES,
    TAIL,
    gauss_legendre,
    half_normal_cdf,
    normal_cdf,
    normal_pdf,
    reach,
    trapezoid,
)

_CPU_ELEMENTS = 1 << 16
"""Elements per buffer on a CPU: half a MiB of float64 stays in the second-level cache."""

_ACCELERATOR_ELEMENTS = 1 << 24
"""Elements per buffer on an accelerator: 128 MiB of float64."""

_BIN_WIDTH = 0.05
"""Width of the bins of a vocabulary's tail, in units of σ."""


def argmax_probabilities(
    logits: Float[Tensor, "*batch classes"], std: float
) -> Float[Tensor, "*batch classes"]:
    """Probability of each class to be the argmax once Gaussian noise is added to every logit.

    Args:
        logits: Clean logits; −inf marks an impossible class.
        std: Noise standard deviation in logit units. At 0 the clean argmax has probability 1, the
            first index among equals, as in `torch.argmax`.

    Returns:
        float64 probabilities; a row sums to 1 within the error of the quadrature (1e-6).

    Raises:
        ValueError: If `std` is negative or not finite, or a row has NaN, +inf or only −inf logits.

    >>> argmax_probabilities(torch.tensor([[1.0, 1.0, -torch.inf]]), std=0.5)
    tensor([[0.5000, 0.5000, 0.0000]], dtype=torch.float64)
    """
    std = validate_strength(std, name="std")
    classes = logits.shape[-1]
    rows = logits.reshape(-1, classes)
    probabilities = torch.zeros(rows.shape, dtype=torch.float64, device=logits.device)
    for chunk in _row_chunks(len(rows), classes, logits.device):
        gaps = _gaps(rows[chunk], first_row=chunk.start)
        if std == 0:
            probabilities[chunk].scatter_(1, gaps.argmin(1, keepdim=True), 1.0)
            continue
        scaled = gaps / std
        nodes, step = trapezoid(classes)
        for node in reversed(nodes):
            x = scaled + node
            cdf = normal_cdf(x)
            winner_cdf = _drop_tail(cdf.prod(1, keepdim=True))
            if not winner_cdf.any():
                break
            probabilities[chunk] += normal_pdf(x).div_(cdf).mul_(step * winner_cdf)
    return probabilities.reshape(logits.shape)


def label_probability(
    logits: Float[Tensor, "rows classes"],
    labels: Int[Tensor, " rows"],
    stds: SupportsFloat | Sequence[SupportsFloat] | Tensor,
) -> Float[Tensor, "strengths rows"]:
    """Probability that the label is the argmax under noise, at many strengths.

    Its mean over rows is the exact expected accuracy. Cheaper than a column of
    `argmax_probabilities`: only the product over classes is needed, and classes too far below the
    best to matter at a strength are left out.

    Args:
        logits: Clean logits; −inf marks an impossible class.
        labels: Class index of each row.
        stds: One or many noise standard deviations in logit units.

    Returns:
        float64 probabilities, one row per strength.

    Raises:
        ValueError: If a std is negative or not finite, a row has NaN, +inf or only −inf logits, or
            labels do not match the logits.

    >>> label_probability(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), [0, 1, 1e6])
    tensor([[1.0000],
            [0.9214],
            [0.5000]], dtype=torch.float64)
    """
    strengths = _validate_stds(stds)
    check_labels(labels, logits)
    row_count, classes = logits.shape
    probabilities = logits.new_empty((len(strengths), row_count), dtype=torch.float64)
    for chunk in _row_chunks(row_count, classes, logits.device):
        gaps = _gaps(logits[chunk], first_row=chunk.start)
        label = labels[chunk].long()
        label_gap = gaps.gather(1, label[:, None]).squeeze(1)
        is_argmax = gaps.argmin(1) == label
        # Classes first: products over a few classes of many rows are then fast.
        sorted_gaps = gaps.sort(dim=1).values.T.contiguous()
        for index, std in enumerate(strengths):
            probabilities[index, chunk] = (
                _label_law(sorted_gaps, label_gap, is_argmax, std)
                if std > 0
                else is_argmax.double()
            )
    return probabilities


def pairwise_order_probability(
    difference: Float[Tensor, "*batch"], std: float
) -> Float[Tensor, "*batch"]:
    """Probability that one noisy logit exceeds another: Φ(difference / (σ√2)).

    Args:
        difference: Clean logit minus the clean logit it is compared with.
        std: Standard deviation of the noise on each of the two, in logit units. At 0 the order is
            certain, and a tie counts one half, which is the limit of small noise.

    Returns:
        float64 probabilities.

    Raises:
        ValueError: If `std` is negative or not finite, or a difference is NaN.

    >>> pairwise_order_probability(torch.tensor([0.0, 2.0]), std=1.0)
    tensor([0.5000, 0.9214], dtype=torch.float64)
    """
    std = validate_strength(std, name="std")
    difference = difference.double()
    if difference.isnan().any():
        raise ValueError("difference holds NaN: drop pairs in which both logits are infinite")
    if std == 0:
        return (difference.sign() + 1) / 2
    return normal_cdf(difference / (std * math.sqrt(2)))


def focus_probabilities(
    logits: Float[Tensor, "*batch classes"], targets: Mapping[int, int], std: float
) -> Float[Tensor, "*batch classes"]:
    """Probability of each class to be the argmax under AIM's focus modulation.

    Half-normal noise ±|n|, n ~ N(0, σ²), is added to the target logits alone, independently. So of
    the other classes only the best one can win. For one target the law is closed, with d the best
    other logit minus the target's: P(target) = erfc(d/(σ√2)) upwards and erf(−d/(σ√2)) downwards,
    clipped to 1 for d ≤ 0 and to 0 for d ≥ 0. Several targets are integrated by Gauss-Legendre
    between the kinks of their densities.

    Args:
        logits: Clean logits; −inf marks an impossible class.
        targets: Class index → +1 (noise upwards) or −1 (noise downwards).
        std: Scale σ of the half-normal noise in logit units. At 0 the clean argmax has probability
            1, the first index among equals.

    Returns:
        float64 probabilities; a row sums to 1 within 1e-12.

    Raises:
        ValueError: If `targets` is empty, out of range or has a sign other than ±1, if `std` is
            negative or not finite, or if a row has NaN, +inf or only −inf logits.

    >>> focus_probabilities(torch.tensor([[2.0, 1.0, 0.0]]), {1: +1}, std=1.0)
    tensor([[0.6827, 0.3173, 0.0000]], dtype=torch.float64)
    """
    std = validate_strength(std, name="std")
    classes = logits.shape[-1]
    _validate_targets(targets, classes)
    if std == 0:
        return argmax_probabilities(logits, 0.0)
    rows = logits.reshape(-1, classes)
    index = torch.tensor(list(targets), device=logits.device)
    signs = torch.tensor(list(targets.values()), dtype=torch.float64, device=logits.device)
    probabilities = torch.zeros(rows.shape, dtype=torch.float64, device=logits.device)
    # Several targets take the values of all the others at every node of every piece.
    per_row = max(classes, LEGENDRE_NODES * (len(targets) + 1) * len(targets))
    for chunk in _row_chunks(len(rows), per_row, logits.device):
        # Measured from the best logit, values keep their precision and are at most 0.
        levels = -_gaps(rows[chunk], first_row=chunk.start) / std
        target_levels = levels[:, index]
        best, winner = levels.index_fill(1, index, -torch.inf).max(1)
        if len(targets) == 1:
            target_wins = _single_target_law(target_levels, best, signs)
        else:
            target_wins = _several_targets_law(target_levels, best, signs)
        other_wins = half_normal_cdf(best[:, None], target_levels, signs).prod(1)
        # Written in this order: where every class is a target, `winner` is one of them.
        probabilities[chunk].scatter_(1, winner[:, None], other_wins[:, None])
        probabilities[chunk, index] = target_wins
    return probabilities.reshape(logits.shape)


def greedy_survival(
    logits: Float[Tensor, "rows vocab"], stds: SupportsFloat | Sequence[SupportsFloat] | Tensor
) -> Float[Tensor, "strengths rows"]:
    """Probability that the clean argmax stays the argmax, for a language model's vocabulary.

    The product over the tokens of a completion is the probability that greedy decoding returns it
    unchanged. The vocabulary is gathered into bins of 0.05σ; each keeps its count, mean and
    variance and enters the product to second order, which costs a few hundred terms a node and not
    one for each token.

    Args:
        logits: Clean logits; −inf marks an impossible token.
        stds: One or many noise standard deviations in logit units.

    Returns:
        float64 probabilities, one row per strength; 1 at strength 0.

    Raises:
        ValueError: If a std is negative or not finite, or a row has NaN, +inf or only −inf logits.

    >>> greedy_survival(torch.tensor([[2.0, 0.0]]), [0, 1])
    tensor([[1.0000],
            [0.9214]], dtype=torch.float64)
    """
    strengths = _validate_stds(stds)
    row_count, vocab = logits.shape
    survival = logits.new_ones((len(strengths), row_count), dtype=torch.float64)
    noisy = [(index, std) for index, std in enumerate(strengths) if std > 0]
    per_row = max(vocab, _bin_count(vocab) * len(trapezoid(vocab)[0]))
    for chunk in _row_chunks(row_count, per_row, logits.device):
        gaps = _gaps(logits[chunk], first_row=chunk.start)
        # The argmax itself is no competitor of its own.
        gaps.scatter_(1, gaps.argmin(1, keepdim=True), torch.inf)
        for index, std in noisy:
            survival[index, chunk] = _survival_law(gaps / std, vocab)
    return survival


def _label_law(
    sorted_gaps: Float[Tensor, "classes rows"],
    label_gap: Float[Tensor, " rows"],
    is_argmax: Bool[Tensor, " rows"],
    std: float,
) -> Float[Tensor, " rows"]:
    """Probability of a label at a given gap below the best, all gaps sorted upwards."""
    limit = reach(len(sorted_gaps)) * std
    probability = is_argmax.double()
    # Confident rows are settled; of the others, classes out of reach of the best do not matter.
    unsettled = (sorted_gaps[1:2] < limit).any(0).nonzero().squeeze(1)
    if len(unsettled) == 0:
        return probability
    gaps = sorted_gaps[:, unsettled]
    in_reach = int((gaps < limit).sum(0).max())
    # Row by row, lest a result depend on the rows beside it.
    gaps = gaps[:in_reach].masked_fill_(gaps[:in_reach] >= limit, torch.inf)
    # In the argument of erfc, as Φ(x) = ½erfc(−x/√2), and with one buffer for all nodes.
    competitors = gaps.mul_(-math.sqrt(0.5) / std)
    cdf = torch.empty_like(competitors)
    label = label_gap[unsettled] / std
    mass = torch.zeros_like(label)
    nodes, step = trapezoid(len(sorted_gaps))
    for node in reversed(nodes):
        torch.add(competitors, -math.sqrt(0.5) * node, out=cdf)
        winner_cdf = _drop_tail(cdf.erfc_().mul_(0.5).prod(0))
        if not winner_cdf.any():
            break
        x = label + node
        mass += normal_pdf(x).div_(normal_cdf(x)).mul_(winner_cdf)
    return probability.index_copy_(0, unsettled, step * mass)


def _drop_tail(winner_cdf: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Zeroes what is under `TAIL`: all nodes below hold no more than that between them."""
    return winner_cdf.masked_fill_(winner_cdf < TAIL, 0.0)


def _survival_law(gaps: Float[Tensor, "rows vocab"], vocab: int) -> Float[Tensor, " rows"]:
    """Probability that a class stays above competitors at these gaps, in units of σ."""
    count, mean, variance = _bin_moments(gaps, bins=_bin_count(vocab))
    nodes, step = trapezoid(vocab)
    # All nodes at once: a row has few bins, and would spend a loop on the overhead of its calls.
    u = gaps.new_tensor(nodes)[:, None]
    x = mean[:, None, :] + u
    cdf = normal_cdf(x)
    hazard = normal_pdf(x).div_(cdf)
    # The second derivative of log Φ is −r(x + r), with r = φ/Φ.
    curvature = hazard.add(x).mul_(hazard).mul_((0.5 * count * variance)[:, None, :])
    log_cdf = cdf.log_().mul_(count[:, None, :]).sub_(curvature).sum(-1)
    return step * (log_cdf.exp_() * normal_pdf(u.squeeze(1))).sum(1)


def _bin_count(vocab: int) -> int:
    return math.ceil(reach(vocab) / _BIN_WIDTH)


def _bin_moments(
    gaps: Float[Tensor, "rows vocab"], *, bins: int
) -> tuple[Float[Tensor, "rows bins"], Float[Tensor, "rows bins"], Float[Tensor, "rows bins"]]:
    """Count, mean and variance of the gaps in each bin from 0 up; gaps beyond are dropped."""
    index = (gaps / _BIN_WIDTH).clamp_(max=bins).long()
    # Offsets from the bin's left edge, not positions: their variance does not cancel.
    offsets = torch.where(index < bins, gaps - index * _BIN_WIDTH, 0.0)
    moments = [torch.ones_like(offsets), offsets, offsets.square()]
    total, first, second = (
        gaps.new_zeros(len(gaps), bins + 1).scatter_add_(1, index, moment)[:, :bins]
        for moment in moments
    )
    filled = total.clamp(min=1)
    mean_offset = first / filled
    variance = (second / filled - mean_offset.square()).clamp_(min=0)
    edges = _BIN_WIDTH * torch.arange(bins, dtype=gaps.dtype, device=gaps.device)
    return total, edges + mean_offset, variance


def _single_target_law(
    target: Float[Tensor, "rows 1"], best: Float[Tensor, " rows"], signs: Float[Tensor, " 1"]
) -> Float[Tensor, "rows 1"]:
    """Probability that the only target wins; complements keep their precision near 0."""
    deficit = (best[:, None] - target) / math.sqrt(2)
    upwards = torch.erfc(deficit.clamp(min=0))
    downwards = torch.erf((-deficit).clamp(min=0))
    return torch.where(signs > 0, upwards, downwards)


def _several_targets_law(
    targets: Float[Tensor, "rows targets"],
    best: Float[Tensor, " rows"],
    signs: Float[Tensor, " targets"],
) -> Float[Tensor, "rows targets"]:
    """Probability of each target to win, in units of σ: ∫_{t>best} f_b(t) ∏_{c≠b} F_c(t) dt."""
    nodes, weights = gauss_legendre(targets.device)
    top = targets.amax(1, keepdim=True) + HALF_NORMAL_SUPPORT
    kinks = torch.cat([best[:, None], targets.maximum(best[:, None]), top], dim=1).sort(1).values
    wins = torch.zeros_like(targets)
    for b, sign in enumerate(signs.tolist()):
        level = targets[:, b, None]
        # An impossible class has no density; any finite stand-in keeps its nodes finite.
        anchor = torch.where(level.isfinite(), level, 0.0)
        far_end = anchor + sign * HALF_NORMAL_SUPPORT
        pieces = kinks.maximum(anchor.minimum(far_end)).minimum(anchor.maximum(far_end))
        half_width = pieces.diff(dim=1)[..., None] / 2
        t = pieces[:, :-1, None] + half_width * (1 + nodes)
        density = 2 * normal_pdf(t - anchor[..., None])
        others = [c for c in range(len(signs)) if c != b]
        cdf = half_normal_cdf(t[..., None], targets[:, None, None, others], signs[others]).prod(-1)
        mass = (half_width * weights * density * cdf).sum((1, 2))
        wins[:, b] = torch.where(level[:, 0].isfinite(), mass, 0.0)
    return wins


def _row_chunks(rows: int, elements_per_row: int, device: torch.device) -> Iterator[slice]:
    """Slices of rows whose buffers stay within a fixed number of elements."""
    budget = _CPU_ELEMENTS if device.type == "cpu" else _ACCELERATOR_ELEMENTS
    size = max(1, budget // max(1, elements_per_row))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def _gaps(
    logits: Float[Tensor, "rows classes"], *, first_row: int
) -> Float[Tensor, "rows classes"]:
    """Distance of each logit below the best of its row, in float64; +inf for impossible classes."""
    logits = logits.double()
    best = logits.amax(1, keepdim=True)
    # NaN and +inf carry over to the maximum, and −inf is the maximum of an impossible row.
    faulty = (~best.isfinite()).squeeze(1).nonzero().squeeze(1)
    if len(faulty):
        row = int(faulty[0])
        fault = {math.inf: "+inf", -math.inf: "only -inf"}.get(float(best[row]), "NaN")
        raise ValueError(
            f"logits: row {first_row + row} holds {fault} ({len(faulty)} such rows nearby); "
            "each row needs finite logits, or -inf for impossible classes"
        )
    return best - logits


def _validate_stds(stds: SupportsFloat | Sequence[SupportsFloat] | Tensor) -> list[float]:
    values = torch.as_tensor(stds, dtype=torch.float64).flatten().tolist()
    return [validate_strength(value, name="stds") for value in values]


def check_labels(labels: Tensor, logits: Tensor) -> None:
    """Refuses labels [rows] that do not fit logits [rows, classes]."""
    rows, classes = logits.shape
    if labels.shape != (rows,):
        raise ValueError(f"labels have shape {tuple(labels.shape)}: give one per row, ({rows},)")
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"labels[{row}]={int(labels[row])} is outside [0, {classes}): "
            "drop rows whose label is to be ignored"
        )


def _validate_targets(targets: Mapping[int, int], classes: int) -> None:
    if not targets:
        raise ValueError("targets is empty: name at least one class, as in {3: +1}")
    for target, sign in targets.items():
        if not 0 <= target < classes:
            raise ValueError(f"targets names class {target}, outside [0, {classes})")
        if sign not in (-1, 1):
            raise ValueError(f"targets[{target}]={sign!r} is no direction: give +1 or -1")
