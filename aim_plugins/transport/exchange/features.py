"""Features of sparse autoencoders as vectors: what a unit of one adds to its reconstruction.

A decoder is `W_dec` [features, neurons], as sparsify and SAELens save it, or the weight of a linear
layer, `decoder.weight` [neurons, features].

Source: github.com/EleutherAI/sparsify, sparse_coder.py (`sae.safetensors`); sae-lens 6.54,
saes/sae.py (`sae_weights.safetensors`).
"""

from __future__ import annotations

from pathlib import Path

from jaxtyping import Float64
from safetensors import SafetensorError, safe_open
from torch import Tensor

from aim_plugins.transport.exchange.tensors import as_vector

_ROWS, _COLUMNS = "W_dec", "decoder.weight"
_BIAS = "b_dec"


def is_decoder(path: Path) -> bool:
    """Whether a safetensors file holds a decoder.

    Raises:
        ValueError: If it is no safetensors file.
    """
    return bool({_ROWS, _COLUMNS} & set(_names(path)))


def read_feature(path: Path, feature: int) -> Float64[Tensor, " neurons"]:
    """The direction of one feature, as long as the decoder has it.

    Raises:
        ValueError: If the file holds no decoder, two, or none of so many features.
    """
    held = sorted({_ROWS, _COLUMNS} & set(_names(path)))
    if len(held) != 1:
        raise ValueError(
            f"{path} holds {' and '.join(held) or 'no decoder'}, where one of {_ROWS} "
            f"[features, neurons] and {_COLUMNS} [neurons, features] is needed"
        )
    with safe_open(path, framework="pt") as file:
        rows = file.get_slice(held[0])  # the row alone: decoders have gigabytes
        shape = rows.get_shape()
        features = shape[held[0] == _COLUMNS] if len(shape) == 2 else 0
        if not 0 <= feature < features:
            raise ValueError(
                f"feature={feature}: {path} has {features} of them: name one from 0 to "
                f"{features - 1}"
            )
        one = rows[feature] if held[0] == _ROWS else rows[:, feature : feature + 1][:, 0]
    return as_vector(f"{path}: feature {feature}", one)


def read_bias(path: Path) -> Float64[Tensor, " neurons"] | None:
    """What the decoder adds besides, if anything."""
    if _BIAS not in _names(path):
        return None
    with safe_open(path, framework="pt") as file:
        return as_vector(f"{path}: {_BIAS}", file.get_tensor(_BIAS))


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error}): copy it again") from error
