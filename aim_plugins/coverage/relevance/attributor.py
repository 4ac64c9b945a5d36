"""What every attributor is: for each input, how much each neuron adds to a logit."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aim_plugins.coverage.activations import channel_dim_of, neuron_means
from aim_plugins.coverage.layers import Layers
from aim_plugins.modulation.hooks import find_module
from aim_plugins.modulation.sites import split_site


class Attributor(abc.ABC):
    """Scores neurons by their share in a logit.

    Args:
        reduction: How the positions of a channel become one score. "mean", as its activation is,
            makes convolutions comparable with what `Layers` calls a neuron. "sum" adds up to the
            layer's relevance, so that wide feature maps are worth as much as they contribute; the
            order within a layer is the same.

    Attributes:
        name: The name in the registry.
        summary: What the score is, in a line.
        source: The paper.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]

    def __init__(self, reduction: str = "mean") -> None:
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction={reduction!r} is unknown: write 'mean' or 'sum'")
        self.reduction = reduction

    @abc.abstractmethod
    def attribute(
        self, model: nn.Module, layers: Layers, inputs: Any, targets: Int[Tensor, " inputs"]
    ) -> Float[Tensor, "inputs neurons"]:
        """Scores of all neurons.

        Args:
            model: A classifier, in eval mode; it is left as it is.
            layers: Layers of it.
            inputs: What the model takes: a tensor, or its arguments by name.
            targets: The class of each input whose logit is explained.

        Raises:
            ValueError: If this attributor cannot explain the model; another one is named.
        """

    def attribute_correct(
        self, model: nn.Module, layers: Layers, inputs: Any, labels: Int[Tensor, " inputs"]
    ) -> tuple[Float[Tensor, "correct neurons"], Int[Tensor, " correct"]]:
        """Scores of the inputs that the model classifies correctly, and their classes.

        Raises:
            ValueError: As `attribute` does.
        """
        with torch.no_grad():
            correct = logits_of(model, inputs).argmax(1) == labels
        if not correct.any():
            return torch.zeros(0, layers.neurons), labels[correct]
        chosen = choose_inputs(inputs, correct)
        return self.attribute(model, layers, chosen, labels[correct]), labels[correct]

    def reduce(
        self, model: nn.Module, site: str, scores: Float[Tensor, "inputs ..."]
    ) -> Float[Tensor, "inputs neurons"]:
        """One score for each neuron of a layer, float32 on the CPU, from one for each position."""
        dim = channel_dim_of(find_module(model, split_site(site)[0]))
        means = neuron_means(scores.detach().float(), dim)
        positions = scores[0].numel() // means.shape[1] if self.reduction == "sum" else 1
        return (means * positions).cpu()


def logits_of(model: nn.Module, inputs: Any) -> Float[Tensor, "inputs classes"]:
    """What a classifier returns for inputs.

    Args:
        model: A classifier, or a model of transformers whose output has `logits`.
        inputs: A tensor, or the model's arguments by name.

    Raises:
        ValueError: If that is no matrix of logits.
    """
    output = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"{type(model).__name__} returns {shape}, and relevance starts at one logit of "
            "[inputs, classes]: wrap the model such that it returns those"
        )
    return logits


def choose_inputs(inputs: Any, chosen: Tensor) -> Any:
    """Some of the inputs, of a tensor or of arguments by name."""
    if isinstance(inputs, Mapping):
        return {name: value[chosen] for name, value in inputs.items()}
    return inputs[chosen]


def check_scores(scores: Float[Tensor, "inputs neurons"], layers: Layers, name: str) -> None:
    """Refuses scores that are not finite.

    Raises:
        ValueError: If there is one; its neuron is named.
    """
    if bad := (~scores.isfinite()).any(0).nonzero().flatten().tolist():
        raise ValueError(
            f"attributor={name!r} finds no finite relevance for {len(bad)} neurons (first: "
            f"{layers.neuron_name(bad[0])}): check the weights, or choose another attributor"
        )
