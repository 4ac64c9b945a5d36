"""Accuracy under noise on real data: a logistic regression on scikit-learn's digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from vision_bench.classification import accuracy_curve

STDS = [0.0, 1.0, 2.0, 4.0, 8.0, 20.0]


def test_zero_noise_is_the_clean_accuracy(digits):
    logits, labels = digits
    curve = accuracy_curve(logits, labels, STDS, draws=2)
    clean = float((logits.argmax(1) == labels).double().mean())
    assert clean > 0.9
    assert float(curve.expected[0]) == pytest.approx(clean, abs=1e-15)
    assert curve.sampled[0].tolist() == pytest.approx([clean, clean], abs=1e-15)
    assert float(curve.noise_std_of_accuracy[0]) == 0


def test_sampled_accuracy_scatters_around_the_exact_one_as_predicted(digits):
    draws = 40
    curve = accuracy_curve(*digits, STDS[1:], draws=draws, seed=7)
    z = (curve.sampled - curve.expected[:, None]) / curve.noise_std_of_accuracy[:, None]
    # Strengths share their noise, so only the draws within a strength are independent.
    assert (z.mean(1).abs() < 4 / math.sqrt(draws)).all()
    low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], draws)
    assert ((z.square().sum(1) > low) & (z.square().sum(1) < high)).all()


def test_exact_accuracy_agrees_with_another_generator(digits):
    logits, labels = (part.numpy() for part in digits)
    generator = np.random.default_rng(0)
    curve = accuracy_curve(*digits, [3.0], draws=0)
    accuracies = [
        ((logits + 3 * generator.standard_normal(logits.shape)).argmax(1) == labels).mean()
        for _ in range(200)
    ]
    error = float(curve.noise_std_of_accuracy) / math.sqrt(200)
    assert np.mean(accuracies) == pytest.approx(float(curve.expected), abs=4 * error)


def test_accuracy_falls_towards_chance(digits):
    curve = accuracy_curve(*digits, [*STDS, 1e7], draws=1)
    assert (curve.expected.diff() < 0).all()
    assert float(curve.expected[-1]) == pytest.approx(0.1, abs=1e-4)


def test_standard_errors_over_documents_are_those_of_scipy(digits):
    logits, labels = digits
    curve = accuracy_curve(logits, labels, [0.0], draws=1)
    correct = (logits.argmax(1) == labels).double().numpy()
    assert float(curve.sampled_stderr) == pytest.approx(stats.sem(correct), rel=1e-12)
    assert float(curve.expected_stderr) == pytest.approx(stats.sem(correct), rel=1e-12)


def test_documents_keep_their_noise_when_others_follow(digits):
    logits, labels = digits
    correct = torch.stack(
        [accuracy_curve(logits[:n], labels[:n], 5.0).sampled[0, 0] * n for n in range(1, 61)]
    )
    # One more document is one more answer, and changes none of the others.
    assert {round(step) for step in correct.diff().tolist()} == {0, 1}


def test_draws_are_seeds(digits):
    many = accuracy_curve(*digits, [2.0, 6.0], draws=3, seed=10)
    for draw in range(3):
        single = accuracy_curve(*digits, [2.0, 6.0], draws=1, seed=10 + draw)
        assert torch.equal(single.sampled[:, 0], many.sampled[:, draw])
    assert len(set(many.sampled[1].tolist())) > 1


def test_a_strength_does_not_depend_on_the_others(digits):
    curve = accuracy_curve(*digits, "0:6:1.5", draws=2)
    assert curve.stds == (0.0, 1.5, 3.0, 4.5, 6.0)
    single = accuracy_curve(*digits, 3, draws=2)
    assert torch.equal(single.sampled[0], curve.sampled[2])
    assert torch.equal(single.expected[0], curve.expected[2])


def test_chunks_of_documents_agree(digits, monkeypatch):
    curve = accuracy_curve(*digits, [2.0], draws=2)
    monkeypatch.setattr("vision_bench.sampled_runs._NOISE_ELEMENTS", 70)
    assert torch.equal(accuracy_curve(*digits, [2.0], draws=2).sampled, curve.sampled)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_receive_noise_in_single_precision(digits, dtype):
    logits, labels = digits
    logits = logits.to(dtype)
    half, single = (
        accuracy_curve(clean, labels, [1e-3, 4.0], draws=2) for clean in (logits, logits.float())
    )
    assert torch.equal(half.sampled, single.sampled)


def test_rows_name_every_draw_and_the_exact_law(digits):
    curve = accuracy_curve(*digits, [0.0, 2.0], draws=2)
    rows = curve.rows("digits")
    assert {r.metric for r in rows} == {"acc", "acc_expected", "acc_top5", "entropy", "ece"}
    assert [(r.metric, r.strength, r.draw) for r in rows if r.metric.startswith("acc")][:6] == [
        ("acc", 0.0, 0),
        ("acc", 0.0, 1),
        ("acc", 2.0, 0),
        ("acc", 2.0, 1),
        ("acc_expected", 0.0, None),
        ("acc_expected", 2.0, None),
    ]
    assert rows[3].value == float(curve.sampled[1, 1])
    assert {(r.task, r.n) for r in rows} == {("digits", len(digits[1]))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": -1}, "draws=-1 is negative"),
        ({"stds": [0.5, -1.0]}, "stds"),
        ({"stds": [1.0, 1.0]}, "twice"),
        ({"logits": torch.zeros(0, 3), "labels": torch.zeros(0).long()}, "no document"),
        ({"labels": torch.tensor([0, 3])}, r"labels\[1\]=3"),
    ],
)
def test_unusable_arguments_are_refused(change: dict, message: str):
    arguments = {
        "logits": torch.zeros(2, 3),
        "labels": torch.tensor([0, 1]),
        "stds": [1.0],
        "draws": 1,
    } | change
    with pytest.raises(ValueError, match=message):
        accuracy_curve(**arguments)


def test_one_document_has_no_standard_error():
    curve = accuracy_curve(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), [1.0])
    assert math.isnan(float(curve.expected_stderr))
