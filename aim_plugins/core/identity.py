"""Telling things from their likes: values by their JSON, models by a sample of their weights."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from aim_plugins.core.offloading import offloaded_weights

if TYPE_CHECKING:
    from torch.nn import Module

_SAMPLED_VALUES = 64
"""Values of each tensor that enter a fingerprint."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

_NOT_IN_LOGITS = frozenset(
    ("_name_or_path", "architectures", "dtype", "id2label", "label2id", "transformers_version")
)
"""Settings of transformers that change no logit; the type is the weights' own."""

_PASSING_STATE = ("training", "max_seq_len_cached")
"""Numbers of a layer that using the model changes: train() and eval(), and long inputs."""


def fingerprint(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, as 64 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def seed_of(seed: int, *words: object) -> int:
    """A seed for one of many draws, told by words from all others.

    >>> seed_of(0, "run", 1) == seed_of(0, "run", 1) != seed_of(0, "run", 2)
    True
    """
    digest = hashlib.sha256(",".join(map(str, (seed, *words))).encode()).digest()
    return int.from_bytes(digest[:6], "little")


def model_fingerprint(model: Module, architecture: str = "") -> str:
    """Identifies a model by its layers, and its weights by a sample of every tensor.

    Of the layers, what PyTorch prints counts, such as activations and strides, and the numbers they
    hold, such as attention heads, which leave no trace in the weights; so does the configuration of
    a model of transformers. What else a forward method does is not seen: give such models names of
    their own. Sixty-four values of each parameter and buffer are read, so that a model of any size
    takes a moment. A change that misses them all goes unseen; it takes a deliberate edit of single
    weights to do that. Of weights that are offloaded to disk only the model's name is known.

    Args:
        model: The model, on any device.
        architecture: What weights and layers don't tell.

    Returns:
        SHA-256 as 64 hexadecimal digits.
    """
    from torch import Tensor

    digest = hashlib.sha256(architecture.encode())
    settings_of = getattr(getattr(model, "config", None), "to_diff_dict", None)
    if settings_of is not None:
        settings = {key: value for key, value in settings_of().items() if key not in _NOT_IN_LOGITS}
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    # Functions print their address, which is another one in every process.
    digest.update(_ADDRESS.sub("", repr(model)).encode())
    for name, layer in model.named_modules():
        digest.update(f"\n{name} {_numbers_of(layer)}".encode())
    for key, tensor in sorted({**model.state_dict(), **offloaded_weights(model)}.items()):
        if not isinstance(tensor, Tensor):  # some quantizers keep settings there
            digest.update(f"\n{key} {tensor!r}".encode())
            continue
        digest.update(f"\n{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        if tensor.device.type == "meta":
            digest.update(str(getattr(model, "name_or_path", "")).encode())
            continue
        flat = tensor.detach().reshape(-1)
        values = flat[:: max(1, -(-flat.numel() // _SAMPLED_VALUES))]
        digest.update(values.double().cpu().numpy().tobytes())
    return digest.hexdigest()


def _numbers_of(layer: Module) -> list[tuple[str, bool | int | float]]:
    """The public numbers among a layer's attributes."""
    return sorted(
        (key, value)
        for key, value in vars(layer).items()
        if isinstance(value, bool | int | float)
        and key not in _PASSING_STATE
        and not key.startswith("_")
    )
