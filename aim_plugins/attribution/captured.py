"""What components compute in a forward pass, kept so that derivatives by it can be asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aim_plugins.modulation.attention import replaced_attention
from aim_plugins.modulation.components import Components, Site


@contextlib.contextmanager
def captured(model: nn.Module, components: Components) -> Iterator[list[Tensor]]:
    """Keeps what each site computes while the block runs.

    Args:
        model: The model, in eval mode.
        components: Components of it.

    Yields:
        The values of each site in the last forward pass, as nodes of its graph. Biases are among
        them, of which neither derivatives nor differences tell.
    """
    # A leaf makes a graph even where neither inputs nor parameters ask for gradients.
    leaf = torch.zeros((), requires_grad=True)
    kept: list[Tensor] = [leaf] * len(components.sites)
    attentions: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {}
    handles = []

    def keep(place: int, values: Tensor) -> Tensor:
        kept[place] = values + leaf.to(values)
        return kept[place].clone()  # since a layer behind it may work in place

    try:
        for place, site in enumerate(components.sites):
            layer = model.get_submodule(site.layer)
            if site.part:
                parts = attentions.setdefault(site.layer, {})
                parts[site.part] = lambda values, place=place: keep(place, values)  # type: ignore[misc]
            elif site.side == "inputs":
                handles.append(
                    layer.register_forward_pre_hook(
                        lambda _, given, place=place: (keep(place, given[0]), *given[1:])
                    )
                )
            else:
                handles.append(layer.register_forward_hook(_behind(place, site, keep)))
        with contextlib.ExitStack() as stack:
            for name, parts in attentions.items():
                stack.enter_context(replaced_attention(model.get_submodule(name), parts))
            yield kept
    finally:
        for handle in handles:
            handle.remove()


def _behind(place: int, site: Site, keep: Callable[[int, Tensor], Tensor]) -> Any:
    def hook(_: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        if site.side == "residual":
            changed = given[0] + keep(place, first - given[0])
        else:
            changed = keep(place, first)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook


def summed(
    model: nn.Module, components: Components, values: list[Tensor]
) -> Float[Tensor, "rows components"]:
    """Sums over what belongs to each component: positions, and the features of a head.

    Args:
        model: The model.
        components: Its components.
        values: Of each site, of the shape of what it computes.
    """
    columns = []
    for site, places, own in zip(components.sites, components.places, values, strict=True):
        rows = len(own)
        if site.side == "residual":
            columns.append(own.reshape(rows, -1).sum(1, keepdim=True))
            continue
        layer = model.get_submodule(site.layer)
        if isinstance(layer, nn.modules.conv._ConvNd) and site.side == "outputs":
            own = own.movedim(1, -1)
        total = own.reshape(rows, -1, site.count, site.width).sum((1, 3))
        columns.append(total[:, list(places)])
    return torch.cat(columns, 1)
