"""The training path: masks of falling ratio, each with its head, of which the best are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aim_plugins.modulation.retained import MaskPoint


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


def keep_best(path: Sequence[Snapshot], new: Snapshot, limit: int) -> list[Snapshot]:
    """Adds a snapshot to a path, and drops what another one beats in share and accuracy.

    Args:
        path: Snapshots, none of which beats another.
        new: The next one.
        limit: How many are kept: of more, the ones goes whose neighbours are nearest in the
            logarithm of the share, never the first or the last.

    Returns:
        The path by falling share, and so by falling accuracy.
    """
    if any(_beats(one.epoch, new.epoch) for one in path):
        return list(path)
    kept = [one for one in path if not _beats(new.epoch, one.epoch)]
    kept = sorted([*kept, new], key=lambda one: -one.epoch.share)
    while len(kept) > max(limit, 2):
        gaps = [
            _log_share(before) - _log_share(after)
            for before, after in zip(kept[:-2], kept[2:], strict=True)
        ]
        del kept[1 + gaps.index(min(gaps))]
    return kept


def select(path: Sequence[Snapshot], least: float, most: float | None = None) -> int:
    """Which snapshot of a path is reused, as the authors choose it, but on the validation split.

    Args:
        path: Snapshots.
        least: The accuracy that is not to be fallen short of.
        most: Instead, the share that is not to be exceeded.

    Returns:
        Of those of at least this accuracy, the one of the lowest share; where there is none, the
        one of the highest accuracy - share. Of those of at most a share, the one of the highest
        accuracy; where there is none, the one of the lowest share.

    Source: `Reengineer.alter` of the authors' code, which selects on the test set.
    """
    if most is not None:
        small = [place for place, one in enumerate(path) if one.epoch.share <= most]
        if small:
            return max(small, key=lambda place: path[place].epoch.accuracy)
        return min(range(len(path)), key=lambda place: path[place].epoch.share)
    good = [place for place, one in enumerate(path) if one.epoch.accuracy >= least]
    if good:
        return min(good, key=lambda place: path[place].epoch.share)
    return max(range(len(path)), key=lambda place: _merit(path[place].epoch))


def _beats(one: Epoch, other: Epoch) -> bool:
    """Whether one is no worse in both, so that the other is not needed."""
    return one.share <= other.share and one.accuracy >= other.accuracy


def _merit(epoch: Epoch) -> float:
    return epoch.accuracy - epoch.share


def _log_share(snapshot: Snapshot) -> float:
    return math.log(max(snapshot.epoch.share, 1e-6))
