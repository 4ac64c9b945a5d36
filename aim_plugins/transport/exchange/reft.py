"""Low-rank interventions of pyreft.

All kinds of pyreft's are h + U (V h + b). Where U V is diagonal each neuron decides on itself
alone, and the map is read as an affine one, which runs everywhere: always that of LobiReFT,
h + R^T b, and others' where the rank-r part happens to be (LoReFT whose W is its R; ConsReFT along
single neurons).

A folder has `config.json`, which names the kind of each, and `intkey_<key>.bin` with its state,
where the key tells layer and component. At which positions they act, nothing in them says: pyreft
takes some of the prompt's.

Source: github.com/stanfordnlp/pyreft, pyreft/interventions.py; `IntervenableModel.save` and
`_get_representation_key` of github.com/stanfordnlp/pyvene. `act_fn`, which neither file says, is
taken to be pyreft's default, linear.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aim_plugins.modulation.activation_map import ActivationMap
from aim_plugins.modulation.activations import AffineMap
from aim_plugins.modulation.low_rank import LowRankMap
from aim_plugins.transport.exchange.places import block_name
from aim_plugins.transport.exchange.tensors import read_state
from aim_plugins.transport.vocabulary import intervention_files

_KEY = re.compile(r"intkey_layer[._](\d+)[._](?:comp|repr)[._](\w+?)[._]unit[._].*\.bin")
_OFF_DIAGONAL = 1e-6
"""Largest share of a map's largest entry that rounding may leave off the diagonal."""

LowRank = tuple[Tensor, Tensor, Tensor]
"""U [neurons, rank], V [rank, neurons] and b [rank] of h + U (V h + b)."""


def read_interventions(folder: Path, model: Any) -> dict[str, ActivationMap]:
    """The maps of a folder of pyreft's.

    Raises:
        ValueError: If a file is of another layout, an intervention acts on something else than a
            block's output, or the model lacks the block.
    """
    paths = intervention_files(folder)
    kinds = _kinds(folder, len(paths))
    maps: dict[str, ActivationMap] = {}
    for path in paths:
        found = _KEY.fullmatch(path.name)
        if found is None or found[2] != "block_output":
            raise ValueError(
                f"{path} is not of a block's output, the only component that is read: its name "
                "would go on as intkey_layer_N_comp_block_output_unit_"
            )
        site = block_name(model, int(found[1]), str(path))
        if site in maps:
            raise ValueError(f"{folder} has several interventions on {site!r}: keep one")
        maps[site] = _map_of(_low_rank(path, kinds))
    return maps


def _kinds(folder: Path, count: int) -> str:
    """The kind of the interventions, in pyreft's word."""
    path = folder / "config.json"
    try:
        held = json.loads(path.read_text("utf-8"))["intervention_types"]
        names = {re.findall(r"(\w+)'?>?$", str(one))[0] for one in held}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"{path} does not say the intervention_types: copy the folder that pyreft saved"
        ) from error
    if len(names) != 1:
        raise ValueError(f"{path} names the kinds {', '.join(sorted(names))}: one for a folder")
    (name,) = names
    if name not in _KINDS:
        raise ValueError(f"{path} names {name}, where {', '.join(_KINDS)} are understood")
    return name


def _low_rank(path: Path, kind: str) -> LowRank:
    state = read_state(path)
    try:
        held = {key: one.double() for key, one in state.items() if isinstance(one, Tensor)}
        up, down, bias = _KINDS[kind](held)
        up @ (down @ up[:, 0] + bias)
    except (KeyError, RuntimeError, IndexError) as error:
        shapes = {key: list(getattr(one, "shape", ())) for key, one in state.items()}
        raise ValueError(f"{path} is no state of a {kind}: it holds {shapes}") from error
    return up, down, bias


def _map_of(parts: LowRank) -> ActivationMap:
    up, down, bias = parts
    mixing = up @ down
    own = mixing.diagonal().clone()
    largest = float(mixing.abs().amax())
    off = float((mixing - own.diag()).abs().amax())
    if off > _OFF_DIAGONAL * max(largest, 1.0):
        return LowRankMap(up.float().contiguous(), down.float().contiguous(), bias.float())
    return AffineMap.everywhere((1 + own).float(), (up @ bias).float())


def _rotation(held: Mapping[str, Tensor]) -> Tensor:
    """The orthonormal columns that torch computes from what its parametrization keeps."""
    kept = "rotate_layer.parametrizations.weight"
    original = held[f"{kept}.original"]
    layer = nn.Module()
    layer.weight = nn.Parameter(torch.eye(*original.shape, dtype=torch.double))
    nn.utils.parametrizations.orthogonal(layer)
    layer.load_state_dict(
        {
            "parametrizations.weight.original": original,
            "parametrizations.weight.0.base": held[f"{kept}.0.base"],
        }
    )
    rotation: Tensor = layer.weight
    return rotation.detach()


def _loreft(held: Mapping[str, Tensor]) -> LowRank:
    rotation = held["rotate_layer"]
    return rotation, held["weight"] - rotation.T, held["bias"]


def _consreft(held: Mapping[str, Tensor]) -> LowRank:
    rotation = _rotation(held)
    return rotation, -rotation.T, held["learned_source"]


def _lobireft(held: Mapping[str, Tensor]) -> LowRank:
    rotation = _rotation(held)
    return rotation, torch.zeros_like(rotation.T), held["learned_source"]


def _direft(held: Mapping[str, Tensor]) -> LowRank:
    return _rotation(held), held["learned_source.weight"], held["learned_source.bias"]


def _nodireft(held: Mapping[str, Tensor]) -> LowRank:
    source = held["learned_source.weight"], held["learned_source.bias"]
    return held["proj_layer.weight"].T, *source


def _noreft(held: Mapping[str, Tensor]) -> LowRank:
    up, down, bias = _nodireft(held)
    return up, down - up.T, bias - held.get("proj_layer.bias", torch.zeros_like(bias))


_KINDS: dict[str, Callable[[Mapping[str, Tensor]], LowRank]] = {
    "LoreftIntervention": _loreft,
    "NoreftIntervention": _noreft,
    "ConsreftIntervention": _consreft,
    "LobireftIntervention": _lobireft,
    "DireftIntervention": _direft,
    "NodireftIntervention": _nodireft,
}
