"""How one module's map is learned from its activations on source and target sentences.

Every method sees two tables of pooled activations, a row for each sentence and a column for each
neuron, and ends in a scale and a shift of each neuron (`AffineMap`): AcT's own maps, AurA, and the
baselines the AcT paper compares with. The source is what the model does, the target what it should
do: to make a model less toxic, the source holds toxic sentences.

Statistics are float64; the maps are float32.

Source: arXiv 2410.23054, section 3.1 (maps, support), 3.3 and table 1 (methods as affine maps).
"""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from aim_plugins.modulation.activations import AffineMap
from aim_plugins.transport.statistics import (
    auroc,
    constant_neurons,
    coupled_moment,
    in_double,
    principal_direction,
    probe_direction,
    sorted_samples,
)
from aim_plugins.transport.support import support_bounds
from aim_plugins.transport.vocabulary import check_method, parse_support

_BLOCK = 2**18  # float64 samples in work at once, few enough for the processor's cache


class Method(abc.ABC):
    """A way to learn the map of one module.

    A new method fills in `_fit` and the attributes, and is registered in `METHODS`. All but the
    first six are defaults that a user may change.

    Attributes:
        name: What the command line and artifacts call it.
        title: What plots and reports call it.
        minimum_samples: Samples each side needs.
        bounded: Whether a support makes sense.
        joint: Whether a neuron's map depends on the module's other neurons.
        paired: Whether source and target sentences at the same places belong together.
        aimed: Whether the map carries the source to the target, so that it can be held against
            other sentences of both.
        pooling: How a sentence's tokens become one sample.
        positions: Tokens to transport, see `ActivationMaps`.
        incremental: Which sentences go through earlier maps while later ones are learned, see
            `incremental`.
        support: Where the map acts, see `support_bounds`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    minimum_samples: ClassVar[int] = 2
    bounded: ClassVar[bool] = True
    joint: ClassVar[bool] = False
    paired: ClassVar[bool] = False
    aimed: ClassVar[bool] = True
    pooling: ClassVar[str] = "mean"
    positions: ClassVar[str] = "all"
    incremental: ClassVar[str] = "atonce"
    support: ClassVar[str] = "none"

    def fit(
        self, source: Float[Tensor, "n neurons"], target: Float[Tensor, "m neurons"]
    ) -> AffineMap:
        """Learns the map of one module, without a support.

        Args:
            source: Pooled activations of the source sentences.
            target: Pooled activations of the target sentences; their number may differ.

        Returns:
            The map, on the device of the source.

        Raises:
            ValueError: If a side has too few samples, holds NaN or infinity, or the widths differ;
                or if a scale or shift exceeds float32.
        """
        self._check(source, target)
        block = source.shape[1]
        if not self.joint:
            block = max(1, _BLOCK // (len(source) + len(target)))
        blocks = zip(source.split(block, dim=1), target.split(block, dim=1), strict=True)
        fitted = [self._fit(in_double(a), in_double(b)) for a, b in blocks]
        scale, shift = (
            torch.cat(parts).float().to(source.device) for parts in zip(*fitted, strict=True)
        )
        learned = AffineMap.everywhere(scale, shift)
        if not bool((learned.scale.isfinite() & learned.shift.isfinite()).all()):
            raise ValueError(
                f"method={self.name!r} learned a scale or shift that exceeds float32: source and "
                "target differ by too many orders of magnitude; fit another module"
            )
        return learned

    @abc.abstractmethod
    def _fit(
        self, source: Float64[Tensor, "n neurons"], target: Float64[Tensor, "m neurons"]
    ) -> tuple[Float64[Tensor, " neurons"], Float64[Tensor, " neurons"]]:
        """Scale and shift of each neuron from checked samples."""

    def _check(self, source: Tensor, target: Tensor) -> None:
        for side, samples in (("source", source), ("target", target)):
            if samples.dim() != 2:
                raise ValueError(
                    f"{side} has the shape {tuple(samples.shape)}: give pooled activations with a "
                    "row for each sample and a column for each neuron"
                )
            if len(samples) < self.minimum_samples:
                needed = f"at least {self.minimum_samples}: give more"
                if len(samples) and self.minimum_samples > 1:
                    needed += ", or use method='actadd', which needs one a side"
                raise ValueError(
                    f"{side} has {len(samples)} sample(s), and method={self.name!r} needs {needed}"
                )
            finite = samples.isfinite()
            if not bool(finite.all()):
                row, neuron = (~finite).nonzero()[0].tolist()
                raise ValueError(
                    f"{int((~finite).sum())} activations of the {side} are NaN or infinite, first "
                    f"neuron {neuron} of sample {row}: leave that sample out, or run the model "
                    "in float32 or bfloat16 (float16 overflows beyond 65504)"
                )
        if source.shape[1] != target.shape[1]:
            raise ValueError(
                f"source has {source.shape[1]} neurons and target {target.shape[1]}: both must "
                "come from the same module"
            )
        check_pairs(self, len(source), len(target))


class LinearTransport(Method):
    """Linear-AcT: the least-squares line through the optimal coupling of each neuron.

    In one dimension the optimal coupling joins equal quantiles: for as many source as target
    samples, the sorted ones in pairs. With centred quantile functions a and b,

        ω = ∫ a b / ∫ a²,  β = m_b - ω m_a,  T(x) = ω x + β.

    Numbers of samples that differ are coupled exactly, every sample with its full weight. A neuron
    that is constant in the source tells nothing about ω: its scale is 1 and only its mean moves.

    Source: arXiv 2410.23054, definition 3.1. It prints ∫ b² in the denominator; its code divides by
    ∫ a², as least squares do.
    """

    name = "linear"
    title = "Linear-AcT"
    incremental = "causal"
    support = "clip"

    def _fit(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        source_mean, target_mean = source.mean(0), target.mean(0)
        centred_source = sorted_samples(source - source_mean)
        centred_target = sorted_samples(target - target_mean)
        covariance = coupled_moment(centred_source, centred_target)
        variance = centred_source.square().mean(-1)
        scale = torch.where(constant_neurons(source), 1.0, covariance / variance)
        return scale, target_mean - scale * source_mean


class GaussianTransport(Method):
    """The optimal map between Gaussians with the means and deviations of the samples.

    T(x) = (s_b / s_a) (x - m_a) + m_b, where both standard deviations exceed `MINIMUM_STD`; other
    neurons only move by m_b - m_a (ml-act leaves them as they are). Deviations are the unbiased
    ones, as in ml-act.

    Source: arXiv 2410.23054, section 3.1, and the class GaussianOTHook of github.com/apple/ml-act.
    """

    name = "gaussian"
    title = "Gaussian-AcT"
    incremental = "causal"
    support = "clip"

    MINIMUM_STD: ClassVar[float] = 1e-4

    def _fit(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        source_mean, target_mean = source.mean(0), target.mean(0)
        source_std, target_std = source.std(0), target.std(0)
        spread = (source_std > self.MINIMUM_STD) & (target_std > self.MINIMUM_STD)
        scale = torch.where(spread & ~constant_neurons(source), target_std / source_std, 1.0)
        return scale, target_mean - scale * source_mean


class MeanTransport(Method):
    """Mean-AcT: T(x) = x + m_b - m_a.

    Source: arXiv 2410.23054, section 3.1 and table 1.
    """

    name = "mean"
    title = "Mean-AcT"
    minimum_samples = 1
    incremental = "causal"

    def _fit(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(source[0]), target.mean(0) - source.mean(0)


class AurA(Method):
    """AurA: dampens neurons by how well they tell source sentences from target sentences.

    T(x) = α x with α = 1 - 2 (AUROC - 1/2) where AUROC > 1/2, and 1 elsewhere. The AUROC is that of
    a neuron's maximum over tokens as a classifier whose positive class is the source (toxic
    sentences, in the paper); a neuron that separates the sides perfectly is silenced.

    Source: "Whispering Experts", arXiv 2407.12824, algorithm 4. The paper dampens linear layers;
    here the user chooses the modules.
    """

    name = "aura"
    title = "AurA"
    bounded = False
    aimed = False
    pooling = "max"

    def _fit(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        gini = 2 * (auroc(source, target) - 0.5)
        return 1 - gini.clamp(min=0), torch.zeros_like(gini)


class ActAdd(Method):
    """ActAdd: T(x) = x + b - a, with the activations of one contrast pair.

    The pair is the first sentence of each side, taken at its last token; λ is the injection
    coefficient.

    Source: arXiv 2308.10248. There both prompts are padded to the same length, and the differences
    of all their positions are added to the first positions of the residual stream at one layer.
    Here the last token's difference is added at every transported token of every chosen module.
    """

    name = "actadd"
    title = "ActAdd"
    minimum_samples = 1
    aimed = False
    pooling = "last"

    def _fit(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(source[0]), target[0] - source[0]


class CAA(MeanTransport):
    """CAA: T(x) = x + m_b - m_a, with the means of activations at the last token.

    With as many source as target sentences this is the mean of the pairs' differences, however they
    are paired; λ is the multiplier.

    Source: arXiv 2312.06681. There the pairs are one question with either answer letter, the
    vector comes from the residual stream after one layer, and it is added from the end of the
    prompt on, as positions "last" does. Here the user chooses sentences and modules.
    """

    name = "caa"
    title = "CAA"
    pooling = "last"
    positions = "last"
    incremental = "atonce"


class ITI(Method):
    """ITI-c: T(x) = x + σ θ, along the direction θ of a linear probe.

    The probe is a logistic regression of target against source on the module's standardised
    activations; θ is its unit normal in activation space and points from source to target. σ is
    the standard deviation of all samples projected on θ. λ is the paper's α (15 for LLaMA-7B), so
    useful strengths may well exceed 1.

    Source: arXiv 2306.03341, section 4. There a probe belongs to one attention head, only the heads
    whose probes are most accurate on held-out data (48 of LLaMA-7B's) are shifted, and the main
    results take the difference of means for θ; the probe's normal is the variant that the AcT paper
    calls ITI-c. Here every chosen module's output is probed and shifted as a whole.
    """

    name = "iti"
    title = "ITI-c"
    joint = True
    aimed = False
    pooling = "last"
    positions = "last"

    def _fit(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        samples = torch.cat([source, target]).cpu()
        direction = probe_direction(samples, len(source))
        deviation = (samples @ direction).std(correction=0)
        return torch.ones_like(source[0]), (deviation * direction).to(source.device)


class PCA(Method):
    """RepE's reading vector: T(x) = x + v, along which pairs of sentences differ most.

    v is the first principal component of the differences target less source of pairs, of length 1;
    it points to where the target's mean projects further; λ is the paper's coefficient, so useful
    strengths may well exceed 1.

    Source: arXiv 2310.01405, section 3.1 (Linear Artificial Tomography, last token) and 3.2 (linear
    combination R + v, at every token). Its code shuffles which sentence of a pair comes first
    before it centres the differences, so that their mean goes to 0 as pairs grow; here it is left
    out of the component exactly, and no draw decides. repeng's `pca_diff` centres differences that
    all point one way, and so takes from them what they have in common.
    """

    name = "pca"
    title = "RepE (PCA)"
    joint = True
    paired = True
    aimed = False
    pooling = "last"

    def _fit(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        direction = principal_direction(source.cpu(), target.cpu())
        return torch.ones_like(source[0]), direction.to(source.device)


METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (LinearTransport, GaussianTransport, MeanTransport, AurA, ActAdd, CAA, ITI, PCA)
}
"""Methods by name."""


def find_method(name: str) -> Method:
    """The method of a name.

    >>> find_method("linear").title
    'Linear-AcT'

    Raises:
        ValueError: If there is none.
    """
    check_method(name)
    return METHODS[name]()


def fit_map(
    method: Method | str,
    support: str | None,
    source: Float[Tensor, "n neurons"],
    target: Float[Tensor, "m neurons"],
    site: str,
) -> AffineMap:
    """Learns the map of one module, with its support.

    Args:
        method: The method, or its name.
        support: Where the map acts, see `support_bounds`; None for the method's default. Neurons
            that are constant in the source have none: nothing is known of where else they go, and
            an empty interval would keep their mean from moving.
        source: Pooled activations of the source sentences.
        target: Pooled activations of the target sentences.
        site: The module's name, for errors.

    Raises:
        ValueError: If the activations do not allow a fit, the support is malformed, or the method
            takes none.
    """
    method = find_method(method) if isinstance(method, str) else method
    support = method.support if support is None else support
    check_support(method, support)
    try:
        learned = method.fit(source, target)
        low, high, clip = support_bounds(support, source)
    except ValueError as error:
        raise ValueError(f"module {site!r}: {error}") from error
    constant = constant_neurons(source)
    low = low.masked_fill(constant, -torch.inf)
    return AffineMap(learned.scale, learned.shift, low, high.masked_fill(constant, torch.inf), clip)


def check_pairs(method: Method, n_source: int, n_target: int) -> None:
    """Refuses sides of different numbers where a method takes pairs.

    Raises:
        ValueError: Naming the numbers.
    """
    if method.paired and n_source != n_target:
        raise ValueError(
            f"source has {n_source} sample(s) and target {n_target}, and method={method.name!r} "
            "takes pairs: give as many, partners at the same place of both"
        )


def check_support(method: Method, support: str) -> None:
    """Refuses a support that is malformed or that the method does not take.

    Raises:
        ValueError: Naming what to write.
    """
    quantiles, _ = parse_support(support)
    if quantiles is not None and not method.bounded:
        raise ValueError(
            f"support={support!r}: {method.title} dampens activations wherever they are; leave "
            "its support at 'none'"
        )
