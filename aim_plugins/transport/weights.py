"""Weights that come to a device and go with each pass, which passes in lockstep cannot share."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module


def check_shared_weights(model: nn.Module, passes: int) -> None:
    """Refuses several passes at once over weights that come and go with each.

    Raises:
        NotImplementedError: Naming the mend.
    """
    if passes == 1:
        return
    reason = ""
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        reason = "its weights are offloaded and leave a layer when the first pass does"
    elif any(map(_is_moved, model.modules())):
        reason = "its weights are offloaded and move to the device and back with each pass"
    elif is_fsdp_managed_module(model) or is_deepspeed_zero3_enabled():
        reason = "its weights are sharded and gathered for one pass at a time"
    if reason:
        raise NotImplementedError(
            f"batch_size: {passes} passes in lockstep are more than this model can make, because "
            f"{reason}; choose a batch_size that holds all inputs, or load the whole model"
        )


def _is_moved(module: Any) -> bool:
    """Whether accelerate or diffusers moves a module's weights for the time that it runs."""
    hook = getattr(module, "_hf_hook", None)
    hooks = getattr(getattr(module, "_diffusers_hook", None), "hooks", {})
    return type(hook).__name__ == "CpuOffload" or any("offload" in name for name in hooks)
