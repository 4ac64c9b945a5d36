"""Maps as the vectors that an artifact keeps, and the modules that they fit.

A map called NAME is the float32 vectors `NAME.scale`, `.shift`, `.support_min` and `.support_max`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

from aim_plugins.modulation.activations import AffineMap
from aim_plugins.modulation.hooks import find_module, split_site

VECTORS = ("scale", "shift", "support_min", "support_max")
"""The vectors of a map."""


def map_tensors(maps: Mapping[str, AffineMap]) -> dict[str, Tensor]:
    """The vectors of named maps, by the names that they have in a file."""
    return {
        f"{name}.{vector}": values.float()
        for name, one in maps.items()
        for vector, values in _vectors_of(one).items()
    }


def read_maps(
    tensors: Mapping[str, Tensor], names: Iterable[str], clipped: Collection[str]
) -> dict[str, AffineMap]:
    """Puts maps together from their vectors.

    Args:
        tensors: The vectors, by the names that they have in a file.
        names: Names of the maps.
        clipped: Names of those that clip.

    Raises:
        ValueError: If the vectors are those of other maps, or of none that is finite.
    """
    names = list(names)
    expected = {f"{name}.{vector}" for name in names for vector in VECTORS}
    if differing := sorted(expected ^ tensors.keys()):
        raise ValueError(
            f"its files name different sites (first: {differing[0]!r}): they belong to different "
            "transports"
        )
    maps = {}
    for name in names:
        vectors = {vector: tensors[f"{name}.{vector}"].float() for vector in VECTORS}
        _check_vectors(name, vectors)
        maps[name] = AffineMap(**vectors, clip=name in clipped)
    return maps


def check_map(name: str, one: AffineMap) -> None:
    """Refuses a map that is none of finite vectors of one length.

    Raises:
        ValueError: Naming the map.
    """
    _check_vectors(name, _vectors_of(one))


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


def _vectors_of(one: AffineMap) -> dict[str, Tensor]:
    return {vector: getattr(one, vector) for vector in VECTORS}


def _check_vectors(name: str, vectors: Mapping[str, Tensor]) -> None:
    shapes = {vector: list(values.shape) for vector, values in vectors.items()}
    first = shapes["scale"]
    if len(first) != 1 or not first[0] or any(shape != first for shape in shapes.values()):
        raise ValueError(f"the map of {name!r} needs vectors of one length, not {shapes}")
    for vector in ("scale", "shift"):
        if not bool(vectors[vector].isfinite().all()):
            raise ValueError(
                f"{vector} of {name!r} is not finite: fit the transport again without that site"
            )
    if not bool((vectors["support_min"] <= vectors["support_max"]).all()):
        raise ValueError(
            f"support of {name!r}: support_min must not exceed support_max, and neither may be NaN"
        )


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
