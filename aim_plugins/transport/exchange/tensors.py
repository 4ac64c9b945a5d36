"""Tensors from files that others wrote, read without running anything in them."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from safetensors import SafetensorError, safe_open
from torch import Tensor


def read_state(path: Path, mend: str = "") -> dict[Any, Any]:
    """The mapping that torch saved in a file.

    Args:
        path: The file.
        mend: What to do where it holds more than tensors, for the error.

    Raises:
        ValueError: If it holds more than tensors, texts and numbers, no mapping, or is cut short.
    """
    content = path.read_bytes()  # apart, so that errors of the system keep their own words
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Torch's own message goes on to say how the protection is switched off.
        asked = re.search(r"Unsupported (?:global|class)\S*(?: GLOBAL)? (\S+)", str(error))
        reason = f" (it asks for {asked[1]})" if asked else ""
        raise ValueError(
            f"{path} holds more than tensors{reason} or is no state dict: it is not loaded, since "
            f"that could run code{mend and '; '}{mend}"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is cut short or was not saved by torch: copy it again") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state dict")
    return dict(state)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, and the texts in its header.

    Raises:
        ValueError: If it is no safetensors file, or is cut short.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error}): copy it again") from error


def as_vector(place: str, value: Any) -> Float64[Tensor, " neurons"]:
    """A tensor [..., neurons] with one value for each neuron, as a vector.

    Raises:
        ValueError: If it is another tensor, or none.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() == 0:
        raise ValueError(f"{place} is no tensor of numbers")
    if value.numel() != value.shape[-1]:
        raise ValueError(f"{place} has the shape {list(value.shape)}, not one of neurons")
    return value.detach().reshape(-1).double()
