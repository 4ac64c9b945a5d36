"""Learns a reference from training inputs: two passes of the model, and one with gradients.

The first pass reads ranges, traces and moments, the one with gradients scores neurons, and the last
reads the activations of those that matter, whose clusters IDC counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.coverage.criteria.combinations import IDC, find_clusters
from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.reference import ImportantSet, Reached
from aim_plugins.coverage.relevance.relevance import Relevance, top_neurons
from aim_plugins.coverage.results import END2END
from aim_plugins.coverage.settings import ImportanceSettings


@dataclass(frozen=True)
class Chosen:
    """Neurons that matter to something.

    Attributes:
        label: To what.
        columns: The neurons, the most important first.
        class_index: The class, if it is one.
    """

    label: str
    columns: tuple[int, ...]
    class_index: int | None = None


def subject_layer(layers: Layers, index: int) -> str:
    """The layer that IDC looks at.

    Args:
        layers: All layers.
        index: Its number, counted from 1, or from the end by negative numbers.

    Raises:
        ValueError: If there is none.
    """
    count = len(layers.names)
    if not 1 <= abs(index) <= count:
        raise ValueError(
            f"layer_index={index}: the model has {count} layers, 1 ({layers.names[0]}) to {count} "
            f"({layers.names[-1]})"
        )
    return layers.names[index - 1 if index > 0 else index]


def choose_neurons(
    layers: Layers,
    scores: Float[Tensor, " neurons"] | Relevance,
    settings: ImportanceSettings,
    classes: Sequence[str],
) -> list[Chosen]:
    """The sets of neurons whose combinations are counted, that of the subject layer first.

    Classes of fewer correctly classified training inputs than clusters are left out.

    Args:
        layers: All layers.
        scores: A score for each neuron, or relevance by class.
        settings: Which sets are wanted.
        classes: Names of the classes.

    Raises:
        ValueError: If there is no such layer, scores by class are wanted where there are none, or
            no training input was classified correctly.
    """
    most, subject = settings.top_m_neurons, subject_layer(layers, settings.layer_index)

    def top(layer: str | None, class_index: int | None = None) -> tuple[int, ...]:
        if isinstance(scores, Relevance):
            return tuple(scores.top(most, layer=layer, class_index=class_index))
        return tuple(top_neurons(scores, layers, most, layer=layer))

    found = [Chosen(subject, top(subject))]
    if settings.layer_by_layer:
        found += [Chosen(name, top(name)) for name in layers.names if name != subject]
    if settings.end2end:
        found.append(Chosen(END2END, top(None)))
    if settings.all_class:
        if not isinstance(scores, Relevance):
            raise ValueError(
                "all_class needs relevance by class, which a file of scores lacks: leave "
                "importance_file out, or all_class"
            )
        counts = scores.counts.tolist()
        # Fewer make no clusters, and one rare class is no reason to measure nothing.
        least = min(np.atleast_1d(settings.clusters).tolist())
        found += [
            Chosen(f"class {name}", top(subject, index), index)
            for index, name in enumerate(classes)
            if counts[index] >= least
        ]
    return found


@dataclass(frozen=True, eq=False)
class Values:
    """Activations of chosen neurons for all training inputs.

    Attributes:
        columns: The neurons, ascending.
        activations: Of each input.
        classes: The class of each input.
        positions: Where each input stands in the training set.
    """

    columns: tuple[int, ...]
    activations: Float[Tensor, "inputs columns"]
    classes: Int[Tensor, " inputs"]
    positions: Int[Tensor, " inputs"]

    @classmethod
    def read(
        cls, chosen: Sequence[Chosen], batches: Iterable[tuple[Int[Tensor, " inputs"], Batch]]
    ) -> Values:
        """Reads them from batches and their positions."""
        columns = tuple(sorted({column for one in chosen for column in one.columns}))
        parts = [
            (batch.neurons[:, list(columns)], batch.classes, positions)
            for positions, batch in batches
        ]
        activations, classes, positions = (torch.cat(one) for one in zip(*parts, strict=True))
        return cls(columns, activations, classes, positions)


def cluster_sets(
    layers: Layers,
    chosen: Sequence[Chosen],
    values: Values,
    clusters: int | tuple[int, ...],
    progress: Callable[[int], object] = lambda count: None,
) -> list[ImportantSet]:
    """Clusters the training activations of each set, and counts what training inputs reach.

    Args:
        layers: All layers.
        chosen: The sets.
        values: Training activations of their neurons.
        clusters: How many clusters each neuron has, or numbers to choose from by silhouette.
        progress: Called with 1 after each set.

    Raises:
        ValueError: If there are fewer inputs than clusters.
    """
    sets = []
    place = {column: index for index, column in enumerate(values.columns)}
    for one in chosen:
        rows = torch.ones(len(values.classes), dtype=torch.bool)
        if one.class_index is not None:
            rows = values.classes == one.class_index
        own = values.activations[rows][:, [place[column] for column in one.columns]]
        found = find_clusters(own, range(len(one.columns)), clusters, one.label)
        neurons = type(found)(one.columns, found.centres, one.label)
        idc = IDC(Layers(("own",), (len(one.columns),)), found)
        codes = idc.units(Batch(own, values.classes[rows]))[:, 0]
        sets.append(ImportantSet(neurons, _count(codes, values.positions[rows]), one.class_index))
        progress(1)
    return sets


def _count(codes: Int[Tensor, " inputs"], positions: Int[Tensor, " inputs"]) -> Reached:
    found, inverse, counts = torch.unique(codes, return_inverse=True, return_counts=True)
    examples = torch.full((len(found),), torch.iinfo(torch.int64).max)
    examples.scatter_reduce_(0, inverse, positions, "amin")
    return Reached(found, counts, examples)
