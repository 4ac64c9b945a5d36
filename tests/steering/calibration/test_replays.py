"""Replays of a calibration's verdicts, on results with a planted difference and without one."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

import aim_plugins
from aim_plugins.steering.calibration.entries import CurvePoint, Entry
from aim_plugins.steering.calibration.replays import label_permuted, replay_verdicts
from aim_plugins.sweep.estimates import Estimate

PROMPTS, LINES = 32, 6
STORED = Path(aim_plugins.__file__).parents[1] / "benchmarks/results/demo"


def entry(name, kind, effects):
    cost = Estimate(0.1, 0.01, 10)
    point = CurvePoint(1.0, cost, cost, tuple(effects), "sentiment", 1, (True, False, True))
    return Entry(name, kind, "all", True, 0.0, point, (point,))


def write(folder, gain, metric="sentiment", rounding=None):
    """A calibration whose methods are all the prompt, but the first, which is above it."""
    draw = random.Random(3)
    easy = [draw.gauss(0, 0.4) for _ in range(PROMPTS)]

    def effects(shift):
        found = [one + shift + draw.gauss(0, 0.1) for one in easy]
        return [round(one, rounding) if rounding is not None else one for one in found]

    entries = [entry("plain model", "plain", effects(0)), entry("prompt", "prompt", effects(0))]
    entries += [
        entry(f"method {place}", "method", effects(gain if place == 0 else 0))
        for place in range(LINES)
    ]
    held = [{"name": f"method {place}", "other": "prompt"} for place in range(LINES)]
    content = {
        "metric": metric,
        "lower_is_better": False,
        "entries": [one.as_json() for one in entries],
        "verdicts": {"plain": [], "prompt": held},
    }
    (folder / "calibration.json").write_text(json.dumps(content))
    return entries


@pytest.mark.parametrize("name", ["sea", "sentiment"])
def test_at_most_5_percent_of_replays_of_the_demo_call_anything_better(name):
    """Of `make demo-act`: eight methods and one behind the prompt, 32 prompts with 2 texts each."""
    found = replay_verdicts(STORED / f"act_{name}_calibration.json")
    assert (found.count, found.lines, found.found) == (200, 9, 1)
    assert found.beaten.value <= 0.05 and found.called.value <= 0.05


@pytest.mark.parametrize("gain", [0.0, 0.3])
def test_at_most_5_percent_of_200_replays_call_anything_better(tmp_path, gain):
    write(tmp_path, gain)
    found = replay_verdicts(tmp_path / "calibration.json")
    assert found.count == 200 and found.lines == LINES
    assert found.beaten.value <= 0.05
    assert found.called.value <= 0.08  # a binomial of 200 and 0.05 exceeds it once in 25
    assert found.found == (gain > 0)


def test_a_test_that_believes_its_signs_would_be_caught(tmp_path, monkeypatch):
    """A mean's error over the wrong population: prompts counted four times."""
    from aim_plugins.steering.calibration import verdicts

    real = verdicts.sign_flip_p
    monkeypatch.setattr(
        verdicts,
        "sign_flip_p",
        lambda first, second: real([*first] * 4, [*second] * 4),
    )
    write(tmp_path, 0.0)
    assert replay_verdicts(tmp_path / "calibration.json", count=100).beaten.value > 0.05


def test_a_replay_moves_effects_within_prompts_alone(tmp_path):
    entries = write(tmp_path, 0.3)
    deals = label_permuted(entries, seed=1)
    as_it_was = np.array([one.point.effects for one in entries])
    first, second = (np.array([one.point.effects for one in next(deals)]) for _ in range(2))
    for dealt in (first, second):
        np.testing.assert_array_equal(np.sort(dealt, axis=0), np.sort(as_it_was, axis=0))
        assert (dealt != as_it_was).any()
    assert (first != second).any()


def test_lines_read_back_as_they_were_written(tmp_path):
    for one in write(tmp_path, 0.3):
        assert Entry.from_json(json.loads(json.dumps(one.as_json()))) == one
