"""What the demo claims, on a part of its questions."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from aim_plugins.cli import main

CONFIGS = Path(__file__).parents[1] / "eval_configs" / "lm_eval"
QUESTIONS, DRAWS = 60, 4


@pytest.fixture(scope="module")
def curve(demo_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("demo") / "run"
    status = main(
        [
            *("sweep", "lm-eval", "--model", "aim_hf", "--device", "cpu", "--batch-size", "16"),
            *("--model-args", f"pretrained={demo_model},dtype=float32"),
            *("--tasks", "aim_demo_continents", "--include-path", str(CONFIGS)),
            *("--limit", str(QUESTIONS), "--noise-std", "0,2,4,20", "--draws", str(DRAWS)),
            *("--output", str(output)),
        ]
    )
    assert status == 0
    values: dict[str, dict[float, list[float]]] = {"acc": {}, "acc_expected": {}}
    with open(output / "sweep.csv", newline="") as lines:
        for row in csv.DictReader(lines):
            values[row["metric"]].setdefault(float(row["strength"]), []).append(float(row["value"]))
    return values


@pytest.mark.model
def test_the_model_knows_far_more_than_chance_and_noise_takes_it_away(curve):
    expected = [curve["acc_expected"][std][0] for std in (0, 2, 4, 20)]
    assert expected[0] > 0.7
    assert expected == sorted(expected, reverse=True)
    assert 0.25 < expected[-1] < 0.35


@pytest.mark.model
def test_sampled_accuracy_scatters_about_the_exact_law(curve):
    for std, samples in curve["acc"].items():
        mean = sum(samples) / DRAWS
        # A draw of n questions has at most the standard deviation 0.5 / sqrt(n).
        assert abs(mean - curve["acc_expected"][std][0]) < 4 * 0.5 / (QUESTIONS * DRAWS) ** 0.5
    assert set(curve["acc"][0.0]) == set(curve["acc_expected"][0.0])
