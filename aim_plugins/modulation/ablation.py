"""Multiplying components of a model, each row of a batch by factors of its own.

A component that is multiplied by 0 is *ablated*: what its weights contribute is gone, its layer's
bias stays, as if its row of the weight were zeroed. Factors act on activations instead of weights,
so that many ablations run as rows of one batch, and derivatives by factors are those by components.

Source: arXiv:2404.11534, section 2 (ablation by zeroed weights).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from aim_plugins.core.errors import first_few
from aim_plugins.modulation.attention import Part, replaced_attention
from aim_plugins.modulation.components import Components, Site
from aim_plugins.modulation.hooks import find_module


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
    held = _token_first(model)
    attentions: dict[str, dict[str, Part]] = {}
    attached: list[_Factor] = []
    runs: list[bool] = []
    with contextlib.ExitStack() as stack:
        for site, own, members in _changed(components, factors):
            layer = layer_of(model, site)
            # Parts of an attention that is taken apart see rows first, whatever it is given.
            # Convolutions take rows first everywhere.
            plain = not site.part and not isinstance(layer, _ConvNd)
            token_first = plain and _is_below(site.layer, held)
            factor = _Factor(site, own, members, owners, token_first=token_first)
            attached.append(factor)
            if site.part:
                _check_at_hand(site, layer.parameters())
                attentions.setdefault(site.layer, {})[site.part] = factor.plain
            else:
                stack.callback(factor.attach(layer).remove)
        for name, parts in attentions.items():
            stack.enter_context(replaced_attention(find_module(model, name), parts))
        if attached:
            stack.callback(model.register_forward_hook(lambda *_: runs.append(True)).remove)
        yield lambda: _check_ran(attached)
    if runs:
        _check_ran(attached)


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


class _Factor:
    """The factors of one site, as hooks.

    Attributes:
        site: The site.
        ran: Whether anything was multiplied by them.
    """

    def __init__(
        self,
        site: Site,
        factors: Float[Tensor, "rows members"],
        members: Sequence[int] | None,
        owners: Int[Tensor, " batch"] | None,
        *,
        token_first: bool,
    ) -> None:
        self.site, self.ran = site, False
        self._factors, self._members, self._owners = factors, members, owners
        self._token_first = token_first
        self._kept: dict[Any, Tensor] = {}

    def attach(self, layer: nn.Module) -> Any:
        """Hooks into the layer; returns the handle that removes the hook."""
        bias = getattr(layer, "bias", None)
        if self.site.side == "outputs" and isinstance(bias, Tensor):
            _check_at_hand(self.site, [bias])
        if self.site.side == "inputs":
            return layer.register_forward_pre_hook(self._before, with_kwargs=True)
        behind = self._residual if self.site.side == "residual" else self._behind
        return layer.register_forward_hook(behind, with_kwargs=True)

    def plain(self, features: Tensor) -> Tensor:
        """Features [batch, ..., features], multiplied."""
        return features * self._like(features, -1)

    def _before(self, layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if given:
            return (self.plain(given[0]), *given[1:]), named
        (first, *_) = named
        return given, {**named, first: self.plain(named[first])}

    def _behind(
        self, layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Tensor
    ) -> Tensor:
        axis = 1 if isinstance(layer, _ConvNd) else -1
        factors = self._like(output, axis)
        bias: Any = getattr(layer, "bias", None)
        if bias is None:
            return output * factors
        bias = bias.to(output.device, output.dtype)
        bias = bias.view(-1, *(1,) * (output.ndim - 2)) if axis == 1 else bias
        # Exact at both ends, as bias + factor · (output − bias) is not.
        return torch.lerp(bias.expand_as(output), output, factors.expand_as(output))

    def _residual(
        self, block: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> Any:
        entered = given[0] if given else named.get("hidden_states", next(iter(named.values()), 0))
        first = output[0] if isinstance(output, tuple) else output
        if not isinstance(entered, Tensor) or entered.shape != first.shape:
            raise ValueError(
                f"components={self.site.name!r} is no residual block, since its output has "
                "another shape than its input: leave it out, by a pattern of the others"
            )
        factors = self._like(first[..., :1], -1)  # one for each row
        changed = torch.lerp(entered.to(first.device), first, factors.expand_as(first))
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

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
        self.ran = True
        shape = [1] * features.ndim
        shape[axis] = own.shape[1]
        if len(own) > 1:
            rows = 1 if self._token_first and features.ndim == 3 else 0
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


def _check_ran(factors: Sequence[_Factor]) -> None:
    if missed := [factor.site.name for factor in factors if not factor.ran]:
        raise ValueError(
            f"components: {first_few(missed)} did not run with the model, so that it answers as if "
            "nothing were changed there: leave them out, by a pattern of the others"
        )


def _check_at_hand(site: Site, parameters: Iterable[Tensor]) -> None:
    if any(one.is_meta for one in parameters):
        raise ValueError(
            f"components={site.name!r}: parameters of {site.layer!r} that are needed are "
            "offloaded: load the model whole"
        )


def _token_first(model: nn.Module) -> set[str]:
    """Modules that hold an attention of PyTorch's which takes tokens before rows."""
    return {
        name.rpartition(".")[0]
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention) and not module.batch_first
    }


def _is_below(layer: str, holders: set[str]) -> bool:
    return any(
        layer == one or layer.startswith(f"{one}.") if one else "." not in layer for one in holders
    )


def layer_of(model: nn.Module, site: Site) -> nn.Module:
    """The layer at which components act.

    Raises:
        ValueError: If the model has none of that name.
    """
    try:
        return find_module(model, site.layer)
    except ValueError as error:
        raise ValueError(
            f"components={site.name!r}: {error}; they are those of another model"
        ) from error
