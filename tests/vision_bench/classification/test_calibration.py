"""Confidence, entropy and calibration error, against scikit-learn, SciPy and sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special, stats
from sklearn.calibration import calibration_curve

from vision_bench.classification.calibration import BINS, Reliability, confidence_and_entropy
from vision_bench.classification.curve import accuracy_curve


@pytest.fixture
def answers(digits) -> tuple[np.ndarray, np.ndarray]:
    """Confidence of the answers to digits, and whether they are right."""
    logits, labels = digits[0].double().numpy(), digits[1].numpy()
    return special.softmax(logits, 1).max(1), logits.argmax(1) == labels


def guo(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    """Equation 3 of Guo et al., bin by bin: Σ |B| / n · |acc(B) − conf(B)|."""
    error = 0.0
    for m in range(1, bins + 1):
        inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
        if inside.any():
            distance = abs(correct[inside].mean() - confidence[inside].mean())
            error += inside.sum() / len(confidence) * distance
    return error


def test_the_calibration_error_is_that_of_guo(answers):
    confidence, correct = answers
    reliability = Reliability.of(torch.from_numpy(confidence), torch.from_numpy(correct))
    assert float(reliability.error()) == pytest.approx(guo(confidence, correct, 15), rel=1e-12)
    assert float(reliability.error()) > 0.001


def test_the_bins_are_those_of_scikit_learn(answers):
    confidence, correct = answers
    bins = Reliability.of(torch.from_numpy(confidence), torch.from_numpy(correct))
    accuracy, mean = calibration_curve(correct, confidence, n_bins=BINS, strategy="uniform")
    filled = bins.count > 0
    assert (bins.correct / bins.count)[filled].numpy() == pytest.approx(accuracy)
    assert (bins.confidence / bins.count)[filled].numpy() == pytest.approx(mean)
    assert float(bins.count.sum()) == len(correct)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_edge_belongs_to_the_bin_below_it(dtype: torch.dtype):
    edges = torch.arange(1, BINS + 1).to(dtype) / BINS
    bins = Reliability.of(edges, torch.ones(BINS, dtype=torch.bool))
    assert bins.count.tolist() == [1] * BINS


@pytest.mark.parametrize(("correct", "error"), [(True, 0.0), (False, 1.0)])
def test_a_certain_answer_is_calibrated_if_right(correct: bool, error: float):
    bins = Reliability.of(torch.ones(7), torch.full((7,), correct))
    assert float(bins.error()) == error


def test_confidence_and_entropy_are_those_of_scipy(digits):
    logits = digits[0].double()
    probabilities = special.softmax(logits.numpy(), 1)
    confidence, entropy = confidence_and_entropy(logits.T.contiguous())
    assert confidence.numpy() == pytest.approx(probabilities.max(1), rel=1e-12)
    assert entropy.numpy() == pytest.approx(stats.entropy(probabilities, axis=1), abs=1e-12)


def test_impossible_classes_add_no_entropy():
    logits = torch.tensor([[0.0, 3.0], [0.0, -torch.inf], [-torch.inf, -torch.inf]])
    confidence, entropy = confidence_and_entropy(logits)
    assert confidence.tolist() == [0.5, 1.0]
    assert entropy.tolist() == pytest.approx([np.log(2), 0.0])


def test_strong_noise_makes_a_model_certain_and_wrong(digits):
    rows = accuracy_curve(*digits, [0.0, 1e5], draws=1).rows("digits")
    clean, noisy = (
        {r.metric: r.value for r in rows if r.strength == std and r.metric in ("ece", "entropy")}
        for std in (0.0, 1e5)
    )
    # Of ten classes, nine answers in ten are wrong, and all are given with certainty.
    assert noisy["ece"] == pytest.approx(0.9, abs=0.04)
    assert noisy["entropy"] < 0.01 < clean["entropy"]
    assert clean["ece"] < 0.1
