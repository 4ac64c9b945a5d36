"""Which images are attributed and select, and which are tested: no image does both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from aim_plugins.core.identity import seed_of
from vision_bench.data.classification import ClassificationData


def split_images(
    data: ClassificationData, share: float, seed: int, named: Sequence[str] = ()
) -> tuple[list[int], list[int]]:
    """Parts images in two, each class and each group in the same proportion.

    Args:
        data: The images.
        share: Share of them that is attributed and selects.
        seed: Seed of the draw.
        named: Names of images that are attributed in any case.

    Returns:
        Positions of those, and of the others, which are tested.

    Raises:
        ValueError: If there are too few images for both.
    """
    kinds = data.labels if data.groups is None else data.groups
    taken = torch.zeros(len(data), dtype=torch.bool)
    for kind in kinds.unique().tolist():
        members = (kinds == kind).nonzero().flatten()
        taken[draw(members, round(share * len(members)), seed, "selection", kind)] = True
    places = {name: place for place, name in enumerate(data.names)}
    taken[[places[name] for name in named if name in places]] = True
    if not taken.any() or taken.all():
        raise ValueError(
            f"selection_share={share:g} of the {len(data)} images of {data.title} leaves none to "
            "select by, or none to test: give more images, or another share"
        )
    return taken.nonzero().flatten().tolist(), (~taken).nonzero().flatten().tolist()


def draw(
    members: Int[Tensor, " n"] | Sequence[int], count: int, seed: int, *words: object
) -> Int[Tensor, " count"]:
    """Some of many, ascending; all where there are not more.

    Args:
        members: What they are drawn from.
        count: How many.
        seed: Seed of all draws.
        words: What tells this one from others.
    """
    every = torch.as_tensor(members, dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed_of(seed, *words))
    order = torch.randperm(len(every), generator=generator)
    return every[order[:count]].sort().values


def without(positions: Sequence[int], others: Sequence[int]) -> list[int]:
    """Those positions that are not among others, in their order."""
    left_out = set(others)
    return [one for one in positions if one not in left_out]
