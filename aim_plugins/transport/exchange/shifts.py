"""Vectors that are added to activations, by name: as a mapping, and as a safetensors file.

A key is a module's name, or the number N of a decoder block, alone or as `direction.N`; the vector
is added to that module's output. `SteeringVector` of the package steering-vectors is such a mapping
from block numbers, and its `dataclasses.asdict` says in `layer_type` if they are of another part of
the blocks; what torch saves of the object itself would need its class to be run, and is refused.

Source: github.com/steering-vectors/steering-vectors, steering_vector.py (`SteeringVector`, and the
hook that adds `multiplier` times the vector) and layer_matching.py (`LayerType`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aim_plugins.modulation.activations import AffineMap
from aim_plugins.transport.exchange.places import block_name, full_name
from aim_plugins.transport.exchange.tensors import as_vector, read_safetensors

_NUMBER = re.compile(r"(?:direction\.)?(\d+)")
STEERING_VECTOR_KEYS = {"layer_activations", "layer_type"}


def shift_map(vector: Tensor) -> AffineMap:
    """The map x + vector."""
    shift = vector.float()
    return AffineMap.everywhere(torch.ones_like(shift), shift)


def read_shifts(vectors: Mapping[Any, Any], model: Any, place: str) -> dict[str, AffineMap]:
    """The maps that add named vectors.

    Args:
        vectors: By names of modules, or numbers of blocks.
        model: The model that they are of.
        place: The file, for errors.

    Raises:
        ValueError: If there is none, a value is no vector, or the model lacks a module.
    """
    if not vectors:
        raise ValueError(f"{place} holds no vectors: name another file")
    maps: dict[str, AffineMap] = {}
    for key, value in vectors.items():
        found = _NUMBER.fullmatch(str(key))
        site = block_name(model, int(found[1]), place) if found else full_name(model, str(key))
        if site in maps:
            raise ValueError(f"{place} names {site!r} twice, the second time as {key!r}: keep one")
        maps[site] = shift_map(as_vector(f"{place}: {key}", value))
    return maps


def read_steering_vector(state: Mapping[Any, Any], model: Any, place: str) -> dict[str, AffineMap]:
    """The maps of a `SteeringVector`, given as a mapping of its two fields.

    Raises:
        ValueError: As `read_shifts`; or if the vectors are not of whole blocks.
    """
    kind = state.get("layer_type", "decoder_block")
    vectors = state["layer_activations"]
    if kind != "decoder_block":
        raise ValueError(
            f"{place} is of layer_type={kind!r}, whose modules steering-vectors guesses from their "
            "names: write its vectors to a safetensors file under the modules' names"
        )
    if not isinstance(vectors, Mapping):
        raise ValueError(f"{place}: layer_activations is no mapping from blocks to vectors")
    return read_shifts(vectors, model, place)


def read_shift_file(path: Path, model: Any) -> tuple[dict[str, AffineMap], str]:
    """The maps of a safetensors file of vectors, and the positions that its header says.

    Returns:
        The maps; and "all", "last", or nothing where the header says neither.

    Raises:
        ValueError: As `read_shifts`; or if the file is none of vectors.
    """
    tensors, header = read_safetensors(path)
    return read_shifts(tensors, model, str(path)), header.get("positions", "")
