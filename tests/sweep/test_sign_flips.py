"""Claims about the law of a mean whose documents' signs are chance."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from aim_plugins.sweep.sign_flips import sign_flip_law


def p_by_hand(differences: np.ndarray) -> float:
    """The share of all ways to deal out signs that reach the sum that was seen."""
    signs = np.array(list(product((1, -1), repeat=len(differences))))
    return float((np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("draws", [1, 3, 5])
def test_the_law_of_answers_averaged_over_draws_is_exact(draws: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    differences = rng.integers(-draws, draws + 1, 15) / draws
    assert sign_flip_law(differences) == pytest.approx(p_by_hand(differences))


@pytest.mark.parametrize("seed", range(4))
def test_the_law_of_few_graded_documents_is_exact(seed: int) -> None:
    differences = np.random.default_rng(seed).normal(0.4, 1, 11)
    assert sign_flip_law(differences) == pytest.approx(p_by_hand(differences))


@pytest.mark.parametrize(("won", "lost"), [(9, 2), (0, 6), (300, 240), (5000, 4700)])
def test_of_right_and_wrong_answers_it_is_the_binomial_law(won: int, lost: int) -> None:
    differences = np.array([1.0] * won + [-1.0] * lost + [0.0] * 50)
    assert sign_flip_law(differences) == pytest.approx(stats.binomtest(won, won + lost).pvalue)


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.3])
def test_signs_dealt_out_by_chance_come_near_the_exact_law(shift: float) -> None:
    """Of lattice values both are known: what is a little off the lattice is dealt out by chance."""
    rng = np.random.default_rng(1)
    differences = rng.integers(-2, 3, 80) / 2 + np.where(rng.random(80) < shift, 0.5, 0)
    exact = sign_flip_law(differences)
    dealt = sign_flip_law(differences * np.pi)
    assert dealt == pytest.approx(exact, abs=4 * np.sqrt(exact / 10_000) + 2e-5)
    assert dealt == sign_flip_law(differences * np.pi)  # the seed is fixed


def test_rare_differences_are_told_from_rarer_ones() -> None:
    """With 684 tests of Holm's a p of 1 / 10,000 would never be called."""
    differences = np.random.default_rng(2).normal(1, 1, 60)
    assert sign_flip_law(differences) == pytest.approx(1 / 100_000, rel=1e-3)


def test_no_difference_is_certain_to_be_reached() -> None:
    assert sign_flip_law(np.zeros(5)) == 1
    assert sign_flip_law(np.array([0.3, -0.3])) == 1


def test_chance_alone_is_called_as_often_as_the_level_says() -> None:
    rng = np.random.default_rng(3)
    chances = [sign_flip_law(rng.laplace(size=12)) for _ in range(400)]
    assert np.mean(np.array(chances) <= 0.05) == pytest.approx(0.05, abs=0.033)
    assert np.mean(np.array(chances) <= 0.5) == pytest.approx(0.5, abs=0.075)
