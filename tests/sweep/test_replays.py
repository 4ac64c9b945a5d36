"""What is called better where nothing is, on stored answers of `make demo`'s model.

`benchmarks/results/demo/documents.jsonl` is what its sweep keeps of 367 questions in 3 tasks, at
17 strengths and 5 draws. Documents whose two answers change places at random leave no difference to
find, and everything else as it was.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import aim_plugins
from aim_plugins.sweep.contrasts import contrast, corrected
from aim_plugins.sweep.documents import ScoreTable, read_scores, score_tables

STORED = Path(aim_plugins.__file__).parents[1] / "benchmarks/results/demo/documents.jsonl"
REPLAYS = 200


@pytest.fixture(scope="module")
def tables() -> list[ScoreTable]:
    return score_tables(read_scores(STORED))


def swapped(
    table: ScoreTable, strength: float, draws: int, rng: np.random.Generator
) -> tuple[ScoreTable, ScoreTable]:
    """Two models that are equally good: of each document a coin says whose answers are whose."""
    plain, changed = (table.cells[one,][:, :draws] for one in (0.0, strength))
    coin = rng.random((len(plain), 1)) < 0.5
    pair = np.where(coin, plain, changed), np.where(coin, changed, plain)
    one, other = (
        ScoreTable(table.task, "score", table.documents, {(strength,): values}) for values in pair
    )
    return one, other


@pytest.mark.parametrize("draws", [1, 5])
def test_at_most_5_percent_of_replays_call_anything_better(tables, draws):
    rng, wrong = np.random.default_rng(0), 0
    strengths = [one for (one,) in tables[0].cells if one > 0]
    for replay in range(REPLAYS):
        strength = strengths[replay % len(strengths)]
        found = []
        for table in tables:
            first, second = swapped(table, strength, draws, rng)
            at = (strength,)
            found.append(contrast(first, at, second, at, shared_draws=False, span=1.0))
        wrong += any(one.is_clear for one in corrected(found))
    # Better or worse, in any of three tasks.
    assert wrong / REPLAYS <= 0.05


def test_what_does_differ_is_called(tables):
    found = corrected(
        [contrast(t, (8.0,), t, (0.0,), shared_draws=False, span=1.0) for t in tables]
    )
    assert all(one.is_clear and one.difference.value < 0 for one in found)


def test_shared_noise_makes_pairs_tighter_than_two_samples(tables):
    near = [contrast(t, (0.5,), t, (0.0,), shared_draws=False, span=1.0) for t in tables]
    far = [contrast(t, (8.0,), t, (0.0,), shared_draws=False, span=1.0) for t in tables]
    assert all(one.tightness < 0.5 for one in near)
    assert all(a.tightness < b.tightness for a, b in zip(near, far, strict=True))
