"""Multiplying components of a model, each row of a batch by factors of its own.

A component that is multiplied by 0 is *ablated*: what its weights contribute is gone, its layer's
bias stays, as if its row of the weight were zeroed. Factors act on activations instead of weights,
so that many ablations run as rows of one batch, and derivatives by factors are those by components.

Source: arXiv:2404.11534, section 2 (ablation by zeroed weights).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from aim_plugins.modulation.attention import replaced_attention
from aim_plugins.modulation.components import Components, Site

Factor = Callable[[Tensor], Tensor]
"""Multiplies a tensor [batch, ..., features], or [batch, channels, ...] of a convolution."""


@contextlib.contextmanager
def multiplied(
    model: nn.Module,
    components: Components,
    factors: Float[Tensor, "rows components"],
    owners: Int[Tensor, " batch"] | None = None,
) -> Iterator[None]:
    """Multiplies components while the block runs; leaving it restores the model exactly.

    Args:
        model: The model, in eval mode.
        components: The components.
        factors: Of each row of a batch, or one row for all of them; 1 leaves a component as it is,
            to the bit, 0 ablates it. They may require gradients.
        owners: Which row of the factors each row of a batch goes by, where they are others.

    Raises:
        ValueError: If there are not as many factors as components, or the model lacks a layer.
    """
    if factors.shape[1] != len(components):
        raise ValueError(
            f"factors has {factors.shape[1]} columns for {len(components)} components: give one "
            "for each"
        )
    attentions: dict[str, dict[str, Factor]] = {}
    handles = []
    try:
        for site, own in zip(components.sites, _by_site(components, factors), strict=True):
            layer = _layer(model, site)
            factor = _Factor(site, own, owners, getattr(layer, "bias", None))
            if site.part:
                attentions.setdefault(site.layer, {})[site.part] = factor.plain
            elif site.side == "inputs":
                handles.append(layer.register_forward_pre_hook(factor.before))
            else:
                handles.append(layer.register_forward_hook(factor.behind))
        with contextlib.ExitStack() as stack:
            for name, parts in attentions.items():
                stack.enter_context(replaced_attention(model.get_submodule(name), parts))
            yield
    finally:
        for handle in handles:
            handle.remove()


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
    generator = np.random.Generator(np.random.Philox(key=[seed, number]))
    return generator.random(count)


class _Factor:
    """The factors of one site, as hooks."""

    def __init__(
        self,
        site: Site,
        factors: Float[Tensor, "rows components"],
        owners: Int[Tensor, " batch"] | None,
        bias: Tensor | None,
    ) -> None:
        self._site, self._bias = site, bias
        own = factors if owners is None else factors[owners]
        self._factors = own.repeat_interleave(site.width, 1) if site.width > 1 else own

    def plain(self, features: Tensor) -> Tensor:
        """Features [batch, ..., features], multiplied."""
        return features * self._like(features, -1)

    def before(self, layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.plain(given[0]), *given[1:])

    def behind(self, layer: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        if self._site.side == "residual":
            return self._residual(given, output)
        convolution = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        axis = 1 if convolution or isinstance(layer, nn.modules.conv._ConvNd) else -1
        factors = self._like(output, axis)
        if self._bias is None:
            return output * factors
        bias = self._bias.to(output.dtype)
        bias = bias.view(-1, *(1,) * (output.ndim - 2)) if axis == 1 else bias
        return torch.lerp(
            bias.expand_as(output), output, factors.expand_as(output)
        )  # exact at both ends

    def _residual(self, given: tuple[Any, ...], output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        if not given or not isinstance(given[0], Tensor) or given[0].shape != first.shape:
            raise ValueError(
                f"components={self._site.name!r} is no residual block, since its output has "
                "another shape than its input: leave it out of the pattern"
            )
        factors = self._factors.to(first.dtype).view(-1, *(1,) * (first.ndim - 1))
        changed = torch.lerp(given[0], first, factors.expand_as(first))
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def _like(self, features: Tensor, axis: int) -> Tensor:
        """The factors in a shape that spreads over features."""
        rows, count = self._factors.shape
        middle = (1,) * (features.ndim - 2)
        shape = (rows, count, *middle) if axis == 1 else (rows, *middle, count)
        return self._factors.to(features.dtype).view(shape)


def _by_site(components: Components, factors: Tensor) -> Iterator[Tensor]:
    """The factors of all components of each site, chosen or not."""
    places = zip(components.sites, components.places, components.starts, strict=False)
    for site, own, start in places:
        given = factors[:, start : start + len(own)]
        if len(own) == site.count:
            yield given
        else:
            every = given.new_ones(len(given), site.count)
            yield every.index_copy(1, torch.tensor(list(own), device=given.device), given)


def _layer(model: nn.Module, site: Site) -> nn.Module:
    try:
        return model.get_submodule(site.layer)
    except AttributeError as error:
        raise ValueError(
            f"components: {type(model).__name__} has no layer {site.layer!r}: they are those of "
            "another model"
        ) from error
