"""Bootstrapped standard errors of a sweep: the harness's values, without its loops."""

from __future__ import annotations

import csv
import json
import math
import random

import numpy as np
import pytest
from lm_eval.api import metrics

from aim_plugins.cli import main
from aim_plugins.harnesses.lm_eval.bootstrap import STATISTICS, standard_error

DRAWN = random.Random(3)
WORDS = ("the", "cat", "sat", "on", "a", "mat", "near", "old", "harbour", "town", "in", "winter")
LABELS = [(gold, DRAWN.choice("aaabc") if DRAWN.random() < 0.6 else gold) for gold in "abc" * 14]
SENTENCES = [
    (text, text if index % 3 else " ".join(DRAWN.choices(WORDS, k=8)))
    for index, text in enumerate(" ".join(DRAWN.choices(WORDS, k=9)) for _ in range(40))
]
NUMBERS = [DRAWN.gauss(-2, 0.5) for _ in range(40)]
ITEMS = {
    metrics.perplexity: NUMBERS,
    metrics.median: NUMBERS,
    metrics.nanmean: [math.nan, *NUMBERS, math.nan],
    metrics.f1_score: [(int(gold == "a"), int(predicted == "a")) for gold, predicted in LABELS],
    metrics.matthews_corrcoef: LABELS,
    metrics.bleu: SENTENCES,
    metrics.chrf: SENTENCES,
    metrics.chrfpp: SENTENCES,
    metrics.ter: SENTENCES,
}


def test_every_bootstrapped_metric_of_the_harness_is_known():
    aggregations = [value for value in vars(metrics).values() if callable(value)]
    bootstrapped = {
        aggregation
        for aggregation in aggregations
        if (error := metrics.stderr_for_metric(aggregation, 10)) and error.__name__ == "<lambda>"
    }
    assert bootstrapped == set(STATISTICS) == set(ITEMS)


@pytest.mark.parametrize("metric", ITEMS, ids=lambda metric: metric.__name__)
def test_a_resample_has_the_harnesss_value(metric):
    items = ITEMS[metric]
    resamples = [DRAWN.choices(range(len(items)), k=len(items)) for _ in range(20)]
    expected = [metric([items[index] for index in resample]) for resample in resamples]
    found = STATISTICS[metric](items)(np.asarray(resamples))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_classes_that_are_never_predicted_give_the_harnesss_value():
    for metric in (metrics.f1_score, metrics.matthews_corrcoef):
        for items in ([(1, 0)] * 4, [(0, 0)] * 4, [(0, 1), (0, 1), (1, 1)]):
            found = STATISTICS[metric](items)(np.arange(len(items)))
            assert float(found) == metric(items)


@pytest.mark.parametrize("metric", [metrics.perplexity, metrics.f1_score, metrics.bleu])
def test_the_standard_error_is_the_harnesss(metric, monkeypatch):
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    items, iterations = ITEMS[metric], 400
    expected = metrics.bootstrap_stderr(metric, items, iterations)
    found = standard_error(STATISTICS[metric](items), len(items), 20_000)
    # The harness's own error from 400 resamples is 1 / sqrt(800) of the value, 3.5 %.
    assert found == pytest.approx(expected, rel=4 / math.sqrt(2 * iterations))


def test_a_sweep_of_perplexity_never_loops_over_resamples(
    tiny_checkpoint, tasks_folder, tmp_path, monkeypatch
):
    def refuse(*_):
        raise AssertionError("the harness's own bootstrap was called")

    monkeypatch.setattr(metrics, "bootstrap_stderr", refuse)
    (tmp_path / "task.yaml").write_text(
        "task: tiny_lambada\ndataset_path: json\ntest_split: test\noutput_type: loglikelihood\n"
        f"dataset_kwargs: {{data_files: {{test: {tasks_folder}/documents.jsonl}}}}\n"
        'doc_to_text: "{{question}}"\ndoc_to_target: " {{choices[0]}}"\n'
        "metric_list: [{metric: perplexity}, {metric: acc}]\n"
    )
    output = tmp_path / "run"
    arguments = ["--model-args", f"pretrained={tiny_checkpoint},dtype=float32", "--device", "cpu"]
    arguments += ["--tasks", "tiny_lambada", "--include-path", str(tmp_path)]
    arguments += ["--noise-std", "0,2", "--output", str(output)]
    assert main(["sweep", "lm-eval", "--model", "aim_hf", *arguments]) == 0
    with open(output / "sweep.csv", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["metric"] == "perplexity"]
    assert [float(row["strength"]) for row in rows] == [0, 2]
    for row in rows:
        folder = output / "cells" / f"std={float(row['strength']):g},draw=0"
        [samples] = folder.rglob("samples_*.jsonl")
        logs = [json.loads(line)["perplexity"] for line in samples.read_text().splitlines()]
        resamples = np.random.default_rng(5).choice(logs, (20_000, len(logs)))
        expected = np.exp(-resamples.mean(1)).std()
        assert float(row["stderr"]) == pytest.approx(expected, rel=0.03)
