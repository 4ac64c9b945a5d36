"""Steering files of lm-evaluation-harness's model `steered`: `.pt` and CSV.

A `.pt` file maps each hookpoint, a module below the model's head, to `steering_vector` v,
`steering_coefficient` c (1 if it is missing), `action`, `bias` b and `head_index`. The module's
output x becomes

    x + c v             with action "add",
    x + d (c - (x - b)·d), d = v / |v|     with action "clamp".

The second is one map of each neuron only where v has a single neuron that is not 0: that one
becomes b + c d, and the others stay. A direction over several mixes them: refused, as heads are.
A row of a CSV file takes v and b from a sparse autoencoder. Here that has to lie on the disk, and
"add" leaves its bias aside; lm-eval 0.4.13 itself stops at every "add" of a CSV file, since it
passes the bias on and then refuses one.

Source: lm_eval/models/hf_steered.py of lm-eval 0.4.13: `SteeredModel.__init__`, `add`, `clamp` and
`derive_steer_config`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aim_plugins.modulation.activations import AffineMap
from aim_plugins.transport.exchange.features import read_bias, read_feature
from aim_plugins.transport.exchange.places import full_name
from aim_plugins.transport.exchange.shifts import shift_map
from aim_plugins.transport.exchange.tensors import as_vector

_LOADERS = {"sparsify": "sae.safetensors", "sae_lens": "sae_weights.safetensors"}
_NEEDED = ("sparse_model", "hookpoint", "feature_index", "steering_coefficient")


def is_steered(state: Mapping[Any, Any]) -> bool:
    """Whether a mapping is of the form of a steering file."""
    return bool(state) and all(
        isinstance(key, str) and isinstance(value, Mapping) and "steering_vector" in value
        for key, value in state.items()
    )


def read_steered(state: Mapping[str, Mapping[str, Any]], model: Any, place: str) -> dict[str, Any]:
    """The maps of a steering file.

    Args:
        state: What the file holds, by hookpoint.
        model: The model that it is of.
        place: The file, for errors.

    Raises:
        ValueError: If an action is no map of each neuron, or the model lacks a hookpoint.
    """
    maps: dict[str, AffineMap] = {}
    for hookpoint, steering in state.items():
        site = full_name(model, hookpoint)
        if site in maps:
            raise ValueError(f"{place} names the module {site!r} twice: keep one")
        maps[site] = _map_of(steering, f"{place}: {hookpoint}")
    return maps


def _map_of(steering: Mapping[str, Any], place: str) -> AffineMap:
    if steering.get("head_index") is not None:
        raise ValueError(
            f"{place} steers head {steering['head_index']} of outputs with an axis of heads, which "
            "a map of each neuron cannot: leave that hookpoint out"
        )
    vector = as_vector(f"{place}: steering_vector", steering["steering_vector"])
    coefficient = _number(steering.get("steering_coefficient", 1.0), place)
    bias, action = steering.get("bias"), steering.get("action")
    if action == "add":
        if bias is not None:
            raise ValueError(f"{place} has a bias, which lm-eval refuses for 'add': remove it")
        return shift_map(coefficient * vector)
    if action != "clamp":
        raise ValueError(f"{place} has action={action!r}: lm-eval knows 'add' and 'clamp'")
    if bias is not None:
        bias = as_vector(f"{place}: bias", bias)
        if len(bias) != len(vector):
            raise ValueError(f"{place} has a bias of {len(bias)} neurons, its vector {len(vector)}")
    return _clamped(vector, coefficient, bias, place)


def _clamped(vector: Tensor, value: float, bias: Tensor | None, place: str) -> AffineMap:
    (neurons,) = vector.nonzero(as_tuple=True)
    if len(neurons) != 1:
        raise ValueError(
            f"{place} clamps a direction over {len(neurons)} neurons, which moves each by what the "
            "others are; only that of a single neuron is a map of each neuron: use 'add', or leave "
            "that hookpoint out"
        )
    scale, shift = torch.ones_like(vector), torch.zeros_like(vector)
    scale[neurons] = 0.0
    shift[neurons] = vector[neurons].sign() * value
    if bias is not None:
        shift[neurons] += bias[neurons]
    return AffineMap.everywhere(scale.float(), shift.float())


def read_steered_table(path: Path, model: Any) -> dict[str, AffineMap]:
    """The maps of a CSV file of features.

    Raises:
        ValueError: As `read_steered`; or if a column is missing, a row malformed, or its sparse
            model no folder here.
    """
    state: dict[str, dict[str, Any]] = {}
    for place, row in _rows(path):
        hookpoint = row["hookpoint"]
        if not hookpoint:
            raise ValueError(f"{place} names no hookpoint: write the module's name")
        if hookpoint in state:
            raise ValueError(
                f"{place} names {hookpoint!r} again, of which lm-eval keeps the last row alone: "
                "keep one"
            )
        if row.get("head_index"):
            raise ValueError(f"{place} has a head_index, which lm-eval does not read: remove it")
        file = _sparse_file(row, place)
        action = row.get("action") or "add"
        state[hookpoint] = {
            "steering_vector": read_feature(file, int(_number(row["feature_index"], place))),
            "steering_coefficient": _number(row["steering_coefficient"], place),
            "action": action,
            "bias": read_bias(file) if action == "clamp" else None,
        }
    if not state:
        raise ValueError(f"{path} has no rows: name another file")
    return read_steered(state, model, str(path))


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    with open(path, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if lost := [name for name in _NEEDED if name not in (table.fieldnames or ())]:
            raise ValueError(f"{path} lacks the column {lost[0]!r}: lm-eval's has {_NEEDED}")
        for row in table:
            yield f"{path}:{table.line_num}", {key: (row[key] or "").strip() for key in row if key}


def _sparse_file(row: Mapping[str, str], place: str) -> Path:
    loader = row.get("loader") or "sparsify"
    if loader not in _LOADERS:
        raise ValueError(f"{place} has loader={loader!r}: lm-eval knows {', '.join(_LOADERS)}")
    below = row["hookpoint"] if loader == "sparsify" else row.get("sae_id", "")
    file = Path(row["sparse_model"], below, _LOADERS[loader])
    if not file.is_file():
        raise ValueError(
            f"{place}: there is no {str(file)!r}: fetch the sparse model, and name its folder in "
            "the column sparse_model"
        )
    return file


def _number(value: Any, place: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place} has {value!r} where a number is needed") from error
