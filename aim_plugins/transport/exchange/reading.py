"""Steering vectors of other tools as transports, whichever file they lie in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aim_plugins.modulation.activation_map import ActivationMap
from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata
from aim_plugins.transport.exchange.control_vectors import read_control_vectors
from aim_plugins.transport.exchange.features import is_decoder, read_feature
from aim_plugins.transport.exchange.places import full_name, in_order
from aim_plugins.transport.exchange.reft import read_interventions
from aim_plugins.transport.exchange.shifts import (
    read_shift_file,
    read_shifts,
    read_steering_vector,
    shift_map,
)
from aim_plugins.transport.exchange.steered import is_steered, read_steered, read_steered_table
from aim_plugins.transport.exchange.tensors import read_state

METHOD = "imported"
"""The method of a transport whose vectors another tool made."""

_UNKNOWN = "unknown"


def read_vectors(
    path: str | Path,
    model: Any,
    tokenizer: Any = None,
    *,
    positions: str | None = None,
    feature: int | None = None,
    site: str | None = None,
    coefficient: float = 1.0,
) -> LearnedTransport:
    """Reads steering vectors.

    Args:
        path: pyreft's folder, or a file of one of `vocabulary.VECTOR_SUFFIXES`.
        model: The model that they are of.
        tokenizer: Its tokenizer, if known.
        positions: The tokens that they act on; by default what the file says, or else "all".
        feature: Of a sparse autoencoder, the number of the feature; `site` is needed then.
        site: The module whose output the feature is added to.
        coefficient: What the feature's direction is multiplied by.

    Raises:
        ImportError: If it is a GGUF file, and gguf is missing.
        ValueError: If the file is malformed, holds what is no map, or is of another model.
    """
    path = Path(path)
    said = ""
    maps: Mapping[str, ActivationMap]
    if feature is not None and site is not None:
        maps = {full_name(model, site): shift_map(coefficient * read_feature(path, feature))}
    elif path.suffix == ".safetensors" and not path.is_dir():
        if is_decoder(path):
            raise ValueError(
                f"{path} is a sparse autoencoder: say which --feature of it is added at which "
                "--site"
            )
        maps, said = read_shift_file(path, model)
    else:
        maps = _read_others(path, model)
    ordered = in_order(model, maps, positions or said or "all")
    metadata = TransportMetadata.describe(
        model,
        tokenizer,
        method=METHOD,
        sites=ordered.maps,
        positions=ordered.positions,
        pooling=_UNKNOWN,
    )
    return LearnedTransport(ordered, metadata)


def _read_others(path: Path, model: Any) -> Mapping[str, ActivationMap]:
    if path.is_dir():
        return read_interventions(path, model)
    if path.suffix == ".gguf":
        return read_control_vectors(path, model)
    if path.suffix == ".csv":
        return read_steered_table(path, model)
    state = read_state(path, "of a SteeringVector save dataclasses.asdict(vector)")
    if "layer_activations" in state:
        return read_steering_vector(state, model, str(path))
    if is_steered(state):
        return read_steered(state, model, str(path))
    return read_shifts(state, model, str(path))
