"""Telling one model's weights from another's without reading all of them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor


def fingerprint(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, as 64 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def model_fingerprint(model: torch.nn.Module) -> str:
    """Identifies a model's weights: names, shapes, dtypes and a sample of every tensor.

    Sixteen values of each parameter and buffer are read, so that a model of any size takes a
    moment. A change that misses them all goes unseen; it takes a deliberate edit of single weights
    to do that. Of weights that are offloaded to disk only the model's name is known.
    """
    sample: list[list[Any]] = []
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, Tensor):  # some quantizers keep settings there
            sample.append([name, repr(tensor)])
            continue
        bits = [str(getattr(model, "name_or_path", ""))]
        if tensor.device.type != "meta":
            flat = tensor.detach().reshape(-1)
            values = flat[:: max(1, flat.numel() // 16)][:16].double().cpu().tolist()
            bits = [value.hex() for value in values]
        sample.append([name, list(tensor.shape), str(tensor.dtype), bits])
    return fingerprint(sample)
