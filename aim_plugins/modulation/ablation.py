"""Multiplying components of a model, each row of a batch by factors of its own.

A component that is multiplied by 0 is *ablated*: what its weights contribute is gone, its layer's
bias stays, as if its row of the weight were zeroed. Factors act on activations instead of weights,
so that many ablations run as rows of one batch, and derivatives by factors are those by components.

Source: arXiv:2404.11534, section 2 (ablation by zeroed weights).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from aim_plugins.modulation.components import Components, Site
from aim_plugins.modulation.site_hooks import SiteHook, TokenFirst, attached


@contextlib.contextmanager
def multiplied(
    model: nn.Module,
    components: Components,
    factors: Float[Tensor, "rows components"],
    owners: Int[Tensor, " batch"] | None = None,
) -> Iterator[Callable[[], None]]:
    """Multiplies components while the block runs; leaving it restores the model exactly.

    A layer that sees a multiple of the rows (beams, or tokens laid out as rows) has consecutive
    ones multiplied alike.

    Args:
        model: The model, in eval mode.
        components: The components.
        factors: Of each row of a batch, or one row for all of them; 1 leaves a component as it is,
            to the bit (but for rows beside others in PyTorch's own attention, which is computed in
            other steps then), 0 ablates it. They may require gradients.
        owners: Which row of the factors each row of a batch goes by, where they are others.

    Yields:
        What raises the error of a layer that did not run: to be called after a forward pass of
        parts of the model. Leaving the block calls it where the model itself ran.

    Raises:
        ValueError: If there are not as many factors as components, or the model lacks a layer, or
            has one offloaded that is needed; later, if a layer has other rows or features, or did
            not run with the model.
    """
    if factors.shape[1] != len(components):
        raise ValueError(
            f"factors has {factors.shape[1]} columns for {len(components)} components: give one "
            "for each"
        )
    token_first = TokenFirst(model)
    hooks = [
        _Factor(site, own, members, owners, token_first=site in token_first)
        for site, own, members in _changed(components, factors)
    ]
    with attached(model, hooks) as check_ran:
        yield check_ran


def ablation_mask(
    count: int, share: float, seed: int, number: int = 0
) -> Bool[np.ndarray, " components"]:
    """Which components are ablated: each with the same probability, whatever happens to others.

    A component's draw is the same at every share, so that what is ablated at a small one is so at
    every larger one too.

    Args:
        count: How many components there are.
        share: The probability α to be ablated, in [0, 1].
        seed: Seed of all masks.
        number: Which of them, counted from 0; each is drawn without those before it.
    """
    return uniforms(count, seed, number) < share


def uniforms(count: int, seed: int, number: int = 0) -> Float[np.ndarray, " components"]:
    """Uniform draws in [0, 1) of a counter-based generator: the same on every machine."""
    key = [seed % 2**64, number]
    return np.random.Generator(np.random.Philox(key=np.array(key, np.uint64))).random(count)


class _Factor(SiteHook):
    """The factors of one site."""

    def __init__(
        self,
        site: Site,
        factors: Float[Tensor, "rows members"],
        members: Sequence[int] | None,
        owners: Int[Tensor, " batch"] | None,
        *,
        token_first: bool,
    ) -> None:
        super().__init__(site, token_first=token_first)
        self._factors, self._members, self._owners = factors, members, owners
        self._kept: dict[Any, Tensor] = {}

    def plain(self, features: Tensor) -> Tensor:
        return features * self._like(features, -1)

    def behind(self, layer: nn.Module, output: Tensor) -> Tensor:
        axis = 1 if isinstance(layer, _ConvNd) else -1
        factors = self._like(output, axis)
        bias: Any = getattr(layer, "bias", None)
        if bias is None:
            return output * factors
        bias = bias.to(output.device, output.dtype)
        bias = bias.view(-1, *(1,) * (output.ndim - 2)) if axis == 1 else bias
        # Exact at both ends, as bias + factor · (output − bias) is not.
        return torch.lerp(bias.expand_as(output), output, factors.expand_as(output))

    def residual(self, entered: Tensor, output: Tensor) -> Tensor:
        factors = self._like(output[..., :1], -1)  # one for each row
        return torch.lerp(entered, output, factors.expand_as(output))

    def _like(self, features: Tensor, axis: int) -> Tensor:
        """The factors in a shape that spreads over features, whose components lie on an axis."""
        if features.is_nested:
            raise ValueError(
                f"components={self.site.name!r} is given a nested tensor, whose rows cannot be "
                "told apart: build the encoder with enable_nested_tensor=False"
            )
        own = self._spread(features)
        if features.shape[axis] != own.shape[1]:
            raise ValueError(
                f"components={self.site.name!r} are {own.shape[1]} features of a layer that has "
                f"{features.shape[axis]}: they are those of another model"
            )
        self.note()
        shape = [1] * features.ndim
        shape[axis] = own.shape[1]
        if len(own) > 1:
            rows = self.rows_axis(features)
            own = self._repeated(own, features.shape[rows])
            shape[rows] = len(own)
        return own.view(shape)

    def _repeated(self, own: Tensor, rows: int) -> Tensor:
        if rows == 0 or rows % len(own):
            raise ValueError(
                f"components={self.site.name!r}: there are factors of {len(own)} rows, and the "
                f"layer runs on {rows}: give one for each row of the batch, or one for all"
            )
        return own if rows == len(own) else own.repeat_interleave(rows // len(own), 0)

    def _spread(self, features: Tensor) -> Tensor:
        """Factors [rows, features] of all components of the site, chosen or not."""
        place = (features.device, features.dtype)
        if place in self._kept:
            return self._kept[place]
        own = self._factors
        if self._owners is not None:
            own = own[self._owners.to(own.device)]
        if self._members is not None:
            every = own.new_ones(len(own), self.site.count)
            own = every.index_copy(1, torch.tensor(self._members, device=own.device), own)
        if self.site.width > 1:
            own = own.repeat_interleave(self.site.width, 1)
        own = own.to(features.device, features.dtype)
        if not self._factors.requires_grad:  # else each pass has a graph of its own
            self._kept[place] = own
        return own


def _changed(
    components: Components, factors: Tensor
) -> Iterator[tuple[Site, Tensor, tuple[int, ...] | None]]:
    """The sites that factors change, with those, and which components of the site they are of."""
    touched = None if factors.requires_grad else (factors != 1).any(0).cpu()
    for site, own, start in zip(
        components.sites, components.places, components.starts, strict=False
    ):
        part = slice(start, start + len(own))
        if touched is None or bool(touched[part].any()):
            yield site, factors[:, part], None if len(own) == site.count else tuple(own)
