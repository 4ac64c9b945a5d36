"""Maps as the tensors that an artifact keeps, and the modules that they fit.

A map called NAME is float32 tensors `NAME.PART`: `.scale`, `.shift`, `.support_min` and
`.support_max` of an affine one, `.up`, `.down` and `.bias` of one of low rank, `.towards` and
`.across` of a rotation. The parts tell the kind.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import torch
from torch import Tensor

from aim_plugins.modulation.activation_map import ActivationMap
from aim_plugins.modulation.activations import AffineMap
from aim_plugins.modulation.hooks import find_module, split_site
from aim_plugins.modulation.low_rank import LowRankMap
from aim_plugins.modulation.mixture import MixtureMap
from aim_plugins.modulation.rotation import RotationMap

KINDS: tuple[type[ActivationMap], ...] = (AffineMap, LowRankMap, RotationMap, MixtureMap)
"""Kinds of maps that are kept."""


def map_tensors(maps: Mapping[str, ActivationMap]) -> dict[str, Tensor]:
    """The tensors of named maps, by the names that they have in a file."""
    return {
        f"{name}.{part}": values.float()
        for name, one in maps.items()
        for part, values in one.parts.items()
    }


def read_maps(
    tensors: Mapping[str, Tensor], names: Iterable[str], clipped: Collection[str]
) -> dict[str, ActivationMap]:
    """Puts maps together from their tensors.

    Args:
        tensors: The tensors, by the names that they have in a file.
        names: Names of the maps.
        clipped: Names of those that clip.

    Raises:
        ValueError: If the tensors are those of other maps, or of none that is finite.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for key, values in tensors.items():
        name, _, part = key.rpartition(".")
        parts.setdefault(name, {})[part] = values.float()
    names = list(names)
    if differing := sorted(set(names) ^ parts.keys()):
        raise ValueError(
            f"its files name different sites (first: {differing[0]!r}): they belong to different "
            "transports"
        )
    maps: dict[str, ActivationMap] = {}
    for name in names:
        kind = next((one for one in KINDS if set(one.PARTS) == parts[name].keys()), None)
        if kind is None:
            raise ValueError(
                f"its file holds {', '.join(sorted(parts[name]))} of {name!r}, which are the parts "
                "of no map"
            )
        _CHECKS[kind](name, parts[name])
        clip = {"clip": name in clipped} if kind is AffineMap else {}
        maps[name] = kind(**parts[name], **clip)
    return maps


def check_map(name: str, one: ActivationMap) -> None:
    """Refuses a map whose tensors do not fit each other, or are not finite.

    Raises:
        ValueError: Naming the map.
    """
    _CHECKS[type(one)](name, one.parts)


def clipped_names(maps: Mapping[str, ActivationMap]) -> list[str]:
    """Names of the maps that clip."""
    return [name for name, one in maps.items() if isinstance(one, AffineMap) and one.clip]


def affine_maps(maps: Mapping[str, ActivationMap], place: str) -> dict[str, AffineMap]:
    """Maps that all act neuron by neuron.

    Args:
        maps: The maps.
        place: What needs them so, for the error.

    Raises:
        ValueError: If one mixes neurons.
    """
    found = {name: one for name, one in maps.items() if isinstance(one, AffineMap)}
    if others := [name for name in maps if name not in found]:
        raise ValueError(
            f"the {maps[others[0]].KIND} map of {others[0]!r} moves neurons by what others are, "
            f"and {place} takes maps of each neuron alone: fit another method, such as linear"
        )
    return found


def check_widths(model: torch.nn.Module, widths: Mapping[str, int], learned_on: str) -> None:
    """Checks that a model has the sites of maps, with as many neurons as they have.

    Args:
        model: The model.
        widths: Neurons of the map of each site.
        learned_on: The model of the maps in words, for errors.

    Raises:
        ValueError: If it lacks a site, or a site has another width. Modules whose width their own
            attributes do not tell are checked when they run.
    """
    learned_on = f"the transport was learned on {learned_on}"
    for site, expected in widths.items():
        name, output = split_site(site)
        try:
            module = find_module(model, name)
        except ValueError as error:
            raise ValueError(f"{learned_on}: {error}") from error
        width = _output_width(module) if output == 0 else None
        if width not in (None, expected):
            raise ValueError(
                f"module {site!r} has {width} neurons, its map {expected}: {learned_on}"
            )


def _check_affine(name: str, vectors: Mapping[str, Tensor]) -> None:
    shapes = {vector: list(values.shape) for vector, values in vectors.items()}
    first = shapes["scale"]
    if len(first) != 1 or not first[0] or any(shape != first for shape in shapes.values()):
        raise ValueError(f"the map of {name!r} needs vectors of one length, not {shapes}")
    _check_finite(name, vectors, ("scale", "shift"))
    if not bool((vectors["support_min"] <= vectors["support_max"]).all()):
        raise ValueError(
            f"support of {name!r}: support_min must not exceed support_max, and neither may be NaN"
        )


def _check_low_rank(name: str, parts: Mapping[str, Tensor]) -> None:
    shapes = {part: list(values.shape) for part, values in parts.items()}
    neurons, rank = (*shapes["up"], 0, 0)[:2]
    wanted = {"up": [neurons, rank], "down": [rank, neurons], "bias": [rank]}
    if not neurons or not rank or shapes != wanted:
        raise ValueError(f"the map of {name!r} needs matrices of one rank, not {shapes}")
    _check_finite(name, parts, LowRankMap.PARTS)


def _check_rotation(name: str, parts: Mapping[str, Tensor]) -> None:
    shapes = {part: list(values.shape) for part, values in parts.items()}
    if len(shapes["towards"]) != 1 or shapes["towards"] != shapes["across"]:
        raise ValueError(f"the map of {name!r} needs two vectors of one length, not {shapes}")
    _check_finite(name, parts, RotationMap.PARTS)
    axes = torch.stack([parts["towards"], parts["across"]]).double()
    if not bool(((axes @ axes.T).cpu() - torch.eye(2)).abs().max() < 1e-4):
        raise ValueError(f"the axes of {name!r} must be unit vectors at a right angle")


def _check_mixture(name: str, parts: Mapping[str, Tensor]) -> None:
    shapes = {part: list(values.shape) for part, values in parts.items()}
    clusters, neurons = (*shapes["centroids"], 0, 0)[:2]
    wanted = {"centroids": [clusters, neurons], "shifts": [clusters, neurons], "masses": [clusters]}
    if not clusters or not neurons or shapes != wanted:
        raise ValueError(f"the map of {name!r} needs a shift and a mass a cluster, not {shapes}")
    _check_finite(name, parts, MixtureMap.PARTS)
    masses = parts["masses"].double()
    if not bool((masses > 0).all()) or abs(float(masses.sum()) - 1) > 1e-4:
        raise ValueError(f"the masses of {name!r} must be above 0 and sum to 1")


def _check_finite(name: str, parts: Mapping[str, Tensor], which: Iterable[str]) -> None:
    for part in which:
        if not bool(parts[part].isfinite().all()):
            raise ValueError(
                f"{part} of {name!r} is not finite: fit the transport again without that site"
            )


_CHECKS: Mapping[type[ActivationMap], Callable[[str, Mapping[str, Tensor]], None]] = {
    AffineMap: _check_affine,
    LowRankMap: _check_low_rank,
    RotationMap: _check_rotation,
    MixtureMap: _check_mixture,
}


def _output_width(module: torch.nn.Module) -> int | None:
    """Neurons of a module's output where its attributes tell: linear layers, embeddings, norms."""
    for attribute in ("out_features", "nf", "embedding_dim"):
        width = getattr(module, attribute, None)
        if isinstance(width, int):
            return width
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.dim() == 1 and weight.numel() > 1:
        return weight.numel()
    return None
