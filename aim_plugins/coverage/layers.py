"""The neurons of a network: its layers side by side, one column for each neuron."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from aim_plugins.core.errors import did_you_mean


@dataclass(frozen=True)
class Layers:
    """Layers in the order in which a forward pass reaches them.

    Attributes:
        names: Their sites, see `aim_plugins.modulation.hooks`.
        sizes: Number of neurons of each.

    >>> layers = Layers(("conv", "fc"), (6, 10))
    >>> layers.neurons, layers.neuron_name(8), layers["fc"]
    (16, 'fc:2', slice(6, 16, None))
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def neurons(self) -> int:
        """Number of neurons of all layers."""
        return sum(self.sizes)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The columns of each layer."""
        ends = list(accumulate(self.sizes))
        return tuple(slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True))

    def __getitem__(self, name: str) -> slice:
        """The columns of a layer.

        Raises:
            ValueError: If there is none of this name.
        """
        if name not in self.names:
            raise ValueError(f"layer={name!r}: {did_you_mean(name, self.names)}")
        return self.slices[self.names.index(name)]

    def locate(self, neuron: int) -> tuple[str, int]:
        """The layer of a neuron, and its place there."""
        for name, place in zip(self.names, self.slices, strict=True):
            if place.start <= neuron < place.stop:
                return name, neuron - place.start
        raise IndexError(f"neuron {neuron} is none of {self.neurons}")

    def neuron_name(self, neuron: int) -> str:
        """Names a neuron: its layer and its place there, as in `conv1:3`."""
        name, index = self.locate(neuron)
        return f"{name}:{index}"

    def column(self, layer: str, index: int) -> int:
        """The column of a neuron of a layer.

        Raises:
            ValueError: If there is no such layer or neuron.
        """
        place = self[layer]
        if not 0 <= index < place.stop - place.start:
            raise ValueError(
                f"neuron {index} of layer {layer!r}: it has {place.stop - place.start}"
            )
        return place.start + index

    def to_json(self) -> dict[str, Sequence[str] | Sequence[int]]:
        """What `from_json` reads."""
        return {"names": list(self.names), "sizes": list(self.sizes)}

    @classmethod
    def from_json(cls, content: dict) -> Layers:
        """Reads what `to_json` wrote."""
        return cls(tuple(content["names"]), tuple(content["sizes"]))
