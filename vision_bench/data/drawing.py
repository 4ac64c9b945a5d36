"""Drawing some of many images, by seed and by what they are drawn for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from aim_plugins.core.identity import seed_of


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


def draw_of_each(
    kinds: Int[Tensor, " n"], share: float, seed: int, word: str, *, least: int = 0
) -> Bool[Tensor, " n"]:
    """Whether each is drawn: of every kind the share, to the nearest one.

    Args:
        kinds: What kind each is of, such as its class.
        share: Share of each kind.
        seed: Seed of all draws.
        word: What tells this one from others.
        least: How many of each kind are drawn at least, and how many are left.
    """
    drawn = torch.zeros(len(kinds), dtype=torch.bool)
    for kind in kinds.unique().tolist():
        members = (kinds == kind).nonzero().flatten()
        count = min(max(least, round(share * len(members))), len(members) - least)
        drawn[draw(members, count, seed, word, kind)] = True
    return drawn
