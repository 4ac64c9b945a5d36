"""What is kept of a training path, and what is selected of it."""

from __future__ import annotations

import itertools
import random

import pytest

from aim_plugins.modulation.retained import MaskPoint
from vision_bench.reengineering.path import Epoch, Snapshot, keep_best, select


def snapshot(number: int, share: float, accuracy: float) -> Snapshot:
    return Snapshot(Epoch(number, 1.0, 0.5, share, share, accuracy), MaskPoint({}))


def pairs(path: list[Snapshot]) -> list[tuple[float, float]]:
    return [(one.epoch.share, one.epoch.accuracy) for one in path]


def test_the_path_is_what_no_other_epoch_beats() -> None:
    rng = random.Random(0)
    for _ in range(30):
        every = [
            snapshot(number, rng.randint(1, 9) / 10, rng.randint(1, 9) / 10) for number in range(12)
        ]
        path: list[Snapshot] = []
        for one in every:
            path = keep_best(path, one, limit=100)
        # By brute force: a point is kept if no other one has less share and more accuracy.
        points = {(one.epoch.share, one.epoch.accuracy) for one in every}
        best = {
            (share, accuracy)
            for share, accuracy in points
            if not any(
                s <= share and a >= accuracy and (s, a) != (share, accuracy) for s, a in points
            )
        }
        assert set(pairs(path)) == best
        assert len(path) == len(best)
        assert pairs(path) == sorted(best, reverse=True)


def test_of_too_many_the_ends_and_the_widest_gaps_stay() -> None:
    path: list[Snapshot] = []
    for number, share in enumerate((0.8, 0.78, 0.4, 0.2, 0.1)):
        path = keep_best(path, snapshot(number, share, share), limit=4)
    assert [share for share, _ in pairs(path)] in ([0.8, 0.4, 0.2, 0.1], [0.8, 0.78, 0.2, 0.1])
    assert (path[0].epoch.share, path[-1].epoch.share) == (0.8, 0.1)


@pytest.mark.parametrize(
    ("least", "expected"),
    [(0.85, 0.3), (0.9, 0.9), (0.5, 0.1)],
    ids=["smallest of those good enough", "one alone is", "all are"],
)
def test_the_smallest_module_that_is_good_enough_is_selected(least: float, expected: float) -> None:
    path = [snapshot(0, 0.9, 0.92), snapshot(1, 0.3, 0.87), snapshot(2, 0.1, 0.6)]
    for order in itertools.permutations(path):
        assert order[select(order, least)].epoch.share == expected


def test_where_none_is_good_enough_accuracy_less_share_decides() -> None:
    path = [snapshot(0, 0.9, 0.92), snapshot(1, 0.3, 0.87), snapshot(2, 0.1, 0.6)]
    assert path[select(path, 0.99)].epoch.share == 0.3  # .02, .57, .5
