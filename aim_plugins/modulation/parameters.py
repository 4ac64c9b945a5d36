"""Which parameters of a model have changed, without reading all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Traits = dict[str, tuple[Any, ...]]
"""Of each parameter by name, what differs once its values have been changed."""

_SAMPLE = 256
"""Entries of a parameter that are read, for changes in place that PyTorch does not count."""


def traits(model: nn.Module) -> Traits:
    """Which tensors a model's parameters are, how often they were written to, and a sample."""
    found = dict(model.named_parameters(remove_duplicate=False))
    sums = to_host([_sample(one) for one in found.values()])
    return {
        name: (id(one), one.device, one._version, total.tobytes())
        for (name, one), total in zip(found.items(), sums, strict=True)
    }


def differing(before: Traits, after: Traits) -> list[str]:
    """Names of the parameters whose traits are others."""
    return [name for name, found in after.items() if before.get(name) != found]


def _sample(parameter: Tensor) -> Tensor:
    if parameter.is_meta:  # offloaded
        return torch.zeros((), dtype=torch.float64)
    flat = parameter.detach().reshape(-1)
    return flat[:: max(1, len(flat) // _SAMPLE)].double().sum()


def to_host(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Tensors of one type as arrays, waiting once for each device that they lie on."""
    arrays: list[Any] = [None] * len(tensors)
    places: dict[torch.device, list[int]] = {}
    for place, one in enumerate(tensors):
        places.setdefault(one.device, []).append(place)
    for members in places.values():
        flat = torch.cat([tensors[place].reshape(-1) for place in members]).cpu().numpy()
        sizes = [tensors[place].numel() for place in members]
        for place, part in zip(members, np.split(flat, np.cumsum(sizes)[:-1]), strict=True):
            arrays[place] = part.reshape(tuple(tensors[place].shape))
    return arrays
