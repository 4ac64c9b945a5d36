"""Learning a condition: a direction, and where along it the prompts of two sides part.

Half of the prompts give the direction of each site, a quarter chooses site, threshold and side of
it, and the last quarter, which neither has seen, tells how well that parts the sides.

Source: CAST, arXiv 2409.05907, section 3, and its authors' code github.com/IBM/activation-steering,
`read_representations` (PCA of pairs centred one by one) and `find_best_condition_point` (layer,
threshold and comparison by F1), which tries thresholds in steps of 0.01 and holds nothing out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import precision_recall_curve
from torch import Tensor

from aim_plugins.modulation.conditions import Condition, Summary
from aim_plugins.sweep.intervals import wilson_interval
from aim_plugins.sweep.paired import Interval
from aim_plugins.transport.statistics import in_double, principal_direction

LEAST_PROMPTS = 8
"""Prompts of a side below which there is nothing to choose by, and nothing to hold out."""

_PARTS = ("direction", "direction", "choice", "held out")
"""What the prompts of a side are for, in turn."""

Sides = tuple[Float[Tensor, "_ neurons"], Float[Tensor, "_ neurons"]]
"""States of the prompts that a condition should not hold of, and of those that it should."""

Parts = tuple[Shaped[np.ndarray, " _"], Shaped[np.ndarray, " _"]]
"""What each prompt of either side is for: the direction, the choice, or to be held out."""

Similar = Float64[np.ndarray, " _"]
Wanted = Bool[np.ndarray, " _"]


@dataclass(frozen=True)
class Parting:
    """A threshold, and how well it parts the prompts that it was chosen on.

    Attributes:
        f1: F1 score.
        gap: Distance between the similarities on either side, in deviations of all.
        threshold: The threshold, amid them.
        above: Whether what should hold lies above.
    """

    f1: float
    gap: float
    threshold: float
    above: bool


@dataclass(frozen=True)
class Told:
    """How well a condition tells prompts apart, with 95 % intervals.

    Attributes:
        f1: F1 score.
        true_positive_rate: Of those of which it should hold, the share of which it does.
        false_positive_rate: Of the others, the share of which it holds.
    """

    f1: Interval
    true_positive_rate: Interval
    false_positive_rate: Interval

    @property
    def numbers(self) -> dict[str, float]:
        """All of it by name, for metadata."""
        return {
            f"{name}{end}": value
            for name, one in vars(self).items()
            for end, value in (("", one.value), ("_low", one.low), ("_high", one.high))
        }


@dataclass(frozen=True)
class FittedCondition:
    """A condition, and what was found on the way to it.

    Attributes:
        condition: The condition.
        chosen: How well it parts the prompts that it was chosen on.
        held_out: How well it tells those apart that it has not seen.
        n_held_out: How many of either side these are.
        similarities: Of each site those of all prompts of either side, by its own direction.
    """

    condition: Condition
    chosen: Parting
    held_out: Told
    n_held_out: tuple[int, int]
    similarities: Mapping[str, tuple[Similar, Similar]]


def deal(source: Sequence[str], target: Sequence[str], *, paired: bool) -> Parts:
    """Deals the prompts of both sides out to the parts, in turn.

    A prompt is for one part however often it stands there, and partners are for the same: so are
    all that are tied to each other by either, as two partners of one prompt.

    Args:
        source: Prompts that a condition should not hold of.
        target: Those that it should.
        paired: Whether prompts at the same places of both sides are partners.

    Raises:
        ValueError: If sides that are paired differ in length, share a prompt, or have too few.
    """
    if paired and len(source) != len(target):
        raise ValueError(
            f"paired: source has {len(source)} prompts and target {len(target)}: give as many, "
            "partners at the same places of both, or leave it out"
        )
    if both := sorted(set(source) & set(target)):
        raise ValueError(
            f"{len(both)} prompts stand in source and target, such as {both[0][:40]!r}: leave them "
            "out of the side that they do not belong to"
        )
    number = {text: at for at, text in enumerate(dict.fromkeys([*source, *target]))}
    own, others = ([number[text] for text in side] for side in (source, target))
    ties = (own, others) if paired else ([], [])
    graph = coo_array((np.ones(len(ties[0])), ties), shape=(len(number), len(number)))
    _, group = connected_components(graph, directed=False)
    parts: dict[int, str] = {}
    for name, side in (("source", own), ("target", others)):
        groups = dict.fromkeys(int(group[at]) for at in side)
        if len(groups) < LEAST_PROMPTS:
            raise ValueError(
                f"{name} has {len(groups)} prompts that are neither the same nor tied by partners: "
                f"give {LEAST_PROMPTS} or more, of which half give the direction, a quarter the "
                "threshold, and a quarter is held out"
            )
        fresh = [one for one in groups if one not in parts]
        parts |= {one: _PARTS[turn % len(_PARTS)] for turn, one in enumerate(fresh)}
    first, second = (np.array([parts[int(group[at])] for at in side]) for side in (own, others))
    return first, second


def fit_condition(
    states: Mapping[str, Sides], parts: Parts, *, summary: Summary = "mean", paired: bool = True
) -> FittedCondition:
    """Learns the condition that holds of prompts of the target and not of those of the source.

    Args:
        states: States of both sides' prompts at each site, in the order of execution.
        parts: What each of them is for, see `deal`.
        summary: How the states of a prompt's tokens became one.
        paired: Whether prompts at the same places of both sides are partners.

    Raises:
        ValueError: If no site tells the sides apart.
    """
    found: list[tuple[Parting, Condition]] = []
    similarities: dict[str, tuple[Similar, Similar]] = {}
    for site, (source, target) in states.items():
        own, others = (
            side[torch.from_numpy(part == "direction")]
            for side, part in zip((source, target), parts, strict=True)
        )
        direction = condition_direction(own, others, paired=paired)
        if not bool(direction.any()):
            continue
        untried = Condition(site, direction, 0.0, summary=summary)
        similarities[site] = (
            untried.similarity(source).numpy(),
            untried.similarity(target).numpy(),
        )
        parting = best_parting(*_labelled(similarities[site], parts, "choice"))
        if parting is not None:
            condition = Condition(site, direction, parting.threshold, parting.above, summary)
            found.append((parting, condition))
    if not found:
        raise ValueError(
            "no site tells the prompts of source and target apart: at each of them all have one "
            "similarity; give prompts that differ"
        )
    chosen, condition = max(found, key=lambda one: (one[0].f1, one[0].gap))
    similar, wanted = _labelled(similarities[condition.site], parts, "held out")
    held = np.array([condition.holds(float(one)) for one in similar])
    counts = int((~wanted).sum()), int(wanted.sum())
    return FittedCondition(condition, chosen, told(held, wanted), counts, similarities)


def condition_direction(
    source: Float[Tensor, "n neurons"], target: Float[Tensor, "m neurons"], *, paired: bool
) -> Float[Tensor, " neurons"]:
    """The first principal component of pairs, each centred by itself.

    That is the unit vector along which the differences within pairs are longest. Where prompts have
    no partners, each of the source is paired with each of the target. The sign means nothing, as
    the similarity is the same of either; partners of the target lie further along it.
    """
    source, target = in_double(source), in_double(target)
    if paired:
        return principal_direction(source, target).float()
    # The second moment of all differences is that of both sides about their means, and of these.
    between = target.mean(0) - source.mean(0)
    rows = [
        (source - source.mean(0)) / math.sqrt(len(source)),
        (target - target.mean(0)) / math.sqrt(len(target)),
        between[None],
    ]
    direction = torch.linalg.svd(torch.cat(rows), full_matrices=False).Vh[0]
    return (-direction if between @ direction < 0 else direction).float()


def best_parting(similar: Similar, wanted: Wanted) -> Parting | None:
    """The threshold between two similarities, and its side, of the best F1 score.

    Of equals it is the one in the widest gap.

    Args:
        similar: Similarity of each prompt.
        wanted: Whether the condition should hold of it.

    Returns:
        None where all similarities are the same.

    >>> best_parting(np.array([0.1, 0.2, 0.5, 0.7]), np.array([False, False, True, True]))
    Parting(f1=1.0, gap=1.257941804066302, threshold=0.35, above=True)
    """
    spread = float(similar.std())
    partings = []
    for above in (True, False):
        signed = similar if above else -similar
        precision, recall, ends = precision_recall_curve(wanted, signed)
        total = precision + recall
        f1 = 2 * precision * recall / np.where(total > 0, total, 1)
        # What is at an end or beyond holds: between it and the one before lies the threshold.
        for score, low, high in zip(f1[1:-1], ends[:-1], ends[1:], strict=True):
            middle = float(low + high) / 2
            threshold = middle if above else -middle
            partings.append(
                Parting(round(float(score), 12), float(high - low) / spread, threshold, above)
            )
    return max(partings, key=lambda one: (one.f1, one.gap), default=None)


def told(held: Wanted, wanted: Wanted) -> Told:
    """How well a condition tells prompts apart that were not chosen by it.

    Rates have Wilson's interval. So has the share of the right ones among those of which the
    condition holds or should hold, s, and F1 is 2 s / (1 + s).

    Args:
        held: Whether it holds of each prompt.
        wanted: Whether it should.
    """
    hits, false, missed = (
        int((held & wanted).sum()),
        int((held & ~wanted).sum()),
        int((~held & wanted).sum()),
    )
    share = _share(hits, hits + false + missed)
    return Told(
        Interval(*(2 * one / (1 + one) for one in (share.value, share.low, share.high))),
        _share(hits, hits + missed),
        _share(false, int((~wanted).sum())),
    )


def _share(count: int, n: int) -> Interval:
    return Interval(count / n, *wilson_interval(count / n, n))


def _labelled(sides: Sequence[Similar], parts: Parts, name: str) -> tuple[Similar, Wanted]:
    """The similarities of a part of both sides, and which of them are of the target."""
    source, target = (side[part == name] for side, part in zip(sides, parts, strict=True))
    wanted = np.arange(len(source) + len(target)) >= len(source)
    return np.concatenate([source, target]), wanted
