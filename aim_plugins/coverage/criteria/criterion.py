"""What every coverage criterion is: it sees batches of neurons, merges, and has a value.

Most criteria count units that inputs reach: neurons, buckets of a neuron's range, patterns. They
derive from `FixedUnits` where all units are known beforehand, so that coverage is a share, and from
`OpenUnits` where they are not, so that it is a count. Either way an input reaches the same units
whatever else is in the batch, so values depend on neither order nor batch size, and the units of
two parts of a data set are those of the whole.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from aim_plugins.coverage.layers import Layers

NETWORK = "network"
"""The group of units that belong to no single layer."""


@dataclass(frozen=True)
class Batch:
    """What criteria see of a batch of inputs.

    Attributes:
        neurons: Activation of each neuron, all layers side by side, on the CPU.
        classes: The class of each input, by which surprise compares it: what the model predicts.
    """

    neurons: Float[Tensor, "inputs neurons"]
    classes: Int[Tensor, " inputs"]
    _made: dict[Hashable, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.neurons)

    def once(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What several criteria need of this batch, made when the first asks for it."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


class Criterion(abc.ABC):
    """A coverage criterion with what it has seen so far.

    Attributes:
        name: Its name in the literature, such as "KMNC".
        summary: What it counts, in a line.
        source: The paper, with section or equation.
        inputs: Number of inputs seen.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]

    inputs: int = 0

    def update(self, batch: Batch) -> None:
        """Takes inputs in."""
        self.see(batch)
        self.inputs += len(batch)

    @abc.abstractmethod
    def see(self, batch: Batch) -> None:
        """Takes inputs in, as a subclass does."""

    @property
    @abc.abstractmethod
    def value(self) -> float:
        """Coverage: a share of `total`, or a count where nothing bounds it."""

    @abc.abstractmethod
    def ceiling(self, inputs: int) -> float:
        """The largest value that any `inputs` inputs can reach; inf where nothing bounds it."""

    @abc.abstractmethod
    def by_layer(self) -> Mapping[str, float]:
        """Coverage of each layer alone; of criteria of the whole network, only `NETWORK`."""

    @abc.abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What was seen, as tensors."""

    @abc.abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state` returned; `inputs` is set by the caller."""

    def combine(self, other: Any) -> None:
        """Takes in what another one of the same kind has seen, of other inputs."""
        self.merge(other)
        self.inputs += other.inputs

    @abc.abstractmethod
    def merge(self, other: Any) -> None:
        """Takes in what another one has seen, as a subclass does."""


class UnitCriterion(Criterion):
    """A criterion that counts units which inputs reach."""

    @property
    def worth(self) -> float:
        """What one more unit adds to the value."""
        return 1.0

    @abc.abstractmethod
    def units(self, batch: Batch) -> Int[Tensor, "inputs marks"]:
        """The units that each input reaches; -1 fills places of inputs that reach fewer."""

    @abc.abstractmethod
    def is_covered(self, units: Int[Tensor, "inputs marks"]) -> Bool[Tensor, "inputs marks"]:
        """Which units of `units` were reached before; places filled with -1 count as reached."""


class FixedUnits(UnitCriterion):
    """Units that are known beforehand and lie layer after layer; coverage is a share of them.

    Args:
        groups: Names of the layers.
        counts: Number of units of each.
    """

    def __init__(self, groups: Sequence[str], counts: Sequence[int]) -> None:
        self.groups, self.counts = tuple(groups), tuple(counts)
        self.reached: Bool[Tensor, " units"] = torch.zeros(sum(self.counts), dtype=torch.bool)

    def see(self, batch: Batch) -> None:
        units = self.units(batch).flatten().numpy()
        # NumPy writes a million places in a fifth of the time.
        self.reached.numpy()[units[units >= 0]] = True

    def is_covered(self, units: Int[Tensor, "inputs marks"]) -> Bool[Tensor, "inputs marks"]:
        return self.reached[units.clamp(min=0)] | (units < 0)

    @property
    def worth(self) -> float:
        return 1 / max(1, len(self.reached))

    @property
    def value(self) -> float:
        return int(self.reached.sum()) / max(1, len(self.reached))

    def ceiling(self, inputs: int) -> float:
        return 1.0

    def by_layer(self) -> dict[str, float]:
        parts = self.reached.split(list(self.counts))
        return {
            group: int(part.sum()) / max(1, len(part))
            for group, part in zip(self.groups, parts, strict=True)
        }

    def state(self) -> dict[str, Tensor]:
        return {"reached": torch.from_numpy(np.packbits(self.reached.numpy()))}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        bits = np.unpackbits(state["reached"].numpy(), count=len(self.reached))
        self.reached = torch.from_numpy(bits.astype(bool))

    def merge(self, other: FixedUnits) -> None:
        self.reached |= other.reached


class OpenUnits(UnitCriterion):
    """Units that nobody can list beforehand, such as patterns; coverage is their number.

    An input reaches one unit of each group (or none, -1), named by a whole number.

    Args:
        groups: Names of the layers, or `NETWORK` alone.
    """

    def __init__(self, groups: Sequence[str] = (NETWORK,)) -> None:
        self.groups = tuple(groups)
        empty = torch.empty(0, dtype=torch.int64)
        self.found: list[Int[Tensor, " units"]] = [empty for _ in self.groups]

    def see(self, batch: Batch) -> None:
        for group, units in enumerate(self.units(batch).T):
            self.found[group] = torch.unique(torch.cat([self.found[group], units[units >= 0]]))

    def is_covered(self, units: Int[Tensor, "inputs marks"]) -> Bool[Tensor, "inputs marks"]:
        columns = [torch.isin(column, one) for column, one in zip(units.T, self.found, strict=True)]
        return torch.stack(columns, 1) | (units < 0)

    @property
    def value(self) -> float:
        return float(sum(map(len, self.found)))

    def ceiling(self, inputs: int) -> float:
        return float(inputs * len(self.groups))

    def by_layer(self) -> dict[str, float]:
        return {group: float(len(one)) for group, one in zip(self.groups, self.found, strict=True)}

    def state(self) -> dict[str, Tensor]:
        return {f"found.{place}": one for place, one in enumerate(self.found)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.found = [state[f"found.{place}"] for place in range(len(self.groups))]

    def merge(self, other: OpenUnits) -> None:
        pairs = zip(self.found, other.found, strict=True)
        self.found = [torch.unique(torch.cat(pair)) for pair in pairs]


def layer_units(layers: Layers, each: int = 1) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Groups and counts of `FixedUnits` with as many units for each neuron."""
    return layers.names, tuple(size * each for size in layers.sizes)


def hash_rows(rows: Shaped[Tensor, "inputs columns"]) -> Int[Tensor, " inputs"]:
    """Names each row of whole numbers by 63 bits of its BLAKE2b digest.

    Two of a million different rows meet with a probability of 5e-8.
    """
    content = np.ascontiguousarray(rows.to(torch.int64).numpy())
    width, whole = content.shape[1] * content.itemsize, content.tobytes()
    digests = (
        hashlib.blake2b(whole[row * width : (row + 1) * width], digest_size=8).digest()
        for row in range(len(content))
    )
    numbers = np.frombuffer(b"".join(digests), dtype="<u8") >> np.uint64(1)
    return torch.from_numpy(numbers.astype(np.int64))
