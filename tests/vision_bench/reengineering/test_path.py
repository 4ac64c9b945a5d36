"""What is kept of a training path, and what is selected of it."""

from __future__ import annotations

import itertools
import random

import pytest

from aim_plugins.modulation.retained import MaskPoint
from vision_bench.reengineering.path import Choice, Epoch, Snapshot, keep_best


def snapshot(number: int, share: float, accuracy: float) -> Snapshot:
    return Snapshot(Epoch(number, 1.0, 0.5, share, share, accuracy), MaskPoint({}))


def pairs(path: list[Snapshot]) -> list[tuple[float, float]]:
    return [(one.epoch.share, one.epoch.accuracy) for one in path]


ANY = Choice(least=0.0)


def random_epochs(rng: random.Random, count: int) -> list[Snapshot]:
    return [
        snapshot(number, rng.randint(1, 20) / 20, rng.randint(1, 9) / 10) for number in range(count)
    ]


def kept_of(every: list[Snapshot], limit: int, choice: Choice) -> list[Snapshot]:
    path: list[Snapshot] = []
    for one in every:
        path = keep_best(path, one, limit, choice)
    return path


@pytest.mark.parametrize("limit", [3, 4, 100])
@pytest.mark.parametrize("choice", [Choice(0.5), Choice(0.9), Choice(2.0), Choice(0.5, 0.3)])
def test_of_what_is_kept_the_same_is_chosen_as_of_all(choice: Choice, limit: int) -> None:
    rng = random.Random(0)
    for _ in range(60):
        every = random_epochs(rng, 15)
        path = kept_of(every, limit, choice)
        of_path, of_all = path[choice.of(path)].epoch, every[choice.of(every)].epoch
        if choice.most is None or of_all.share <= choice.most:
            # As good in both: of equal ones either may be kept.
            assert merit(of_path, choice) == merit(of_all, choice)
        assert len(path) <= limit
        assert [one.epoch.share for one in path] == sorted(
            (one.epoch.share for one in path), reverse=True
        )


def merit(epoch: Epoch, choice: Choice) -> float:
    if choice.most is not None:
        return epoch.accuracy
    return -epoch.share if epoch.accuracy >= choice.least else epoch.accuracy - epoch.share


def test_with_room_the_path_holds_whatever_no_other_epoch_beats() -> None:
    rng = random.Random(1)
    for _ in range(30):
        every = random_epochs(rng, 12)
        kept = set(pairs(kept_of(every, 100, ANY)))
        points = set(pairs(every))
        best = {
            (share, accuracy)
            for share, accuracy in points
            if not any(
                s <= share and a >= accuracy and (s, a) != (share, accuracy) for s, a in points
            )
        }
        assert best <= kept <= points


def test_where_accuracy_stays_the_path_still_has_points_along_the_share() -> None:
    every = [snapshot(number, 0.9**number, 1.0) for number in range(30)]
    shares = [one.epoch.share for one in kept_of(every, 5, ANY)]
    assert len(shares) == 5
    assert shares[0] > 0.85
    assert shares[-1] == 0.9**29


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice(0.85), 0.3),
        (Choice(0.9), 0.9),
        (Choice(0.5), 0.1),
        (Choice(0.99), 0.3),  # none is good enough, and accuracy - share is .02, .57, .5
        (Choice(0.99, most=0.5), 0.3),
        (Choice(0.0, most=0.05), 0.1),  # none is small enough
    ],
)
def test_the_module_that_is_asked_for_is_chosen(choice: Choice, expected: float) -> None:
    path = [snapshot(0, 0.9, 0.92), snapshot(1, 0.3, 0.87), snapshot(2, 0.1, 0.6)]
    for order in itertools.permutations(path):
        assert order[choice.of(order)].epoch.share == expected
