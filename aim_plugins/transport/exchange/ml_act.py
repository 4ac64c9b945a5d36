"""Reading the state dicts that the original implementation of AcT saves.

It writes one file `<module>.statedict` for each module, `<module>:k.statedict` for output k of a
tuple: the pickled state dict of its hook. They are read without running anything in them
(`torch.load(weights_only=True)`). These keys are understood:

- linear_ot: `net.w1` (scale) and `net.b1` (shift), both [1, neurons];
- gaussian_ot and mean_ot, which save the same: `mu1`, `std1` of the source, `mu2`, `std2` of the
  target, [neurons]; neurons with a standard deviation of 1e-4 or less on a side stay as they are;
- aura: `auroc` [neurons];
- beside all but the last: `quantiles_dict_src`, pairs of bounds by name ("q_0_100", ...), and
  `quantiles_src`, the one that was in force: "q_all", a name, or the bounds themselves.

Any other key is refused by name. The files do not say with which pooling or how the hooks were
fitted, but the name of their folder does, as in `incr-linear_ot-mean` or `atonce-aura-max`; of a
folder of another name the caller has to say it. At which positions they act, nothing says.

Source: github.com/apple/ml-act: the hooks (act/hooks/transport.py, act/hooks/aura_hook.py,
act/optimal_transport/archs.py) and `InterventionsManager.get_output_path` (act/scripts/
learn_intervention.py), read for these facts; files that it wrote were not at hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aim_plugins.modulation.activations import AffineMap
from aim_plugins.modulation.hooks import split_site
from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata
from aim_plugins.transport.exchange.places import in_order
from aim_plugins.transport.exchange.tensors import as_vector, read_state
from aim_plugins.transport.vocabulary import POOLINGS, STATEDICT, statedict_files

_METHOD_KEYS = {
    "linear": {"net.w1", "net.b1"},
    "gaussian": {"mu1", "mu2", "std1", "std2"},
    "mean": {"mu1", "mu2", "std1", "std2"},
    "aura": {"auroc"},
}
_SUPPORT_KEYS = {"quantiles_dict_src", "quantiles_src"}
_FOLDER = re.compile(rf"(incr|atonce)-(linear|gaussian|mean|aura)(?:_ot)?-({'|'.join(POOLINGS)})")
_INCREMENTAL = {"incr": "causal", "atonce": "atonce"}
_EVERYWHERE = 1e6
"""Bounds of this size are how the original writes "no support"."""

_MINIMUM_STD = 1e-4


def convert_statedicts(
    folder: str | Path,
    model: Any,
    tokenizer: Any = None,
    *,
    method: str | None = None,
    support: str | None = None,
    positions: str = "all",
    pooling: str | None = None,
    incremental: str | None = None,
) -> LearnedTransport:
    """Reads a folder of the original's state dicts.

    Args:
        folder: Holds `<module>.statedict` files and no transport of another kind.
        model: The model they were learned on.
        tokenizer: Its tokenizer, if known.
        method: "linear", "gaussian", "mean" or "aura"; needed where neither the files nor the
            folder's name tell gaussian from mean.
        support: "none", "minmax" or "qLO_HI"; None takes the one in force when the files were
            written.
        positions: The tokens that the hooks were applied to.
        pooling: How activations were pooled; needed where the folder's name does not say it.
        incremental: "causal" or "atonce"; needed where the folder's name does not say it.

    Raises:
        ValueError: If there are no files, one holds something else or more than tensors, they are
            of different kinds, the folder's name says something else or too little, or the model
            is another one.
    """
    folder = Path(folder)
    states = _read_folder(folder)
    method, pooling, incremental = _how_fitted(folder, method, pooling, incremental)
    found = {path: _method_of(path, state, method) for path, state in states.items()}
    methods = sorted(set(found.values()))
    if len(methods) > 1:
        raise ValueError(f"{folder} mixes the methods {', '.join(methods)}: one folder for each")
    maps, supports = {}, set()
    for path, state in states.items():
        one, used = _read_map(path, state, methods[0], support)
        maps[_site_of(path)] = one
        supports.add(used)
    if len(supports) > 1:
        raise ValueError(f"{folder} mixes the supports {', '.join(sorted(supports))}: say one")
    ordered = in_order(model, maps, positions)
    metadata = TransportMetadata.describe(
        model,
        tokenizer,
        method=methods[0],
        sites=ordered.maps,
        positions=positions,
        pooling=pooling,
        incremental=incremental,
        support=supports.pop(),
    )
    return LearnedTransport(ordered, metadata)


def _how_fitted(
    folder: Path, method: str | None, pooling: str | None, incremental: str | None
) -> tuple[str | None, str, str]:
    """Method, pooling and rule as the caller or the folder's name say, which may not differ.

    Raises:
        ValueError: If they do, or neither says pooling or rule.
    """
    name = folder.resolve().name
    told = _FOLDER.fullmatch(name)
    mode, named, pooled = told.groups() if told else ("", "", "")
    known = {"method": named, "pooling": pooled, "incremental": _INCREMENTAL.get(mode, "")}
    asked = {"method": method, "pooling": pooling, "incremental": incremental}
    for argument, value in asked.items():
        if value and known[argument] and value != known[argument]:
            raise ValueError(
                f"{argument}={value!r}, but the folder's name {name!r} says {known[argument]!r}: "
                f"leave {argument} out, or rename the folder"
            )
        known[argument] = value or known[argument]
    for argument, example in (("pooling", "mean"), ("incremental", "causal")):
        if not known[argument]:
            raise ValueError(
                f"{argument} is missing, and the folder's name {name!r} does not say it, as "
                f"'incr-linear_ot-mean' would: add --{argument} {example}, or what it was"
            )
    return known["method"] or None, known["pooling"], known["incremental"]


def _read_folder(folder: Path) -> dict[Path, dict[str, Any]]:
    return {path: _read_hook(path) for path in statedict_files(folder)}


def _read_hook(path: Path) -> dict[str, Any]:
    state = read_state(path)
    if not all(isinstance(key, str) for key in state):
        raise ValueError(f"{path} has keys that are no names: it is no state dict")
    return state


def _method_of(path: Path, state: Mapping[str, Any], asked: str | None) -> str:
    if asked is not None and asked not in _METHOD_KEYS:
        raise ValueError(f"method={asked!r}: write one of {', '.join(_METHOD_KEYS)}")
    keys = state.keys() - _SUPPORT_KEYS
    fitting = [method for method, own in _METHOD_KEYS.items() if own == keys]
    if not fitting:
        known = set().union(*_METHOD_KEYS.values())
        unknown, missing = sorted(keys - known), sorted(known & keys)
        raise ValueError(
            f"{path} has the keys {', '.join(unknown + missing) or '(none)'}, which are no known "
            "hook's: linear_ot, gaussian_ot, mean_ot and aura are understood"
        )
    if asked is not None and asked not in fitting:
        raise ValueError(f"{path} was saved by a hook for {fitting[0]}, not method={asked!r}")
    if asked is None and len(fitting) > 1:
        raise ValueError(f"{path} fits {' and '.join(fitting)}: say which by method={fitting[0]!r}")
    return asked or fitting[0]


def _read_map(
    path: Path, state: Mapping[str, Any], method: str, support: str | None
) -> tuple[AffineMap, str]:
    vectors = {key: _vector(path, key, state[key]) for key in _METHOD_KEYS[method]}
    if len({len(vector) for vector in vectors.values()}) > 1:
        shapes = {key: len(vector) for key, vector in vectors.items()}
        raise ValueError(f"{path} holds vectors of different lengths: {shapes}")
    scale, shift, moved = _MAPS[method](vectors)
    low, high, used = _bounds(path, state, support, moved)
    everywhere = torch.full_like(scale, torch.inf)
    if low is None or high is None:
        low, high = -everywhere, everywhere
    return AffineMap(scale.float(), shift.float(), low.float(), high.float()), used


def _linear(state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    scale, shift = state["net.w1"], state["net.b1"]
    return scale, shift, torch.ones_like(scale, dtype=torch.bool)


def _gaussian(state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    moved = _spread(state)
    scale = torch.where(moved, state["std2"] / state["std1"], 1.0)
    return scale, torch.where(moved, state["mu2"] - scale * state["mu1"], 0.0), moved


def _mean(state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    moved = _spread(state)
    shift = torch.where(moved, state["mu2"] - state["mu1"], 0.0)
    return torch.ones_like(shift), shift, moved


def _aura(state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    scale = (1 - 2 * (state["auroc"] - 0.5)).clamp(max=1.0)
    return scale, torch.zeros_like(scale), torch.ones_like(scale, dtype=torch.bool)


def _spread(state: Mapping[str, Tensor]) -> Tensor:
    return (state["std1"] > _MINIMUM_STD) & (state["std2"] > _MINIMUM_STD)


_MAPS: dict[str, Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor, Tensor]]] = {
    "linear": _linear,
    "gaussian": _gaussian,
    "mean": _mean,
    "aura": _aura,
}
"""Scale and shift, and which neurons the original transports at all."""


def _bounds(
    path: Path, state: Mapping[str, Any], support: str | None, moved: Tensor
) -> tuple[Tensor | None, Tensor | None, str]:
    """Ends of the support, None where there is none, and the support's name here."""
    quantiles = _quantiles(path, state, len(moved))
    name = (
        _original_name(support) if support is not None else _in_force(path, state, quantiles, moved)
    )
    if name == "q_all":
        return None, None, "none"
    if name not in quantiles:
        known = ", ".join(map(_our_name, quantiles)) or "no bounds"
        raise ValueError(f"{path} has no bounds for support={_our_name(name)!r}; it has {known}")
    return *quantiles[name], _our_name(name)


def _quantiles(
    path: Path, state: Mapping[str, Any], neurons: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """The pairs of bounds that a hook keeps, by the original's names."""
    held = state.get("quantiles_dict_src") or {}
    if not isinstance(held, Mapping):
        raise ValueError(f"{path}: quantiles_dict_src is a {type(held).__name__}, not a mapping")
    bounds = {}
    for name, pair in held.items():
        key = f"quantiles_dict_src[{name!r}]"
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"{path}: {key} is no pair of bounds")
        low, high = (_vector(path, key, one) for one in pair)
        if len(low) != neurons or len(high) != neurons:
            raise ValueError(f"{path}: {key} has another length than the map, {neurons}")
        bounds[str(name)] = (low, high)
    return bounds


def _in_force(
    path: Path,
    state: Mapping[str, Any],
    quantiles: Mapping[str, tuple[Tensor, Tensor]],
    moved: Tensor,
) -> str:
    """The support that the hook had when it was saved, which it replaces by the bounds."""
    held = state.get("quantiles_src", "q_all")
    if isinstance(held, str):
        return held
    if not isinstance(held, list | tuple) or len(held) != 2:
        held = ()
    if held and not any(isinstance(end, Tensor) for end in held):
        if list(held) == [-_EVERYWHERE, _EVERYWHERE]:
            return "q_all"
    elif held and all(isinstance(end, Tensor) for end in held):
        ends = [end.reshape(-1).double() for end in held]
        for name, bounds in quantiles.items():
            # The Gaussian hooks keep the bounds of those neurons only that they transport.
            if all(
                torch.equal(end, bound) or torch.equal(end, bound[moved])
                for end, bound in zip(ends, bounds, strict=True)
            ):
                return name
    raise ValueError(f"{path} does not tell its support in quantiles_src: say support=...")


def _original_name(support: str) -> str:
    if support in ("none", "minmax"):
        return {"none": "q_all", "minmax": "q_0_100"}[support]
    return support if support.startswith("q_") else f"q_{support.removeprefix('q')}"


def _our_name(name: str) -> str:
    return {"q_all": "none", "q_0_100": "minmax"}.get(name, f"q{name.removeprefix('q_')}")


def _vector(path: Path, key: str, value: Any) -> Tensor:
    return as_vector(f"{path}: {key}", value)


def _site_of(path: Path) -> str:
    name, output = split_site(path.name.removesuffix(STATEDICT))
    return f"{name}:{output}" if output else name
