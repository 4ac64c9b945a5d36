"""Finding the options of a model's configuration that give its linear layers a bias."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch


def expressible_biases(model: Any, layers: Collection[str]) -> tuple[dict[str, bool], set[str]]:
    """Looks for options that give linear layers a bias, by building the model with each.

    Options are tried, not known by name: every switched-off one whose name speaks of a bias. One
    counts if the model built with it has the same weights besides new biases.

    Args:
        model: A `PreTrainedModel`.
        layers: Names of linear layers that need a bias and have none.

    Returns:
        The options to switch on, and all layers that gain a bias by them, among them those of
        `layers` that can have one.
    """
    wanted = {f"{name}.bias" for name in layers}
    changes: dict[str, bool] = {}
    gained: set[str] = set()
    config = model.config.get_text_config()
    flags = sorted(
        name for name, value in vars(config).items() if value is False and "bias" in name
    )
    for flag in flags if wanted else []:
        new = _new_parameters(model, {**changes, flag: True})
        if new is not None and (new - gained) & wanted:
            changes[flag] = True
            gained = new
    return changes, {name.removesuffix(".bias") for name in gained}


def _new_parameters(model: Any, changes: dict[str, bool]) -> set[str] | None:
    """Names of the biases that the model gains; None if anything else changes."""
    config = copy.deepcopy(model.config)
    for flag, value in changes.items():
        setattr(config.get_text_config(), flag, value)
    try:
        with torch.device("meta"):
            built = type(model)(config)
    except Exception:  # whatever a model thinks of its configuration, this option is no use
        return None
    before = {name: tuple(one.shape) for name, one in model.named_parameters()}
    after = {name: tuple(one.shape) for name, one in built.named_parameters()}
    new = after.keys() - before.keys()
    if any(after.get(name) != shape for name, shape in before.items()):
        return None
    linear = all(
        name.endswith(".bias")
        and isinstance(built.get_submodule(name.removesuffix(".bias")), torch.nn.Linear)
        for name in new
    )
    return set(new) if linear else None
