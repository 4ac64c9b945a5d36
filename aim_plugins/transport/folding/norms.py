"""Scaling what a norm returns by changing its parameters, whatever its family means by them."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor


class Obstacle(Exception):
    """Why a map cannot be folded into a module."""


def norm_parameters(
    module: torch.nn.Module, scale: Float[Tensor, " neurons"], shift: Float[Tensor, " neurons"]
) -> dict[str, Tensor]:
    """Parameters that make a norm return scale * x + shift, or scale * x if it has no bias.

    Raises:
        Obstacle: If it has no weight, or one that does not scale its output.
    """
    weight = getattr(module, "weight", None)
    if not bool((scale != 1).any()) and getattr(module, "bias", None) is None:
        return {}
    if not isinstance(weight, Tensor) or weight.shape != scale.shape:
        raise Obstacle(
            f"{type(module).__name__} has no weight for each of its neurons, as norms and linear "
            "layers have"
        )
    # Families differ in what a weight means: most multiply by it, Gemma by 1 + weight.
    generator = torch.Generator().manual_seed(0)
    trial_scale = 0.5 + torch.rand(len(scale), generator=generator, dtype=torch.float64)
    trial_shift = torch.randn(len(scale), generator=generator, dtype=torch.float64)
    for offset in (0.0, 1.0):
        changes = _scaled(module, offset, trial_scale, trial_shift)
        if _does(module, changes, trial_scale, trial_shift):
            return _scaled(module, offset, scale, shift)
    raise Obstacle(f"the weight of {type(module).__name__} does not scale its output")


def _scaled(
    module: torch.nn.Module, offset: float, scale: Tensor, shift: Tensor
) -> dict[str, Tensor]:
    """A norm's parameters, changed under the convention that it multiplies by offset + weight."""
    held = {name: one.detach().double().cpu() for name, one in module.named_parameters()}
    changes = {"weight": (offset + held["weight"]) * scale - offset}
    if "bias" in held:
        changes["bias"] = held["bias"] * scale + shift
    return changes


def _does(
    module: torch.nn.Module, changes: Mapping[str, Tensor], scale: Tensor, shift: Tensor
) -> bool:
    """Whether a module with changed parameters returns scale * x (+ shift) of what it returned."""
    trial = copy.deepcopy(module).cpu().float()
    inputs = torch.randn(3, 5, len(scale), generator=torch.Generator().manual_seed(1))
    try:
        with torch.no_grad():
            expected = scale * trial(inputs).double() + (shift if "bias" in changes else 0.0)
            for name, value in changes.items():
                getattr(trial, name).copy_(value)
            found = trial(inputs).double()
    except (TypeError, RuntimeError) as error:
        raise Obstacle(f"{type(module).__name__} does not run on a tensor alone") from error
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())
