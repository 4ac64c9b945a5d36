"""What a map of activations is, whatever it computes: the identity at strength 0, itself at 1."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

Adding = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`ActivationMap.added` of some map."""

_Map = TypeVar("_Map", bound="ActivationMap")


class ActivationMap(abc.ABC):
    """A map of a module's output, at any strength: a frozen dataclass of tensors.

    A new kind names its tensors and fills in `neurons`, `displacement` and `signature`; one whose
    strength does not scale the displacement fills in `added` too.

    Attributes:
        KIND: What errors and summaries call maps of this kind.
        PARTS: Names of its tensors, which are those of its fields.
    """

    KIND: ClassVar[str]
    PARTS: ClassVar[tuple[str, ...]]

    @property
    @abc.abstractmethod
    def neurons(self) -> int:
        """Neurons of the output that it maps."""

    @property
    @abc.abstractmethod
    def signature(self) -> str:
        """What its tensors do not say of it, and their sizes: part of its fingerprint."""

    @abc.abstractmethod
    def displacement(
        self, activations: Float[Tensor, "... neurons"]
    ) -> Float[Tensor, "... neurons"]:
        """By how much activations move with the strength, at strength 0.

        It is T(x) - x, what is added at strength 1, wherever the strength scales what is added.
        """

    @property
    def parts(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return {name: getattr(self, name) for name in self.PARTS}

    def check_width(self, site: str, neurons: int) -> None:
        """Refuses a site of another width.

        Args:
            site: The site's name, for the error.
            neurons: Its number of neurons.

        Raises:
            ValueError: If the map has another number of them.
        """
        if neurons != self.neurons:
            raise ValueError(
                f"module {site!r} has {neurons} neurons, its map {self.neurons}: the transport "
                "was learned on another model"
            )

    def displacement_on(self, device: torch.device | str) -> Callable[[Tensor], Tensor]:
        """The displacement with the map's tensors on a device, to be used again and again."""
        return self.to(device).displacement

    def added(self, base: Tensor, activations: Tensor, strengths: Tensor) -> Tensor:
        """A tensor plus what the map adds to activations at strengths.

        Args:
            base: What is added to, [..., neurons]: the activations themselves, or what other maps
                have made of them.
            activations: The x, of the same shape.
            strengths: Strengths that broadcast over them.
        """
        return torch.addcmul(base, strengths, self.displacement(activations))

    def adding_on(self, device: torch.device | str) -> Adding:
        """`added` with the map's tensors on a device, to be used again and again."""
        return self.to(device).added

    def __call__(
        self, activations: Float[Tensor, "... neurons"], strength: float = 1.0
    ) -> Float[Tensor, "... neurons"]:
        """Transports activations at one strength."""
        return self.added(activations, activations, activations.new_tensor(strength))

    def to(self: _Map, device: torch.device | str, dtype: torch.dtype = torch.float32) -> _Map:
        """The map on a device; the map itself if it is there."""
        placed = {name: one.to(device, dtype) for name, one in self.parts.items()}
        if all(placed[name] is one for name, one in self.parts.items()):
            return self
        return dataclasses.replace(self, **placed)  # type: ignore[type-var]
