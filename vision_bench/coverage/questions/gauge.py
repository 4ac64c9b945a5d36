"""Coverage of many suites that share most of their inputs, and the neurons they are drawn from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.reference import Reference
from aim_plugins.coverage.registry import make_criteria
from aim_plugins.coverage.settings import CriteriaSettings
from vision_bench.coverage.subject import Seen

_ROWS = 256
"""Inputs that criteria take at a time."""

Values = dict[str, float]
"""Coverage by label."""

Seal = dict[str, tuple[dict[str, Tensor], int]]
"""What criteria have seen, by label: their state, and the number of inputs."""


class Gauge:
    """All criteria at once, which can go back to what they had seen before.

    Args:
        reference: What they know of the training set.
        settings: Which ones.
    """

    def __init__(self, reference: Reference, settings: CriteriaSettings) -> None:
        self.criteria = make_criteria(reference, settings)
        self.empty = self.seal()

    def update(self, batch: Batch) -> None:
        """Takes inputs in."""
        for start in range(0, len(batch), _ROWS):
            part = slice(start, start + _ROWS)
            piece = Batch(batch.neurons[part], batch.classes[part])
            for one in self.criteria.values():
                one.update(piece)

    def seal(self) -> Seal:
        """What the criteria have seen."""
        return {
            label: ({name: tensor.clone() for name, tensor in one.state().items()}, one.inputs)
            for label, one in self.criteria.items()
        }

    def go_back(self, seal: Seal) -> None:
        """Forgets what was seen since."""
        for label, one in self.criteria.items():
            state, inputs = seal[label]
            one.load_state({name: tensor.clone() for name, tensor in state.items()})
            one.inputs = inputs

    @property
    def values(self) -> Values:
        """Coverage by what was seen."""
        return {label: float(one.value) for label, one in self.criteria.items()}


def joined(*batches: Batch) -> Batch:
    """Several batches as one, in their order."""
    neurons = torch.cat([one.neurons for one in batches])
    return Batch(neurons, torch.cat([one.classes for one in batches]))


@dataclass(frozen=True)
class Pool:
    """Images that suites are drawn from, as the criteria see them.

    Attributes:
        positions: Where they stand in their data set.
        neurons: Their activations.
        predicted: The classes that the model predicts.
        labels: The true ones.
        by_label: Whether surprise compares by the label rather than by what is predicted.
    """

    positions: Int[Tensor, " images"]
    neurons: Float[Tensor, "images neurons"]
    predicted: Int[Tensor, " images"]
    labels: Int[Tensor, " images"]
    by_label: bool = False

    @classmethod
    def read(
        cls, seen: Iterable[Seen], labels: Int[Tensor, " data"], settings: CriteriaSettings
    ) -> Pool:
        """Reads it from passes of the model.

        Args:
            seen: What they say.
            labels: Those of the whole data set.
            settings: Whose `compat` says by what surprise compares.

        Raises:
            ValueError: If there is no image.
        """
        parts = [(one.positions, one.batch.neurons, one.batch.classes) for one in seen]
        if not parts:
            raise ValueError("the data set holds no usable image: give one that does")
        positions, neurons, predicted = (torch.cat(one) for one in zip(*parts, strict=True))
        return cls(positions, neurons, predicted, labels[positions], settings.compat != "none")

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def right(self) -> Bool[Tensor, " images"]:
        """Which images are classified correctly."""
        return self.predicted == self.labels

    def batch(self, rows: Int[Tensor, " rows"]) -> Batch:
        """Some of the images."""
        classes = self.labels if self.by_label else self.predicted
        return Batch(self.neurons[rows], classes[rows])

    def rows_of(self, positions: Int[Tensor, " chosen"]) -> Int[Tensor, " rows"]:
        """Where images of the data set stand here; those that do not are left out."""
        places = {position: row for row, position in enumerate(self.positions.tolist())}
        found = [places[one] for one in positions.tolist() if one in places]
        return torch.tensor(found, dtype=torch.int64)
