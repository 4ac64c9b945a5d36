"""Importance-driven coverage (IDC): which combinations of important neurons' clusters are seen.

DeepImportance (Gerasimou et al., ICSE 2020, doi:10.1145/3377811.3380391): the activations of each
important neuron over the training set fall into clusters; an input belongs to the nearest cluster
of each neuron, and coverage is the share of all combinations of clusters that a test set reaches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.coverage.clustering import cluster
from aim_plugins.coverage.criteria.criterion import NETWORK, Batch, OpenUnits, hash_rows
from aim_plugins.coverage.layers import Layers

LISTABLE = 1_000_000
"""Up to so many combinations, those not covered can be listed."""

_LARGEST_CODE = 2**63 - 1


@dataclass(frozen=True)
class ImportantNeurons:
    """Neurons, each with the centres of its clusters.

    Attributes:
        columns: The neurons, the most important first.
        centres: The centres of each, ascending.
        label: What they are important for: a layer, a class, or the network.
    """

    columns: tuple[int, ...]
    centres: tuple[tuple[float, ...], ...]
    label: str = NETWORK

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of clusters of each neuron."""
        return tuple(map(len, self.centres))

    @property
    def combinations(self) -> int:
        """Number of all combinations of clusters."""
        return math.prod(self.counts)

    def combinations_of(
        self, neurons: Float[Tensor, "inputs all"]
    ) -> Int[Tensor, "inputs important"]:
        """The cluster of each important neuron: that of the nearest centre, of two the lower."""
        columns = []
        for column, centres in zip(self.columns, self.centres, strict=True):
            ends = torch.tensor(middles(centres), dtype=torch.float64)
            columns.append(torch.bucketize(neurons[:, column].double().contiguous(), ends))
        return torch.stack(columns, 1)

    def to_json(self, layers: Layers) -> dict[str, Any]:
        """What `from_json` reads, also by eye: a layer, an index and centres for each neuron."""
        neurons = []
        for column, centres in zip(self.columns, self.centres, strict=True):
            layer, index = layers.locate(column)
            neurons.append({"layer": layer, "index": index, "centres": list(centres)})
        return {"label": self.label, "neurons": neurons}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], layers: Layers) -> ImportantNeurons:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: If the layers lack one of the neurons, as those of another model do, or the
                content has another form.
        """
        try:
            rows = [(one["layer"], one["index"], one["centres"]) for one in content["neurons"]]
            centres = tuple(tuple(map(float, row[2])) for row in rows)
            label = str(content["label"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"important neurons: {type(error).__name__} {error}: each has 'layer', 'index' and "
                "'centres', and all have a 'label'"
            ) from error
        if not rows or any(not one or list(one) != sorted(one) for one in centres):
            raise ValueError("important neurons: each has its centres in ascending order")
        return cls(tuple(layers.column(layer, index) for layer, index, _ in rows), centres, label)

    def to_tensors(self) -> dict[str, Tensor]:
        """Columns, centres in a row and their numbers, as `from_tensors` reads them."""
        flat = [centre for centres in self.centres for centre in centres]
        return {
            "columns": torch.tensor(self.columns, dtype=torch.int64),
            "centres": torch.tensor(flat, dtype=torch.float64),
            "counts": torch.tensor(self.counts, dtype=torch.int64),
        }

    @classmethod
    def from_tensors(cls, state: Mapping[str, Tensor], label: str = NETWORK) -> ImportantNeurons:
        """Reads what `to_tensors` returned."""
        parts = state["centres"].split(state["counts"].tolist())
        centres = tuple(tuple(part.tolist()) for part in parts)
        return cls(tuple(state["columns"].tolist()), centres, label)


def find_clusters(
    neurons: Float[Tensor, "inputs all"],
    columns: Sequence[int],
    k: int | Sequence[int] = (2, 3, 4),
    label: str = NETWORK,
) -> ImportantNeurons:
    """Clusters the training activations of important neurons.

    Args:
        neurons: Activations over the training inputs.
        columns: The important neurons.
        k: How many clusters each has, or numbers to choose from by silhouette; DeepImportance tries
            2 to 4. A neuron with fewer distinct activations has fewer, a dead one has one.
        label: What the neurons are important for.

    Raises:
        ValueError: If there is no neuron, or fewer inputs than clusters.
    """
    if not columns:
        raise ValueError(f"{label}: there is no important neuron to cluster")
    centres = tuple(cluster(neurons[:, column].numpy(), k).centres for column in columns)
    return ImportantNeurons(tuple(columns), centres, label)


class IDC(OpenUnits):
    """Importance-driven coverage.

    One instance each for a layer, a class and the network tells them apart; `important.label` says
    what it is about.

    Args:
        layers: The neurons that batches have.
        important: The important ones.
    """

    name = "IDC"
    summary = "share of the combinations of important neurons' clusters"
    source = "Gerasimou et al., ICSE 2020, doi:10.1145/3377811.3380391"

    def __init__(self, layers: Layers, important: ImportantNeurons) -> None:
        super().__init__((important.label,))
        self.layers, self.important = layers, important

    @property
    def label(self) -> str:
        """What the neurons are important for."""
        return self.important.label

    @property
    def total(self) -> int:
        """Number of all combinations, however large."""
        return self.important.combinations

    @property
    def _about(self) -> str:
        # Thousands of neurons have more combinations than a float can hold.
        return f"about 10^{math.log10(self.total):.0f}"

    @property
    def is_decodable(self) -> bool:
        """Whether units number combinations; of too many, they are hashes of them."""
        return self.total <= _LARGEST_CODE

    def units(self, batch: Batch) -> Int[Tensor, "inputs 1"]:
        combinations = self.important.combinations_of(batch.neurons)
        codes = self.encode(combinations) if self.is_decodable else hash_rows(combinations)
        missing = batch.neurons[:, list(self.important.columns)].isnan().any(1)
        return codes.masked_fill(missing, -1)[:, None]

    def encode(self, combinations: Int[Tensor, "inputs important"]) -> Int[Tensor, " inputs"]:
        """Numbers combinations: the digits of a number, whose bases are the numbers of clusters."""
        codes = torch.zeros(len(combinations), dtype=torch.int64)
        for digits, base in zip(combinations.T, self.important.counts, strict=True):
            codes = codes * base + digits
        return codes

    def decode(self, code: int) -> tuple[int, ...]:
        """The cluster of each important neuron in a combination.

        Raises:
            ValueError: If there are too many combinations to number them, or fewer than that.
        """
        if not self.is_decodable:
            raise ValueError(
                f"IDC of {self.label}: {self._about} combinations are kept as hashes, and none "
                "can be named; choose fewer neurons or clusters"
            )
        if not 0 <= code < self.total:
            raise ValueError(f"IDC of {self.label}: combination {code} is none of {self.total}")
        digits = []
        for base in reversed(self.important.counts):
            code, digit = divmod(code, base)
            digits.append(digit)
        return tuple(reversed(digits))

    def describe(self, code: int) -> str:
        """Names a combination: the range of each important neuron's activation.

        Raises:
            ValueError: As `decode` does.
        """
        parts = []
        important = self.important
        rows = zip(important.columns, important.centres, self.decode(code), strict=True)
        for column, centres, place in rows:
            parts.append(describe_cluster(self.layers.neuron_name(column), centres, place))
        return ", ".join(parts)

    @property
    def covered(self) -> list[int]:
        """The combinations seen, ascending."""
        return self.found[0].tolist()

    def uncovered(self) -> Iterator[int]:
        """The combinations not seen, ascending.

        Raises:
            ValueError: If there are more than `LISTABLE` in all.
        """
        if self.total > LISTABLE:
            raise ValueError(
                f"IDC of {self.label}: {self._about} combinations are too many to list those "
                f"not covered (at most {LISTABLE}); choose fewer neurons or clusters"
            )
        seen = set(self.covered)
        return (code for code in range(self.total) if code not in seen)

    @property
    def worth(self) -> float:
        return 1 / self.total

    @property
    def value(self) -> float:
        return len(self.found[0]) / self.total

    def ceiling(self, inputs: int) -> float:
        return min(inputs, self.total) / self.total

    def by_layer(self) -> dict[str, float]:
        return {self.label: self.value}

    def relative_to(self, training: IDC) -> float:
        """Combinations seen, per combination that the training set reaches.

        The training set itself seldom reaches all of them. Above 1 a test set reaches more than it.

        Raises:
            ValueError: If the other has other neurons or clusters, or has seen nothing.
        """
        self._check_same(training)
        if not training.covered:
            raise ValueError(f"IDC of {self.label}: the training set has reached no combination")
        return len(self.found[0]) / len(training.found[0])

    def merge(self, other: OpenUnits) -> None:
        self._check_same(other)
        super().merge(other)

    def _check_same(self, other: OpenUnits) -> None:
        if not isinstance(other, IDC) or other.important != self.important:
            raise ValueError(
                f"IDC of {self.label} and of {other.groups[0]} have other neurons or clusters, so "
                "that their combinations cannot be compared"
            )


def middles(centres: Sequence[float]) -> list[float]:
    """Where clusters meet: halfway between neighbouring centres."""
    return [(low + high) / 2 for low, high in zip(centres, centres[1:], strict=False)]


def describe_cluster(neuron: str, centres: Sequence[float], place: int) -> str:
    """Names the range of activations of a cluster.

    >>> [describe_cluster("fc:5", (0.0, 1.0, 4.0), place) for place in range(3)]
    ['fc:5 ≤ 0.5', '0.5 < fc:5 ≤ 2.5', 'fc:5 > 2.5']
    >>> describe_cluster("fc:5", (0.0,), 0)
    'fc:5 any'
    """
    ends = [f"{end:.3g}" for end in middles(centres)]
    if not ends:
        return f"{neuron} any"
    if place == 0:
        return f"{neuron} ≤ {ends[0]}"
    if place == len(ends):
        return f"{neuron} > {ends[-1]}"
    return f"{ends[place - 1]} < {neuron} ≤ {ends[place]}"
