"""How well attributions predict what ablations do.

Source: arXiv:2404.11534, section 4 (correlation of predicted and true outputs over fresh masks).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aim_plugins.attribution.subject import Subject, factors_of
from aim_plugins.core.identity import seed_of
from aim_plugins.modulation.ablation import ablation_mask

_MASKS = 64
"""Masks whose outputs are asked for at a time."""


@dataclass(frozen=True)
class MeanOfExamples:
    """A mean over examples.

    Attributes:
        value: The mean.
        low: Lower end of its 95 % interval (Student's t).
        high: Upper end.
        values: Of each example; NaN where there is none.
    """

    value: float
    low: float
    high: float
    values: Sequence[float]

    @property
    def count(self) -> int:
        """How many examples have a value."""
        return sum(one == one for one in self.values)

    @classmethod
    def of(cls, values: Sequence[float]) -> MeanOfExamples:
        """Takes the mean of values; those that are NaN are left out."""
        from scipy.stats import t

        known = np.asarray([one for one in values if one == one], dtype=float)
        value = float(known.mean()) if len(known) else float("nan")
        if len(known) < 2:
            return cls(value, float("nan"), float("nan"), list(values))
        half = float(t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / len(known) ** 0.5)
        return cls(value, value - half, value + half, list(values))


def fresh_masks(
    components: int, alpha: float, masks: int, seed: int
) -> Bool[np.ndarray, "masks components"]:
    """Which components masks ablate that no dataset of the same seed has.

    Args:
        components: How many components there are.
        alpha: Probability of each to be ablated, inside (0, 1).
        masks: How many masks.
        seed: Seed of the dataset.

    Raises:
        ValueError: If alpha is not inside (0, 1).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha:g}: give a probability above 0 and below 1")
    own = seed_of(seed, "evaluation")
    return np.stack([ablation_mask(components, alpha, own, number) for number in range(masks)])


def outputs_under(
    subject: Subject, ablated: Bool[np.ndarray, "masks components"]
) -> Float[Tensor, "masks examples"]:
    """True outputs under masks, some of them at a time."""
    parts = torch.from_numpy(ablated).split(_MASKS)
    return torch.cat([subject.outputs(factors_of(one.numpy())) for one in parts])


def correlations(
    weights: Float[Tensor, "examples components"],
    ablated: Bool[np.ndarray, "masks components"],
    outputs: Float[Tensor, "masks examples"],
) -> Float[Tensor, " examples"]:
    """Pearson's correlation of predicted and true outputs over masks, of each example.

    An intercept does not matter to it. It is NaN where either never changes.
    """
    predicted = torch.from_numpy(~ablated).double() @ weights.double().T
    own, other = (one.double() - one.double().mean(0) for one in (predicted, outputs))
    return ((own * other).sum(0) / (own.norm(dim=0) * other.norm(dim=0))).float()


def evaluate(
    subject: Subject,
    methods: Mapping[str, Float[Tensor, "examples components"]],
    alphas: Sequence[float],
    *,
    masks: int = 100,
    seed: int = 0,
) -> dict[float, dict[str, MeanOfExamples]]:
    """Correlation of predicted and true outputs over fresh masks, of several methods at once.

    Args:
        subject: Model, components and examples.
        methods: Weights by the method's name.
        alphas: Probabilities of a component to be ablated.
        masks: Fresh masks for each alpha.
        seed: Seed of the dataset that the weights were learned from.

    Returns:
        By alpha and method.

    Raises:
        ValueError: If an alpha is not inside (0, 1), or there are fewer than three masks.
    """
    if masks < 3:
        raise ValueError(f"masks={masks}: give 3 or more, since two always lie on a line")
    found: dict[float, dict[str, MeanOfExamples]] = {}
    for alpha in alphas:
        ablated = fresh_masks(len(subject.components), alpha, masks, seed)
        outputs = outputs_under(subject, ablated)
        found[alpha] = {
            name: MeanOfExamples.of(correlations(weights, ablated, outputs).tolist())
            for name, weights in methods.items()
        }
    return found


@dataclass(frozen=True)
class TopEffects:
    """What ablating each example's top components does, and ablating as many others at random.

    Attributes:
        top: By how much outputs fall without the top components.
        drawn: By how much they fall without others, the mean of the draws.
        difference: Of the two, in pairs.
        p: Of signs dealt out anew to the examples' differences.
    """

    top: MeanOfExamples
    drawn: MeanOfExamples
    difference: MeanOfExamples
    p: float


def top_effects(
    subject: Subject,
    weights: Float[Tensor, "examples components"],
    size: int,
    *,
    draws: int = 5,
    seed: int = 0,
) -> TopEffects:
    """Tests whether ablating an example's top components lowers its output more than chance.

    Args:
        subject: Model, components and examples.
        weights: Attributions of the examples.
        size: How many components are ablated.
        draws: Draws at random for each example.
        seed: Seed of the draws.

    Raises:
        ValueError: If there are fewer components.
    """
    examples, count = weights.shape
    if not 1 <= size <= count:
        raise ValueError(f"size={size}: give 1 to {count}, the number of components")
    generator = np.random.Generator(np.random.Philox(key=[seed_of(seed, "top"), size]))
    chosen = [weights.topk(size).indices]
    for _ in range(draws):
        order = generator.random((examples, count)).argsort(1, kind="stable")
        chosen.append(torch.from_numpy(order[:, :size].copy()))
    places, whole = torch.arange(examples), subject.whole()
    falls = []
    for own in chosen:
        factors = torch.ones(examples, count).scatter_(1, own, 0)
        falls.append((whole - subject.paired_outputs(factors, places, places)).double())
    top, drawn = falls[0], torch.stack(falls[1:]).mean(0)
    return TopEffects(
        MeanOfExamples.of(top.tolist()),
        MeanOfExamples.of(drawn.tolist()),
        MeanOfExamples.of((top - drawn).tolist()),
        _sign_test((top - drawn).numpy()),
    )


def _sign_test(differences: np.ndarray) -> float:
    """p of a mean, of both sides, of signs dealt out anew."""
    from scipy.stats import permutation_test

    if len(differences) < 2:
        return float("nan")
    tested = permutation_test(
        (differences, np.zeros_like(differences)),
        lambda one, other, axis: (one - other).mean(axis=axis),
        permutation_type="samples",
        batch=500,
        vectorized=True,
        rng=0,
    )
    return float(tested.pvalue)
