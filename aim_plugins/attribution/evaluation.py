"""How well attributions predict what ablations do.

Source: arXiv:2404.11534, section 4 (correlation of predicted and true outputs over fresh masks).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aim_plugins.attribution.attributions import Attributions
from aim_plugins.attribution.checks import check_finite
from aim_plugins.attribution.subject import MASKS, Subject, factors_of
from aim_plugins.core.identity import seed_of
from aim_plugins.modulation.ablation import ablation_mask
from aim_plugins.sweep.intervals import student_reach
from aim_plugins.sweep.paired import Interval


@dataclass(frozen=True)
class MeanOfExamples(Interval):
    """A mean over examples, with Student's interval.

    Attributes:
        values: Of each example; NaN where there is none.
    """

    values: Sequence[float]

    @property
    def count(self) -> int:
        """How many examples have a value."""
        return sum(one == one for one in self.values)

    @classmethod
    def of(cls, values: Sequence[float]) -> MeanOfExamples:
        """Takes the mean of values; those that are NaN are left out."""
        known = [one for one in values if one == one]
        value = statistics.fmean(known) if known else math.nan
        reach = student_reach(known)
        return cls(value, value - reach, value + reach, list(values))


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
    """True outputs under masks, some of them at a time.

    Raises:
        ValueError: If one is not finite; its example and mask are named.
    """
    parts = torch.from_numpy(ablated).split(MASKS)
    found = torch.cat([subject.outputs(factors_of(one.numpy())) for one in parts])
    check_finite(found, subject.names, "fresh mask")
    return found


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
    found = (own * other).sum(0) / (own.norm(dim=0) * other.norm(dim=0))
    # What rounding leaves of a value that never changes correlates with anything.
    return found.where(_changes(predicted) & _changes(outputs), math.nan).float()


def _changes(values: Float[Tensor, "masks examples"]) -> Bool[Tensor, " examples"]:
    return (values != values[0]).any(0)


def evaluate(
    subject: Subject,
    methods: Mapping[str, Attributions | Float[Tensor, "examples components"]],
    alphas: Sequence[float],
    *,
    masks: int = 100,
    seed: int = 0,
) -> dict[float, dict[str, MeanOfExamples]]:
    """Correlation of predicted and true outputs over fresh masks, of several methods at once.

    All are compared on the same examples: those whose true outputs change, the number of which is
    each mean's `count`. A method that predicts the same of all masks has the correlation 0 there.

    Args:
        subject: Model, components and examples.
        methods: Attributions, or weights alone, by the method's name.
        alphas: Probabilities of a component to be ablated.
        masks: Fresh masks for each alpha.
        seed: Seed of the dataset that the weights were learned from.

    Returns:
        By alpha and method.

    Raises:
        ValueError: If an alpha is not inside (0, 1), there are fewer than three masks, weights are
            those of other components or examples, or a weight or an output is not finite.
    """
    if masks < 3:
        raise ValueError(f"masks={masks}: give 3 or more, since two always lie on a line")
    given = {name: _weights_of(one, subject, f"methods[{name!r}]") for name, one in methods.items()}
    found: dict[float, dict[str, MeanOfExamples]] = {}
    for alpha in alphas:
        ablated = fresh_masks(len(subject.components), alpha, masks, seed)
        outputs = outputs_under(subject, ablated)
        changes = _changes(outputs)
        found[alpha] = {}
        for name, weights in given.items():
            own = correlations(weights, ablated, outputs).nan_to_num().where(changes, math.nan)
            found[alpha][name] = MeanOfExamples.of(own.tolist())
    return found


def _weights_of(
    given: Attributions | Float[Tensor, "examples components"], subject: Subject, argument: str
) -> Float[Tensor, "examples components"]:
    """Weights that are those of the subject.

    Raises:
        ValueError: If they are of other components or examples, or one is not finite.
    """
    weights = given.weights if isinstance(given, Attributions) else given
    expected = (subject.examples, len(subject.components))
    if tuple(weights.shape) != expected:
        raise ValueError(
            f"{argument} has weights {list(weights.shape)} where the subject has {expected[0]} "
            f"examples and {expected[1]} components: give attributions of that subject"
        )
    if isinstance(given, Attributions):
        own = (given.components.to_json(), given.examples)
        if own != (subject.components.to_json(), subject.names):
            what = "components" if own[0] != subject.components.to_json() else "examples"
            raise ValueError(
                f"{argument} is of other {what} than the subject: give attributions of that subject"
            )
    if not weights.isfinite().all():
        place = int((~weights.isfinite()).any(1).nonzero()[0])
        raise ValueError(
            f"{argument}: weights of example {subject.names[place]!r} are not finite: leave that "
            "method out"
        )
    return weights


@dataclass(frozen=True)
class TopEffects:
    """What ablating each example's top components does, and ablating as many others at random.

    Attributes:
        top: By how much outputs fall without the top components.
        drawn: By how much they fall without others, the mean of the draws.
        difference: Of the two, in pairs.
        p: Of Wilcoxon's signed-rank test of the examples' differences, of both sides.
    """

    top: MeanOfExamples
    drawn: MeanOfExamples
    difference: MeanOfExamples
    p: float


def top_effects(
    subject: Subject,
    weights: Attributions | Float[Tensor, "examples components"],
    size: int,
    *,
    draws: int = 5,
    seed: int = 0,
) -> TopEffects:
    """Tests by ranks whether ablating an example's top components lowers its output above chance.

    Args:
        subject: Model, components and examples.
        weights: Attributions of the examples, or weights alone.
        size: How many components are ablated.
        draws: Draws at random for each example.
        seed: Seed of the draws.

    Raises:
        ValueError: If there are fewer components, no draws, weights of other components or
            examples, or a weight or an output is not finite.

    Source: Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1, 1945.
    """
    weights = _weights_of(weights, subject, "weights")
    examples, count = weights.shape
    if not 1 <= size <= count:
        raise ValueError(f"size={size}: give 1 to {count}, the number of components")
    if draws < 1:
        raise ValueError(f"draws={draws}: give 1 or more to compare with")
    generator = np.random.Generator(np.random.Philox(key=[seed_of(seed, "top"), size]))
    chosen = [weights.topk(size).indices]
    for _ in range(draws):
        order = generator.random((examples, count)).argsort(1, kind="stable")
        chosen.append(torch.from_numpy(order[:, :size].copy()))
    places, whole = torch.arange(examples), subject.whole()
    check_finite(whole[None], subject.names, "mask")
    falls: list[Tensor] = []
    for own in chosen:
        factors = torch.ones(examples, count).scatter_(1, own, 0)
        found = subject.paired_outputs(factors, places, places)
        check_finite(found[None], subject.names, "a draw, mask", len(falls))
        falls.append((whole - found).double())
    top, drawn = falls[0], torch.stack(falls[1:]).mean(0)
    return TopEffects(
        MeanOfExamples.of(top.tolist()),
        MeanOfExamples.of(drawn.tolist()),
        MeanOfExamples.of((top - drawn).tolist()),
        _rank_test((top - drawn).numpy()),
    )


def _rank_test(differences: np.ndarray) -> float:
    """p of Wilcoxon's signed-rank test, of both sides; NaN of a single difference."""
    from scipy.stats import wilcoxon

    if len(differences) < 2:
        return math.nan
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0
