"""The law of the argmax under focus modulation, against adaptive quadrature and sampling."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from aim_plugins.modulation import ordering
from aim_plugins.modulation.ordering import argmax_probabilities, focus_probabilities

STDS = (0.05, 0.7, 3.0, 20.0)


def target_distribution(level: float, sign: int, std: float):
    """Distribution of level + sign·|n| as SciPy has it: (pdf, cdf)."""
    half = stats.halfnorm(scale=std)
    if sign > 0:
        return (lambda t: half.pdf(t - level)), (lambda t: half.cdf(t - level))
    return (lambda t: half.pdf(level - t)), (lambda t: half.sf(level - t))


def quad_focus(logits: np.ndarray, targets: dict[int, int], std: float) -> np.ndarray:
    """Each target's probability by adaptive quadrature; the best other class takes the rest."""
    others = [k for k in range(len(logits)) if k not in targets]
    bar = max((logits[k] for k in others), default=-math.inf)
    laws = {k: target_distribution(logits[k], sign, std) for k, sign in targets.items()}
    probabilities = np.zeros(len(logits))
    for k, sign in targets.items():
        ends = sorted((logits[k], logits[k] + sign * 12 * std))
        low, high = max(ends[0], bar), ends[1]

        def integrand(t: float, k: int = k) -> float:
            return laws[k][0](t) * math.prod(laws[c][1](t) for c in targets if c != k)

        if high > low:
            kinks = sorted({low, high, *(logits[c] for c in targets if low < logits[c] < high)})
            for a, b in itertools.pairwise(kinks):
                probabilities[k] += integrate.quad(integrand, a, b, epsabs=1e-12, limit=200)[0]
    if others:
        probabilities[max(others, key=lambda k: logits[k])] = 1 - probabilities.sum()
    return probabilities


ROWS = torch.tensor(
    [
        [2.0, 1.0, 0.0, -1.0, 0.5],
        [0.0, 0.1, 0.05, 4.0, -3.0],
        [-2.0, 6.0, 6.0, 5.9, 1.0],
        [1.0, 1.0, 1.0, 1.0, 1.0],
        [30.0, 2.0, 28.0, -9.0, 29.5],
    ],
    dtype=torch.float64,
)


@pytest.mark.parametrize("std", STDS)
@pytest.mark.parametrize("targets", [{0: +1}, {3: -1}, {1: +1}, {2: -1}])
def test_one_target_equals_adaptive_quadrature(targets: dict[int, int], std: float):
    expected = [quad_focus(row, targets, std) for row in ROWS.numpy()]
    law = focus_probabilities(ROWS, targets, std)
    np.testing.assert_allclose(law.numpy(), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("std", STDS)
@pytest.mark.parametrize(
    "targets",
    [
        {0: +1, 2: +1},
        {1: -1, 2: -1},
        {1: +1, 3: -1},
        {0: -1, 1: +1, 4: +1, 3: -1},
        {0: +1, 1: -1, 2: +1, 3: -1, 4: +1},
    ],
)
def test_several_targets_equal_adaptive_quadrature(targets: dict[int, int], std: float):
    law = focus_probabilities(ROWS, targets, std)
    expected = [quad_focus(row, targets, std) for row in ROWS.numpy()]
    np.testing.assert_allclose(law.numpy(), expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(
        law.sum(1), torch.ones(len(ROWS), dtype=torch.float64), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("targets", [{1: +1}, {0: -1, 3: -1}, {0: -1, 2: +1, 4: +1}])
def test_law_agrees_with_sampling(targets: dict[int, int]):
    draws, std = 200_000, 1.5
    noise = torch.randn(draws, 5, generator=torch.Generator().manual_seed(3)).abs() * std
    signs = torch.zeros(5)
    for target, sign in targets.items():
        signs[target] = sign
    for row in ROWS:
        share = torch.bincount((row + signs * noise).argmax(1), minlength=5) / draws
        law = focus_probabilities(row, targets, std)
        standard_error = (law * (1 - law) / draws).clamp(min=0).sqrt()
        assert ((share - law).abs() <= 5 * standard_error + 1 / draws).all()


def test_the_tail_of_one_target_keeps_its_relative_precision():
    # Of the order of 1e-88: a complement such as 1 - erf would be 0.
    law = focus_probabilities(torch.tensor([20.0, 0.0]).double(), {1: +1}, 1.0)
    assert float(law[1]) == pytest.approx(2 * stats.norm.sf(20.0), rel=1e-12)


def test_upward_noise_never_unseats_a_leading_target():
    law = focus_probabilities(torch.tensor([1.0, 3.0, 3.0]), {1: +1}, 5.0)
    assert law.tolist() == [0.0, 1.0, 0.0]


def test_downward_noise_never_raises_a_trailing_target():
    law = focus_probabilities(torch.tensor([1.0, 3.0, 3.0]), {0: -1}, 5.0)
    assert law.tolist() == [0.0, 1.0, 0.0]


def test_zero_noise_is_the_clean_argmax():
    law = focus_probabilities(ROWS, {0: +1, 2: -1}, 0.0)
    assert torch.equal(law.argmax(1), ROWS.argmax(1))
    assert torch.equal(law, argmax_probabilities(ROWS, 0.0))


@pytest.mark.parametrize("targets", [{1: +1}, {1: -1}, {1: +1, 2: +1}, {0: -1, 1: +1}])
def test_impossible_classes_stay_impossible(targets: dict[int, int]):
    logits = torch.tensor([[0.5, -torch.inf, 1.0, 0.0]], dtype=torch.float64)
    law = focus_probabilities(logits, targets, 2.0)
    assert float(law[0, 1]) == 0
    possible = [0, 2, 3]
    rest = {possible.index(k): sign for k, sign in targets.items() if k != 1}
    reduced = logits[:, possible]
    expected = quad_focus(reduced[0].numpy(), rest, 2.0) if rest else [0.0, 1.0, 0.0]
    np.testing.assert_allclose(law[0, possible].numpy(), expected, atol=1e-10, rtol=0)


def test_impossible_competitors_leave_everything_to_the_target():
    logits = torch.tensor([[-torch.inf, 0.0]])
    for sign in (+1, -1):
        assert focus_probabilities(logits, {1: sign}, 1.0).tolist() == [[0.0, 1.0]]
        law = focus_probabilities(logits, {0: sign, 1: sign}, 1.0)
        torch.testing.assert_close(
            law, torch.tensor([[0.0, 1.0]], dtype=torch.float64), atol=1e-12, rtol=0
        )


def test_batch_dimensions_are_kept_and_chunks_agree(monkeypatch):
    maps = torch.randn(2, 6, 7, 5, generator=torch.Generator().manual_seed(0))
    for targets in ({2: +1}, {2: +1, 3: -1}):
        law = focus_probabilities(maps, targets, 1.0)
        assert law.shape == maps.shape
        with monkeypatch.context() as patch:
            patch.setattr(ordering, "_CPU_ELEMENTS", 1)
            assert torch.equal(focus_probabilities(maps, targets, 1.0), law)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({}, "targets is empty"),
        ({5: +1}, r"class 5, outside \[0, 5\)"),
        ({-1: +1}, r"class -1, outside \[0, 5\)"),
        ({0: 2}, r"targets\[0\]=2 is no direction"),
    ],
)
def test_faulty_targets_are_refused(targets: dict[int, int], message: str):
    with pytest.raises(ValueError, match=message):
        focus_probabilities(ROWS, targets, 1.0)


def test_faulty_rows_are_named():
    logits = torch.zeros(3, 2)
    logits[1, 0] = torch.nan
    with pytest.raises(ValueError, match="row 1 holds NaN"):
        focus_probabilities(logits, {0: +1}, 1.0)
