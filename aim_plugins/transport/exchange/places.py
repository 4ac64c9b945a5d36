"""Where the vectors of a file act: modules by name, and decoder blocks by number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from aim_plugins.modulation.activation_map import ActivationMap
from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.modulation.freezing import evaluating
from aim_plugins.modulation.hooks import execution_order, find_module, split_site
from aim_plugins.transport.folding.readers import probe_tokens

_BLOCK = re.compile(r"(?:[^\d.]+\.)+(\d+)")


def full_name(model: nn.Module, site: str) -> str:
    """A site by its name in the model itself, also where that of an inner model was written.

    Raises:
        ValueError: If the model has no such module, or several.
    """
    name, output = split_site(site)
    module = find_module(model, name)
    full = next(own for own, other in model.named_modules() if other is module)
    return f"{full}:{output}" if output else full


def block_names(model: Any) -> list[str]:
    """Names of a language model's decoder blocks, from the first.

    Raises:
        ValueError: If the model has no row of as many blocks as its config says, or several.
    """
    count = model.config.get_text_config().num_hidden_layers
    rows = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and not re.search(r"\d", name)
    ]
    if len(rows) != 1:
        found = ", ".join(rows) or "none"
        raise ValueError(
            f"the vectors name blocks by number, and of {type(model).__name__} it is not known "
            f"which module is its row of {count} blocks (found: {found}): write them to a "
            "safetensors file under the modules' names"
        )
    return [f"{rows[0]}.{number}" for number in range(count)]


def block_name(model: Any, number: int, place: str) -> str:
    """Name of one decoder block.

    Args:
        model: The model.
        number: Of the block; 0 is the first.
        place: The file, for the error.

    Raises:
        ValueError: If the model has no block of that number.
    """
    names = block_names(model)
    if not 0 <= number < len(names):
        raise ValueError(
            f"{place} names block {number}, and {type(model).__name__} has those from 0 to "
            f"{len(names) - 1}: name the model that the vectors are of"
        )
    return names[number]


def block_number(site: str) -> int | None:
    """Number of the decoder block whose output a site is; None for every other site.

    >>> block_number("model.layers.14"), block_number("model.layers.14.mlp")
    (14, None)
    """
    found = _BLOCK.fullmatch(site)
    return int(found[1]) if found else None


def in_order(model: Any, maps: Mapping[str, ActivationMap], positions: str) -> ActivationMaps:
    """The maps in the order of execution, tried on the model once.

    Raises:
        ValueError: If the model has not their sites, or has them in other widths.
    """
    token_ids = probe_tokens(model)
    with torch.no_grad(), evaluating(model):
        order = execution_order(model, maps, lambda: model(token_ids))
        ordered = ActivationMaps({site: maps[site] for site in order}, positions)
        with ordered.applied(model, 1.0):
            model(token_ids)
    return ordered
