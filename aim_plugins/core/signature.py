"""Telling whether a model is the one that something was learned on, in whatever precision it runs.

A signature is the architecture's name and a sample of the weights: sixteen values from one tensor
of each kind, and the same of the adapters that are at work, such as LoRA's. Values are compared
with a tolerance that covers rounding to bfloat16, since what was learned in float32 is used in half
precision too. A fine-tune moves weights near zero by more than that; one that leaves all sampled
values within 0.5 % goes unseen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aim_plugins.core.offloading import offloaded_weights

if TYPE_CHECKING:
    from torch import Tensor

VALUES = 16
"""Values sampled from a tensor."""

KINDS = 24
"""Tensors sampled at most."""

_RELATIVE = 5e-3  # rounding to bfloat16 moves a value by up to 2^-8, to float16 by 2^-11 more
_ABSOLUTE = 1e-7  # float16 has no finer steps near zero
_READABLE = ("torch.float64", "torch.float32", "torch.bfloat16", "torch.float16")
# PEFT names the wrapped model `base_model.model` and a wrapped layer `base_layer`; compile adds
# `_orig_mod`.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:base_layer\.|_orig_mod\.)")
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Difference:
    """What tells a model from a signature.

    Attributes:
        message: The difference in words.
        refused: Whether it is certain; weights that cannot be read may be the right ones.
    """

    message: str
    refused: bool


def model_signature(model: Any) -> dict[str, Any]:
    """Architecture, dtype and a sample of the weights of a model, ready for JSON."""
    dtype = next((str(one.dtype) for one in model.parameters()), "")
    return {
        "architecture": type(_unwrapped(model)).__name__,
        "dtype": dtype.removeprefix("torch."),
        "weights": _sample(_parameters(model)),
        "adapters": _sample(_adapters(model)),
    }


def is_signature(value: object) -> bool:
    """Whether a value has the form of a signature; parts of it may be missing."""
    if not isinstance(value, Mapping):
        return False
    return (
        isinstance(value.get("architecture", ""), str)
        and isinstance(value.get("dtype", ""), str)
        and all(_is_sample(value.get(part) or {}) for part in ("weights", "adapters"))
    )


def check_signature(model: Any, signature: Mapping[str, Any]) -> Difference | None:
    """Compares a model with a signature; None if they agree."""
    known = signature.get("architecture")
    found = type(_unwrapped(model)).__name__
    if known and known != found:
        return Difference(f"this model is a {found}", refused=True)
    sampled: Mapping[str, Any] = signature.get("weights") or {}
    if not sampled:
        return Difference("its weights are unknown, so they were not compared", refused=False)
    parameters = _parameters(model)
    differing, unread = _compare(parameters, sampled)
    if not _is_quantised(model):  # a quantiser also renames and adds weights
        differing += [name for name in unread if name not in parameters]
        differing += _added(parameters, sampled)
    differing += _other_adapters(model, signature.get("adapters") or {})
    if unread and not differing:
        return Difference(
            f"{len(unread)} of {len(sampled)} sampled weights are quantised or offloaded here and "
            "were not compared",
            refused=False,
        )
    return _other_weights("this model", differing, sampled)


def check_shared_weights(model: Any, signature: Mapping[str, Any]) -> Difference | None:
    """Compares a model of another implementation, whose weights are partly fused or split.

    Weights that it keeps under the same name and in the same shape are compared; None if there are
    some, and all agree.
    """
    parameters = _parameters(model)
    shared = {
        name: sample
        for name, sample in (signature.get("weights") or {}).items()
        if name in parameters and list(parameters[name].shape) == sample["shape"]
    }
    differing, unread = _compare(parameters, shared)
    this = f"this {type(model).__name__}"
    if len(unread) == len(shared):
        return Difference(f"none of the sampled weights of {this} could be compared", refused=True)
    return _other_weights(this, differing, shared)


def check_tensors(
    model: str, tensors: Mapping[str, Tensor], signature: Mapping[str, Any]
) -> Difference | None:
    """Compares some weights of the model called `model`; None if none differs."""
    sampled: Mapping[str, Any] = signature.get("weights") or {}
    shared = {name: sample for name, sample in sampled.items() if name in tensors}
    return _other_weights(model, _compare(tensors, shared)[0], shared)


def _is_sample(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str)
        and isinstance(sample, Mapping)
        and _is_list_of(sample.get("shape"), int)
        and _is_list_of(sample.get("values"), int | float)
        for name, sample in value.items()
    )


def _is_list_of(value: object, kind: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, kind) for one in value)


def _other_weights(
    model: str, differing: list[str], sampled: Mapping[str, Any]
) -> Difference | None:
    if not differing:
        return None
    return Difference(
        f"{model} has other weights ({len(differing)} of {len(sampled)} samples differ, such as "
        f"{differing[0]!r})",
        refused=True,
    )


def _compare(
    parameters: Mapping[str, Tensor], sampled: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Names of weights that differ, and of those that cannot be read."""
    differing, unread = [], []
    for name, sample in sampled.items():
        tensor = parameters.get(name)
        if tensor is None or not _is_readable(tensor):
            unread.append(name)
        elif list(tensor.shape) != sample["shape"] or not _agree(_values(tensor), sample["values"]):
            differing.append(name)
    return differing, unread


def _added(parameters: Mapping[str, Tensor], sampled: Mapping[str, Any]) -> list[str]:
    """Weights of kinds that the signature has not."""
    if len(sampled) >= KINDS:  # the signature left kinds out itself
        return []
    kinds = {_kind(name) for name in sampled}
    return [name for name in _one_of_each_kind(parameters) if _kind(name) not in kinds]


def _other_adapters(model: Any, known: Mapping[str, Any]) -> list[str]:
    """Weights of adapters that differ, are gone, or are of kinds that the signature has not."""
    adapters = _adapters(model)
    differing, unread = _compare(adapters, known)
    gone = [name for name in unread if name not in adapters]
    kinds = {_kind(name) for name in known}
    added = [name for name in _one_of_each_kind(adapters) if _kind(name) not in kinds]
    return [*differing, *gone, *added]


def _unwrapped(model: Any) -> Any:
    model = getattr(model, "_orig_mod", model)
    get_base_model = getattr(model, "get_base_model", None)  # PEFT
    return get_base_model() if callable(get_base_model) else model


def _parameters(model: Any) -> dict[str, Tensor]:
    """All but those of adapters; offloaded ones as they are in memory."""
    offloaded = offloaded_weights(model)
    of_adapters = {
        id(one)
        for _, layer, parts in _adapted_layers(model)
        for part in parts
        for one in getattr(layer, part).parameters()
    }
    return {
        _plain(name): offloaded.get(name, tensor)
        for name, tensor in model.named_parameters()
        if id(tensor) not in of_adapters
    }


def _adapters(model: Any) -> dict[str, Tensor]:
    """Weights of the adapters that are at work, and how much each counts, whatever its name.

    One that is switched off changes nothing, and one that is merged changes other weights.
    """
    import torch

    found: dict[str, Tensor] = {}
    for name, layer, parts in _adapted_layers(model):
        if layer.disable_adapters or layer.merged:
            continue
        for number, adapter in enumerate(layer.active_adapters):
            letter = chr(ord("a") + number)  # a digit would make one kind of all
            for part in parts:
                for key, tensor in getattr(layer, part).named_parameters():
                    own, _, rest = key.partition(".")
                    if own == adapter:
                        found[f"{_plain(name)}.{part}.{letter}.{rest}".rstrip(".")] = tensor
            scale = getattr(layer, "scaling", {}).get(adapter)
            if isinstance(scale, int | float):
                found[f"{_plain(name)}.scaling.{letter}"] = torch.tensor(float(scale))
    return found


def _adapted_layers(model: Any) -> Iterator[tuple[str, Any, list[str]]]:
    """PEFT's layers, with the names of the parts in which each holds its adapters."""
    for name, layer in model.named_modules():
        parts = [one for one in getattr(layer, "adapter_layer_names", ()) if hasattr(layer, one)]
        if parts:
            yield name, layer, parts


def _plain(name: str) -> str:
    return _WRAPPERS.sub("", name).removeprefix(_PEFT_PREFIX)


def _kind(name: str) -> str:
    return re.sub(r"\d+", "0", name)


def _sample(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    return {
        name: {"shape": list(tensor.shape), "values": _values(tensor)}
        for name, tensor in _one_of_each_kind(tensors).items()
        if _is_readable(tensor)
    }


def _one_of_each_kind(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The last tensor of each kind: a fine-tune that freezes layers freezes the first ones."""
    last = {_kind(name): name for name in parameters}
    return {name: parameters[name] for name in list(last.values())[:KINDS]}


def _is_readable(tensor: Tensor) -> bool:
    sharded = type(tensor).__name__ == "DTensor"
    empty = tensor.device.type == "meta" or not tensor.numel()
    return str(tensor.dtype) in _READABLE and not empty and not sharded


def _is_quantised(model: Any) -> bool:
    config = getattr(_unwrapped(model), "config", None)
    return getattr(config, "quantization_config", None) is not None


def _values(tensor: Tensor) -> list[float]:
    flat = tensor.detach().reshape(-1)
    last, steps = flat.numel() - 1, min(VALUES, flat.numel()) - 1
    index = [step * last // max(1, steps) for step in range(steps + 1)]
    return flat[index].double().cpu().tolist()


def _agree(found: list[float], known: list[float]) -> bool:
    return len(found) == len(known) and all(
        abs(a - b) <= _RELATIVE * max(abs(a), abs(b)) + _ABSOLUTE
        for a, b in zip(found, known, strict=True)
    )
