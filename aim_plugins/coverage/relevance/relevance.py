"""Relevance of every neuron over a training set, in all and of each class.

DeepImportance (Gerasimou et al., ICSE 2020, doi:10.1145/3377811.3380391) sums each neuron's
relevance over the training inputs that the network classifies correctly, started at the predicted
logit, and calls the neurons with the highest sums important.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.relevance.attributor import Attributor
from aim_plugins.coverage.relevance.gradient import LRPEpsilon


@dataclass
class Relevance:
    """Sums of relevance, which batches add to in any order.

    Attributes:
        layers: The neurons.
        scores: Relevance of each neuron, summed over the correctly classified inputs of a class.
        counts: Number of those inputs.
        inputs: Number of all inputs, wrongly classified ones too.
    """

    layers: Layers
    scores: Float[Tensor, "classes neurons"]
    counts: Int[Tensor, " classes"]
    inputs: int = 0

    @classmethod
    def empty(cls, layers: Layers, classes: int) -> Relevance:
        """Before the first batch."""
        scores = torch.zeros(classes, layers.neurons, dtype=torch.float64)
        return cls(layers, scores, torch.zeros(classes, dtype=torch.int64))

    def add(self, scores: Float[Tensor, "inputs neurons"], classes: Int[Tensor, " inputs"]) -> None:
        """Takes in the relevance of correctly classified inputs.

        Args:
            scores: What an attributor returned.
            classes: The class of each input.
        """
        classes = classes.cpu()
        # In float64 the order of a million summands moves a sum by less than a float32 rounds.
        self.scores.index_add_(0, classes, scores.double().cpu())
        self.counts += torch.bincount(classes, minlength=len(self.counts))

    def combine(self, other: Relevance) -> None:
        """Takes in what was found on other inputs.

        Raises:
            ValueError: If it is about other neurons or classes.
        """
        if other.layers != self.layers or other.scores.shape != self.scores.shape:
            raise ValueError(
                f"relevance of {tuple(other.scores.shape)} (classes, neurons) belongs to another "
                f"model or other layers than that of {tuple(self.scores.shape)}"
            )
        self.scores = self.scores + other.scores
        self.counts = self.counts + other.counts
        self.inputs += other.inputs

    @property
    def total(self) -> Float[Tensor, " neurons"]:
        """Relevance of each neuron over all classes."""
        return self.scores.sum(0)

    def of_class(self, index: int) -> Float[Tensor, " neurons"]:
        """Relevance of each neuron for the inputs of a class.

        Raises:
            ValueError: If there is no such class, or none of its inputs was classified correctly.
        """
        if not 0 <= index < len(self.counts):
            raise ValueError(f"class={index}: there are classes 0 to {len(self.counts) - 1}")
        if self.counts[index] == 0:
            raise ValueError(
                f"class={index}: the model classified none of its inputs correctly, so that it has "
                "no important neurons: give more training inputs, or leave the class out"
            )
        return self.scores[index]

    def top(
        self,
        most: int,
        *,
        layer: str | None = None,
        class_index: int | None = None,
        exclude_last: bool = True,
    ) -> list[int]:
        """The columns of the most relevant neurons, the best first; see `top_neurons`.

        Args:
            most: How many.
            layer: The layer to choose from; by default all.
            class_index: The class to which they matter; by default all.
            exclude_last: Leaves the last layer out, unless it is the one to choose from.

        Raises:
            ValueError: If no input was classified correctly, or as `top_neurons` and `of_class` do.
        """
        if self.counts.sum() == 0:
            raise ValueError(
                f"none of {self.inputs} inputs was classified correctly, so that no neuron is "
                "important: check the labels and the preprocessing"
            )
        scores = self.total if class_index is None else self.of_class(class_index)
        return top_neurons(scores, self.layers, most, layer=layer, exclude_last=exclude_last)

    def state(self) -> dict[str, Tensor]:
        """What `from_state` reads."""
        return {
            "scores": self.scores,
            "counts": self.counts,
            "inputs": torch.tensor(self.inputs, dtype=torch.int64),
        }

    @classmethod
    def from_state(cls, layers: Layers, state: Mapping[str, Tensor]) -> Relevance:
        """Reads what `state` returned.

        Raises:
            ValueError: If it is about other neurons.
        """
        if state["scores"].shape[1] != layers.neurons:
            raise ValueError(
                f"relevance of {state['scores'].shape[1]} neurons does not fit layers with "
                f"{layers.neurons}: it belongs to another model or other layers"
            )
        return cls(layers, state["scores"], state["counts"], int(state["inputs"]))


def measure_relevance(
    model: nn.Module,
    layers: Layers,
    batches: Iterable[tuple[Any, Tensor]],
    classes: int,
    attributor: Attributor | None = None,
    progress: Callable[[int], object] | None = None,
) -> Relevance:
    """Sums relevance over the inputs that a model classifies correctly.

    Args:
        model: The model, in eval mode.
        layers: Layers of it.
        batches: Inputs, as the model takes them, with their labels; on the model's device.
        classes: Number of classes.
        attributor: Scores neurons; by default LRP-ε.
        progress: Called with the number of inputs after each batch.

    Raises:
        ValueError: If a label is none of the classes, or the attributor cannot explain the model.
    """
    attributor = attributor or LRPEpsilon()
    relevance = Relevance.empty(layers, classes)
    for inputs, labels in batches:
        if bool(((labels < 0) | (labels >= classes)).any()):
            raise ValueError(
                f"labels go from {int(labels.min())} to {int(labels.max())}, and the model has "
                f"{classes} classes"
            )
        relevance.add(*attributor.attribute_correct(model, layers, inputs, labels))
        relevance.inputs += len(labels)
        if progress is not None:
            progress(relevance.inputs)
    return relevance


def top_neurons(
    scores: Float[Tensor, " neurons"],
    layers: Layers,
    most: int,
    *,
    layer: str | None = None,
    exclude_last: bool = True,
) -> list[int]:
    """The columns of the highest scores, the best first; of equal ones, the first columns.

    A layer with fewer neurons gives all of them.

    Args:
        scores: A score for each neuron.
        layers: The neurons.
        most: How many to choose.
        layer: The layer to choose from; by default all.
        exclude_last: Leaves the last layer out, whose neurons are the logits, unless it is `layer`.

    Raises:
        ValueError: If `most` is less than 1, there is no such layer, or leaving the last layer out
            leaves none.
    """
    if most < 1:
        raise ValueError(f"top_m_neurons={most}: choose at least one neuron")
    allowed = _allowed(layers, layer, exclude_last)
    ranked = torch.where(allowed, scores.double(), -torch.inf)
    order = torch.sort(ranked, descending=True, stable=True).indices
    return order[: min(most, int(allowed.sum()))].tolist()


def _allowed(layers: Layers, layer: str | None, exclude_last: bool) -> Bool[Tensor, " neurons"]:
    allowed = torch.ones(layers.neurons, dtype=torch.bool)
    if layer is not None:
        place = layers[layer]
        allowed[: place.start] = False
        allowed[place.stop :] = False
    elif exclude_last:
        if len(layers.names) == 1:
            raise ValueError(
                f"{layers.names[0]!r} is the only layer, and as the last one it is left out: name "
                "it as the layer, or look at more layers"
            )
        allowed[layers.slices[-1]] = False
    return allowed
