"""WISDOM: several attributors vote for neurons, each as loudly as its choice turns out to matter.

For every batch of training inputs, each attributor names its m most relevant neurons. They are
taken out of the model, and what the loss gains by that, as a share of all attributors' gains, is
the attributor's weight. A neuron's score is the weighted sum of the relevances with which it was
named; the best neurons of the batch get points by rank, the first the most, and the points of all
batches are what neurons are chosen by. The importance-driven coverage of these neurons is WISDOM's.

Source: the WISDOM tool (github.com/JoshuaQSH/Wisdom, prepare_data.py), which weighs by the loss and
describes a drop of accuracy. There negative gains count as they are, so that the shares can change
sign or explode; here they count as zero, and a batch without any gain has no vote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.relevance.ablation import ablated
from aim_plugins.coverage.relevance.attributor import Attributor, logits_of
from aim_plugins.coverage.relevance.registry import make_attributor
from aim_plugins.coverage.relevance.relevance import top_neurons

VOTERS = ("lc", "la", "ii", "ldl", "ldls", "lgs", "lig", "lrp")
"""The attributors of the WISDOM tool."""


class Wisdom:
    """The vote with what it has counted so far.

    Args:
        layers: Layers of the model; the last one's neurons are never chosen.
        voters: Attributors by name; by default those of the WISDOM tool, which sum over space.
        top_m_neurons: How many neurons each attributor names.
        keep: How many neurons of a batch get points.
        gain: What an attributor is weighed by: the "loss" that the model gains without its neurons
            (cross entropy, in nats), or the "accuracy" that it drops.

    Attributes:
        points: Points of each neuron.
        batches: Number of batches.
        silent: Number of batches without a vote, as no attributor's neurons mattered.
        weights: Sum of each attributor's weights over the batches; they rank attributors.
        failures: In how many batches an attributor could not explain the model, and had no vote.

    Raises:
        ValueError: If an option is none of these.
    """

    def __init__(
        self,
        layers: Layers,
        voters: Mapping[str, Attributor] | None = None,
        top_m_neurons: int = 6,
        keep: int = 10,
        gain: str = "loss",
    ) -> None:
        if gain not in ("loss", "accuracy"):
            raise ValueError(f"gain={gain!r} is unknown: write 'loss' or 'accuracy'")
        if keep < 1:
            raise ValueError(f"keep={keep}: at least one neuron of a batch gets points")
        if voters is None:
            voters = {name: make_attributor(name, "sum") for name in VOTERS}
        if not voters:
            raise ValueError("voters: name at least one attributor")
        if len(layers.names) < 2:
            raise ValueError(
                f"layers={layers.names}: the last layer's neurons are never chosen, give more"
            )
        self.layers, self.voters = layers, dict(voters)
        # The columns of all but the last layer are the first ones, so they need no translation.
        self._chosen_from = Layers(layers.names[:-1], layers.sizes[:-1])
        self.top_m_neurons, self.keep, self.gain = top_m_neurons, keep, gain
        self.points: Int[Tensor, " neurons"] = torch.zeros(layers.neurons, dtype=torch.int64)
        self.batches = self.silent = 0
        self.weights = dict.fromkeys(self.voters, 0.0)
        self.failures = dict.fromkeys(self.voters, 0)

    def vote(self, model: nn.Module, inputs: Any, labels: Int[Tensor, " inputs"]) -> None:
        """Counts the vote over a batch.

        Args:
            model: The model, in eval mode; it is left as it is.
            inputs: What it takes.
            labels: The class of each input, whose logit is explained.

        Raises:
            ValueError: If no attributor can explain the model; the last reason is given.
        """
        before = self._badness(model, inputs, labels)
        named: list[dict[int, float]] = []
        gains = []
        reason: ValueError | None = None
        for name, voter in self.voters.items():
            try:
                every = voter.attribute(model, self._chosen_from, inputs, labels)
            except ValueError as error:
                # Captum's LRP explodes for some inputs and not for others.
                self.failures[name] += 1
                reason = error
                named.append({})
                gains.append(0.0)
                continue
            scores = every.double().mean(0)
            chosen = top_neurons(scores, self._chosen_from, self.top_m_neurons, exclude_last=False)
            named.append({column: float(scores[column]) for column in chosen})
            with ablated(model, self.layers, chosen):
                gains.append(self._badness(model, inputs, labels) - before)
        if reason is not None and not any(named):
            raise reason
        self.batches += 1
        weights = weigh(gains)
        if not any(weights):
            self.silent += 1
            return
        for name, weight in zip(self.voters, weights, strict=True):
            self.weights[name] += weight
        for column, points in rank(named, weights, self.keep).items():
            self.points[column] += points

    def top(self, most: int, layer: str | None = None) -> list[int]:
        """The columns of the neurons with most points, the best first.

        Raises:
            ValueError: If no batch had a vote, or as `top_neurons` does.
        """
        if self.batches == self.silent:
            raise ValueError(
                f"none of {self.batches} batches had a vote: taking neurons out changed nothing; "
                "name more of them (top_m_neurons), or weigh by the loss"
            )
        return top_neurons(self.points.double(), self.layers, most, layer=layer)

    @torch.no_grad()
    def _badness(self, model: nn.Module, inputs: Any, labels: Int[Tensor, " inputs"]) -> float:
        logits = logits_of(model, inputs)
        if self.gain == "accuracy":
            return float((logits.argmax(1) != labels).double().mean())
        return float(nn.functional.cross_entropy(logits.double(), labels))


def usable_voters(
    voters: Mapping[str, Attributor],
    model: nn.Module,
    layers: Layers,
    inputs: Any,
    labels: Int[Tensor, " inputs"],
) -> tuple[dict[str, Attributor], dict[str, str]]:
    """Parts attributors that can explain a model from those that cannot.

    Of the eight, DeepLIFT and captum's LRP refuse many models, such as torchvision's ResNets.

    Args:
        voters: Attributors by name.
        model: The model.
        layers: Layers of it.
        inputs: A few inputs to try them on.
        labels: The class of each.

    Returns:
        Those that can, and why each of the others cannot.

    Raises:
        ValueError: If none can; the first reason is given.
    """
    able: dict[str, Attributor] = {}
    reasons: dict[str, str] = {}
    for name, voter in voters.items():
        try:
            voter.attribute(model, layers, inputs, labels)
        except ValueError as error:
            reasons[name] = str(error)
        else:
            able[name] = voter
    if not able:
        raise ValueError(f"no attributor can vote: {next(iter(reasons.values()), 'none is given')}")
    return able, reasons


def weigh(gains: Sequence[float]) -> list[float]:
    """Each gain as a share of all; what is below zero or no number counts as zero.

    >>> weigh([3.0, -1.0, 1.0]), weigh([-1.0, 0.0])
    ([0.75, 0.0, 0.25], [0.0, 0.0])
    """
    positive = [gain if gain > 0 else 0.0 for gain in gains]
    total = sum(positive)
    return [gain / total if total else 0.0 for gain in positive]


def rank(
    named: Sequence[Mapping[int, float]], weights: Sequence[float], keep: int
) -> dict[int, int]:
    """Points of the best neurons of a batch: the last of them has one, the first the most.

    Args:
        named: The neurons that each attributor names, with their relevance.
        weights: The attributors' weights; one without weight is not heard.
        keep: How many neurons get points.

    >>> rank([{4: 1.0, 7: 0.5}, {7: 2.0, 9: 0.1}], [0.5, 0.5], keep=2)
    {7: 2, 4: 1}
    """
    scores: dict[int, float] = {}
    for one, weight in zip(named, weights, strict=True):
        if weight:
            for column, relevance in one.items():
                scores[column] = scores.get(column, 0.0) + weight * relevance
    best = sorted(scores, key=lambda column: (-scores[column], column))[:keep]
    return {column: len(best) - place for place, column in enumerate(best)}
