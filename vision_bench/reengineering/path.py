"""The training path: masks of falling ratio, each with its head, of which the best are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aim_plugins.modulation.retained import MaskPoint

_STEP = 0.15
"""Width in the logarithm of the share of the bins of which each has a snapshot for the curve."""


@dataclass(frozen=True)
class Epoch:
    """What an epoch of training left.

    Attributes:
        number: Counted from 0.
        alpha: Weight of the penalty.
        loss: Mean cross-entropy of the training images, in nats.
        share: What the penalty presses on: the retained ratio of masks on weights, the share of
            MACs that gates on channels leave.
        ratio: Share of weights and biases of convolutions and linear layers that is retained.
        accuracy: On the validation split.
    """

    number: int
    alpha: float
    loss: float
    share: float
    ratio: float
    accuracy: float


@dataclass(frozen=True)
class Snapshot:
    """The masks and the head that an epoch left."""

    epoch: Epoch
    point: MaskPoint


@dataclass(frozen=True)
class Choice:
    """Which snapshot of a path is reused, as the authors choose it, but on the validation split.

    Attributes:
        least: The accuracy that is not to be fallen short of.
        most: Instead, the share that is not to be exceeded.

    Source: `Reengineer.alter` of the authors' code, which selects on the test set.
    """

    least: float
    most: float | None = None

    def of(self, path: Sequence[Snapshot]) -> int:
        """The place of the chosen one.

        Of those of at least the accuracy it is the one of the lowest share; where there is none,
        the one of the highest accuracy - share. Of those of at most the share it is the one of the
        highest accuracy; where there is none, the one of the lowest share.
        """
        epochs = [one.epoch for one in path]
        places = range(len(epochs))
        if self.most is None:
            good = [place for place in places if epochs[place].accuracy >= self.least]
            if good:
                return min(good, key=lambda place: epochs[place].share)
            return max(places, key=lambda place: epochs[place].accuracy - epochs[place].share)
        small = [place for place in places if epochs[place].share <= self.most]
        if small:
            return max(small, key=lambda place: epochs[place].accuracy)
        return min(places, key=lambda place: epochs[place].share)


def keep_best(
    path: Sequence[Snapshot], new: Snapshot, limit: int, choice: Choice
) -> list[Snapshot]:
    """Adds a snapshot to a path, and drops what is not needed to draw it or to choose of it.

    Args:
        path: The snapshots kept so far.
        new: The next one.
        limit: How many are kept: of more, the one goes whose neighbours are nearest in the
            logarithm of the share, but never the first, the last, or the chosen one.
        choice: Chooses one; of what is kept it chooses as it would of all.

    Returns:
        The path by falling share.
    """
    every = [*path, new]
    best_of_bin: dict[int, Snapshot] = {}
    for one in sorted(every, key=lambda one: (one.epoch.accuracy, -one.epoch.share)):
        best_of_bin[int(_log_share(one) / _STEP)] = one
    of_bins = {one.epoch.number for one in best_of_bin.values()}
    kept = [one for one in every if one.epoch.number in of_bins or _is_unbeaten(one, every)]
    kept.sort(key=lambda one: -one.epoch.share)
    while len(kept) > max(limit, 3):
        chosen = choice.of(kept)
        inner = [place for place in range(1, len(kept) - 1) if place != chosen]
        gaps = {place: _log_share(kept[place - 1]) - _log_share(kept[place + 1]) for place in inner}
        del kept[min(gaps, key=lambda place: gaps[place])]
    return kept


def _is_unbeaten(snapshot: Snapshot, every: Sequence[Snapshot]) -> bool:
    """Whether no other one is better in share or accuracy, and no worse in both."""
    own = snapshot.epoch
    return not any(
        other.epoch.share <= own.share
        and other.epoch.accuracy >= own.accuracy
        and (other.epoch.share, other.epoch.accuracy) != (own.share, own.accuracy)
        for other in every
    )


def _log_share(snapshot: Snapshot) -> float:
    return math.log(max(snapshot.epoch.share, 1e-6))
