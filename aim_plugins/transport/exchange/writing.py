"""Vectors of transports for other tools: GGUF for llama.cpp and repeng, and safetensors."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import safetensors.torch
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from aim_plugins.core.files import sync_folder, temporary_path, write_atomic
from aim_plugins.modulation.activations import AffineMap
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.exchange.control_vectors import write_control_vectors
from aim_plugins.transport.exchange.places import block_number
from aim_plugins.transport.vectors import affine_maps


def write_vectors(transport: LearnedTransport, path: str | Path, strength: float = 1.0) -> Path:
    """Writes the vectors that a transport adds.

    Args:
        transport: A transport whose maps do nothing but add.
        path: A file: `.gguf` has the vectors of whole blocks, by their number; any other is
            safetensors, with a vector under each module's name and `positions` in its header.
        strength: What they are multiplied by.

    Returns:
        The file.

    Raises:
        ImportError: If it is to be a GGUF file, and gguf is missing.
        ValueError: If a map does more than add; or, for GGUF, is not of a block behind the first
            or does not act on all tokens.
    """
    path = Path(path)
    maps = affine_maps(transport.maps.maps, "a file of steering vectors")
    vectors = {site: strength * _shift_of(site, one) for site, one in maps.items()}
    if path.suffix == ".gguf":
        _write_gguf(transport, path, vectors)
        return path
    header = {"format": "pt", "positions": transport.maps.positions}
    return write_atomic(path, safetensors.torch.save(vectors, metadata=header))


def _shift_of(site: str, one: AffineMap) -> Tensor:
    """What a map adds to every activation."""
    if bool((one.scale != 1).any()):
        raise ValueError(
            f"the map of {site!r} scales neurons, and a steering vector is only added: fit mean, "
            "caa, actadd, iti or pca"
        )
    if one.is_bounded and not one.clip:  # a scale of 1 moves what lies outside as what is inside
        raise ValueError(
            f"the map of {site!r} has a support, and a steering vector acts everywhere: fit with "
            "--support none"
        )
    return one.shift.detach().cpu().float().contiguous().clone()


def _write_gguf(transport: LearnedTransport, path: Path, vectors: dict[str, Tensor]) -> None:
    if transport.maps.positions != "all":
        raise ValueError(
            f"the transport acts on {transport.maps.positions} tokens, and control vectors on all: "
            "fit with --positions all, or write safetensors"
        )
    numbered = {_number_of(site): vector for site, vector in vectors.items()}
    temporary = temporary_path(path)
    try:
        write_control_vectors(temporary, numbered, _model_type(transport))
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    sync_folder(path.parent)


def _number_of(site: str) -> int:
    number = block_number(site)
    if number is None:
        raise ValueError(
            f"{site!r} is no decoder block, and control vectors are added to whole blocks: fit "
            r"with --modules 'model\.layers\.\d+', or write safetensors"
        )
    if number == 0:
        raise ValueError(
            f"{site!r} is the first block, which llama.cpp has no control vector for: fit without "
            "it, or write safetensors"
        )
    return number


def _model_type(transport: LearnedTransport) -> str:
    """What transformers calls the architecture; its class where that is not known."""
    architecture = str(transport.metadata.model_signature.get("architecture", ""))
    kinds = [
        kind for kind, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if name == architecture
    ]
    # Several kinds share a class, such as Llama's, which is called after one of them.
    own = [one for one in kinds if architecture.lower().startswith(one.replace("_", ""))]
    return next(iter(own + kinds), architecture)
