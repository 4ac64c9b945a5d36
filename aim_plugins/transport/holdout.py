"""How far a map moves responses, and how much of that holds on sentences it was not learned from.

Both are in units of the neurons' spread, the deviation of responses within a side. What holds is
told by cross-fitting: a map is learned on three quarters of the sentences of each side and held
against the last quarter. There, with d what the map adds to source responses, and g what would
carry these to the target's (equal quantiles),

    share = sum(d g) / sum(d d),

the factor that the map's moves have to be shrunk by to come nearest to those that are needed: 1
where they are right, 0 where they only follow the sentences that they were learned from. Sentences
at the same places of both sides are held out together: of partners, what they have in common does
not count as chance, and listed in another order they are no partners. Earlier
sites' maps have seen all sentences. Where both sides go through them, or none, that favours no
sentence; where the source side alone does ("source"), the share is too high.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from aim_plugins.modulation.activation_map import ActivationMap
from aim_plugins.transport.maps import fit_map
from aim_plugins.transport.methods.method import Method
from aim_plugins.transport.statistics import (
    constant_neurons,
    in_double,
    optimal_coupling,
    sorted_samples,
)

_FOLDS = 4
_FEW = 1024  # responses of a side whose folds are fitted together

Samples = Float[Tensor, "responses neurons"]


def moved_spreads(learned: ActivationMap, source: Samples, target: Samples) -> float | None:
    """Mean over neurons and source responses of the distance that a map moves them by.

    Returns:
        None where a single response tells no spread.
    """
    if min(len(source), len(target)) < 2:
        return None
    moves = in_double(learned.displacement(source)).abs().cpu()
    return float((moves * _inverse_spread(source, target)).mean())


def held_share(
    method: Method,
    support: str,
    source: Samples,
    target: Samples,
    owners: tuple[Int[Tensor, " n"], Int[Tensor, " m"]],
) -> float | None:
    """The share of a map's moves that holds on sentences held out from its fit.

    Args:
        method: Learns the map.
        support: Where it acts.
        source: Responses of source sentences.
        target: Responses of target sentences.
        owners: For each response of a side, the number of its sentence in that side.

    Returns:
        None of methods that do not aim at the target, and where there are too few sentences or
        nothing moves.
    """
    fewest = min(int(one.max()) + 1 for one in owners)
    if not method.aimed or fewest <= max(method.minimum_samples, 2):
        return None
    agreeing, moving = 0.0, 0.0
    folds = min(_FOLDS, fewest)
    for together in _held_out(owners, folds, apart=method.joint or len(source) > _FEW):
        known_source, held_source = _split(source, [first for first, _ in together])
        known_target, held_target = _split(target, [second for _, second in together])
        learned = fit_map(method, support, known_source, known_target, "held out")
        # Of all sentences, it would favour neurons where the two parts agree by chance.
        unit = _inverse_spread(known_source, known_target)
        moves, needed, weights = _moves(learned, held_source, held_target)
        moves, needed = moves * unit[:, None], needed * unit[:, None]
        agreeing += float((moves * needed * weights).sum())
        moving += float((moves.square() * weights).sum())
    return agreeing / moving if moving else None


def _held_out(
    owners: tuple[Int[Tensor, " n"], Int[Tensor, " m"]], folds: int, *, apart: bool
) -> list[list[tuple[Tensor, Tensor]]]:
    """Which responses of either side each fold holds out.

    Args:
        owners: For each response of a side, the number of its sentence in that side.
        folds: Number of folds.
        apart: Whether to fit each fold by itself. Otherwise those of as many responses are fitted
            together, as if each had neurons of its own, which of few responses takes less time.
    """
    groups: dict[Any, list[tuple[Tensor, Tensor]]] = {}
    for fold in range(folds):
        first, second = (one % folds == fold for one in owners)
        group = fold if apart else (int(first.sum()), int(second.sum()))
        groups.setdefault(group, []).append((first, second))
    return list(groups.values())


def _split(samples: Samples, held_out: Sequence[Tensor]) -> tuple[Samples, Samples]:
    """What folds keep and what they hold out, in columns of their own."""
    masks = [one.to(samples.device) for one in held_out]
    parts = ([samples[mask == away] for mask in masks] for away in (False, True))
    known, held = (torch.cat(part, 1) for part in parts)
    return known, held


def _moves(
    learned: ActivationMap, source: Samples, target: Samples
) -> tuple[Float64[Tensor, "neurons pairs"], Float64[Tensor, "neurons pairs"], Tensor]:
    """What a map adds to source quantiles, what carries them to the target's, and their weights."""
    ordered, aims = (sorted_samples(in_double(side)) for side in (source, target))
    added = in_double(learned.to("cpu", torch.float64).displacement(ordered.T.cpu())).T
    starts, ends, weights = optimal_coupling(len(source), len(target))
    ordered, aims = ordered.cpu(), aims.cpu()
    return added[:, starts], aims[:, ends] - ordered[:, starts], weights


def _inverse_spread(source: Samples, target: Samples) -> Float64[Tensor, " neurons"]:
    """1 over the deviation within a side; 0 of neurons that do not vary."""
    variance = (_variance(source) + _variance(target)) / 2
    varies = ~(constant_neurons(source) & constant_neurons(target))
    return torch.where(varies.to(variance.device), variance.rsqrt(), 0.0).cpu()


def _variance(samples: Samples) -> Float64[Tensor, " neurons"]:
    """The unbiased variance, several times faster than `Tensor.var` along rows."""
    values = in_double(samples)
    return (values - values.mean(0)).square().sum(0) / (len(values) - 1)
