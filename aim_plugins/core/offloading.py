"""Weights that accelerate holds in the machine's memory while the module they belong to is idle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def offloaded_weights(model: Any) -> dict[str, Tensor]:
    """The parameters and buffers that a model has on "meta", and accelerate's hooks in memory.

    Args:
        model: The model, such as a component of a pipeline after `enable_sequential_cpu_offload`.

    Returns:
        Those values by the names that `state_dict` has. Weights that lie on a disk are left out, as
        they would have to be read whole.
    """
    found = {}
    for name, module in model.named_modules():
        hook = getattr(module, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            kept = getattr(one, "weights_map", None)
            whole = getattr(kept, "dataset", None)
            memory = getattr(whole, "state_dict", whole)  # beside what lies on a disk
            if kept is None or not isinstance(memory, Mapping):
                continue
            for key in (*module._parameters, *module._buffers):
                value = memory.get(f"{kept.prefix}{key}")
                if value is not None and getattr(module, key).device.type == "meta":
                    found[f"{name}.{key}" if name else key] = value
    return found
