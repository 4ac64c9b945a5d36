"""Multiplying components in the weights themselves: a plain checkpoint that every engine loads."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from transformers.pytorch_utils import Conv1D

from aim_plugins.modulation.components import (
    HEADS,
    IN_PROJECTION,
    OUT_PROJECTION,
    Components,
    Site,
)
from aim_plugins.modulation.masks import owners_of
from aim_plugins.modulation.site_hooks import layer_of


@torch.no_grad()
def scale_weights(
    model: nn.Module, components: Components, factors: Float[Tensor, " components"]
) -> None:
    """Multiplies the weights of components in place, all or none of them.

    Args:
        model: The model.
        components: The components.
        factors: The factor of each; 0 zeroes its weights.

    Raises:
        ValueError: If there are not as many factors as components, the model lacks a layer, or a
            component is no part of a weight of its own: whole blocks, and layers whose weight is
            shared, quantised, offloaded or of another size.
    """
    if len(factors) != len(components):
        raise ValueError(
            f"factors has {len(factors)} values for {len(components)} components: give one for each"
        )
    weights = [_weight(model, site) for site in components.sites]
    places = zip(components.sites, components.places, components.starts, strict=False)
    for weight, (site, own, start) in zip(weights, places, strict=True):
        # Half types are rounded once, from float32.
        exact = torch.float64 if weight.dtype == torch.float64 else torch.float32
        every = torch.ones(site.count, dtype=exact)
        every[list(own)] = factors[start : start + len(own)].to("cpu", exact)
        spread = every.repeat_interleave(site.width).to(weight.device)
        weight.copy_(_scaled(layer_of(model, site), site, weight.to(exact), spread))


def _weight(model: nn.Module, site: Site) -> Tensor:
    """The weight that a site is a part of, if that is all that it would change."""
    layer: Any = layer_of(model, site)
    if site.side == "residual":
        raise ValueError(
            f"components={site.name!r} is a whole block, of which no weight alone can be scaled: "
            "evaluate it as a modulation"
        )
    kind = "in_proj_weight" if site.part == IN_PROJECTION else "weight"
    owner = layer.out_proj if site.part in (HEADS, OUT_PROJECTION) else layer
    weight = owner._parameters.get(kind)  # not what an adapter passes on
    if weight is None or weight.is_meta or not weight.is_floating_point():
        raise ValueError(
            f"components={site.name!r}: the weight of {site.layer!r} is not at hand, as it is "
            "offloaded, quantised or wrapped by an adapter: load the model whole, and merged"
        )
    [name] = [name for name, one in model.named_parameters() if one is weight]
    if len(owners_of(model, name)) > 1:
        raise ValueError(
            f"components={site.name!r}: the weight of {site.layer!r} is shared with another layer, "
            "which would change too: evaluate it as a modulation"
        )
    size = _features(layer, site, weight)
    if size != site.count * site.width:
        raise ValueError(
            f"components={site.name!r} are {site.count * site.width} features of a layer that has "
            f"{size}: they are those of another model"
        )
    return weight


def _features(layer: nn.Module, site: Site, weight: Tensor) -> int:
    """How many rows of a weight, or inputs of it, there are."""
    if isinstance(layer, _ConvTransposeNd):
        return layer.out_channels
    return weight.shape[_axis(layer, site)]


def _axis(layer: nn.Module, site: Site) -> int:
    inputs = site.side == "inputs"
    return int(not inputs if isinstance(layer, Conv1D) else inputs)


def _scaled(
    layer: nn.Module, site: Site, weight: Tensor, factors: Float[Tensor, " features"]
) -> Tensor:
    if isinstance(layer, _ConvTransposeNd):  # [inputs, outputs of a group, ...]
        groups = layer.groups
        split = weight.view(groups, -1, *weight.shape[1:])
        shape = (groups, 1, weight.shape[1], *(1,) * (weight.ndim - 2))
        return (split * factors.view(shape)).view_as(weight)
    spread = [1] * weight.ndim
    spread[_axis(layer, site)] = len(factors)
    return weight * factors.view(spread)
