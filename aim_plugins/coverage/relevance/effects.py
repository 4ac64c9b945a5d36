"""What important neurons are worth: accuracy without them, against random neurons.

The first research question of the WISDOM tool takes the most relevant neurons out of a network and
looks at what accuracy loses. Compared with random neurons of the network, an attributor wins even
if it only finds the narrow layers, where a neuron is a large part of all that passes. Random
neurons of the same layers, as many in each as the attributor chose, tell both apart.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from aim_plugins.coverage.layers import Layers
from aim_plugins.sweep.intervals import paired_interval, student_reach


@dataclass(frozen=True)
class Drop:
    """What accuracy loses.

    Attributes:
        value: Accuracy before, less accuracy after.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @classmethod
    def paired(cls, before: Bool[Tensor, " inputs"], after: Bool[Tensor, " inputs"]) -> Drop:
        """The drop of one choice of neurons, with an interval over inputs.

        Each input is its own control: only answers that change count.

        Args:
            before: Which inputs are answered correctly with all neurons.
            after: Which are without some.

        Raises:
            ValueError: If there is no input.
        """
        count = len(before)
        if not count:
            raise ValueError("before is empty: give at least one input")
        lost, won = int((before & ~after).sum()), int((after & ~before).sum())
        return cls((lost - won) / count, *paired_interval(lost, won, count))

    @classmethod
    def mean_of(cls, values: Sequence[float]) -> Drop:
        """The mean drop of several random choices, with Student's interval over choices.

        >>> round(Drop.mean_of([0.1, 0.2, 0.3]).value, 9)
        0.2
        """
        mean, reach = statistics.fmean(values), student_reach(values)
        return cls(mean, mean - reach, mean + reach)


@dataclass(frozen=True)
class Effect:
    """What the most relevant neurons are worth, against as many random ones.

    Attributes:
        attributor: What found them.
        neurons: How many they are.
        places: How many of them each layer has.
        drop: What accuracy loses without them.
        matched: What it loses without each choice of random neurons of the same layers.
        random: What it loses without each choice of random neurons of the network.
    """

    attributor: str
    neurons: int
    places: Mapping[str, int]
    drop: Drop
    matched: tuple[float, ...]
    random: tuple[float, ...]

    @property
    def chance(self) -> float:
        """How often random neurons of the same layers would do as much: an exact test's p.

        The attributor's choice and the random ones are ranked; the smallest value that k random
        choices allow is 1 / (k + 1).

        Source: Phipson and Smyth, "Permutation p-values should never be zero", Statistical
        Applications in Genetics and Molecular Biology 9, 2010.
        """
        as_much = sum(one >= self.drop.value for one in self.matched)
        return (1 + as_much) / (1 + len(self.matched))

    @property
    def of_layers(self) -> float:
        """The share of the gain over random neurons that random ones of the same layers have.

        From 0 to 1; NaN where the attributor's neurons cost no more than random ones.
        """
        gain = self.drop.value - statistics.fmean(self.random)
        if gain <= 0:
            return math.nan
        matched = statistics.fmean(self.matched) - statistics.fmean(self.random)
        return min(max(matched / gain, 0.0), 1.0)


def random_neurons(layers: Layers, most: int, generator: np.random.Generator) -> list[int]:
    """Neurons drawn from all layers but the last; of fewer neurons, all.

    Args:
        layers: The neurons.
        most: How many.
        generator: What draws them.
    """
    last = layers.slices[-1].start if len(layers.names) > 1 else layers.neurons
    return generator.permutation(last)[:most].tolist()


def matched_neurons(
    layers: Layers, neurons: Sequence[int], generator: np.random.Generator
) -> list[int]:
    """Neurons drawn from the layers of others, as many of each layer.

    The first ones of the result match the first ones of `neurons`. Those drawn may be among them:
    whoever knows only the layers would draw so.

    Args:
        layers: The neurons.
        neurons: Columns of those to match.
        generator: What draws them.
    """
    orders = {
        name: iter((generator.permutation(size) + place.start).tolist())
        for name, size, place in zip(layers.names, layers.sizes, layers.slices, strict=True)
    }
    return [next(orders[layers.locate(neuron)[0]]) for neuron in neurons]


def count_places(layers: Layers, neurons: Sequence[int]) -> dict[str, int]:
    """How many of some neurons each layer has, in the order of layers; of none, it is left out."""
    found = [layers.locate(neuron)[0] for neuron in neurons]
    return {name: found.count(name) for name in layers.names if name in found}


def tell_effect(effect: Effect) -> str:
    """What an effect says of the attributor, in a sentence or two."""
    random, matched = statistics.fmean(effect.random), statistics.fmean(effect.matched)
    drop = effect.drop
    text = (
        f"{effect.attributor}: without its {effect.neurons} most relevant neurons accuracy drops "
        f"by {drop.value:.3f} ({drop.low:.3f} to {drop.high:.3f}), without as many random ones of "
        f"the network by {random:.3f}, and without random ones of the same layers by {matched:.3f}."
    )
    if math.isnan(effect.of_layers):
        return f"{text} Random neurons of the network do as much."
    draws, shown = len(effect.matched), format(effect.of_layers, ".0%")
    text += f" Knowing the layers alone gives {shown} of what it gains over random neurons"
    more = sum(one >= drop.value for one in effect.matched)
    if not more:
        return f"{text}; none of {draws} random choices of the same layers does as much."
    return f"{text}; {more} of {draws} random choices of the same layers do as much or more."
