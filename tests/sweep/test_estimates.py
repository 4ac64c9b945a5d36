"""Claims about means over documents and draws."""

from __future__ import annotations

import numpy as np
import pytest

from aim_plugins.sweep.estimates import mean, mean_of_draws


def test_nested_draws_leave_the_error_of_the_documents_own_means() -> None:
    values = np.random.default_rng(0).normal(size=(30, 4))
    found = mean_of_draws(values)
    assert found.value == pytest.approx(values.mean())
    assert found.stderr == pytest.approx(np.std(values.mean(1), ddof=1) / np.sqrt(30))
    assert mean_of_draws(values[:, :1], shared_draws=True) == mean(values[:, 0].tolist())


def test_the_error_over_documents_and_draws_is_the_two_way_variance_of_clusters() -> None:
    """V_documents + V_draws - V_both, of sums of deviations, by Cameron, Gelbach and Miller.

    Theirs leaves out what n - 1 and D - 1 make of small samples, which many draws forgive.
    """
    rng = np.random.default_rng(1)
    values = rng.normal(size=(300, 1)) + rng.normal(0, 0.4, (1, 200)) + rng.normal(size=(300, 200))
    deviations = (values - values.mean()) / values.size
    clusters = (deviations.sum(1) ** 2).sum() + (deviations.sum(0) ** 2).sum()
    expected = clusters - (deviations**2).sum()
    found = mean_of_draws(values, shared_draws=True)
    assert found.stderr == pytest.approx(np.sqrt(expected), rel=0.01)


@pytest.mark.parametrize("draws", [3, 8])
def test_the_error_is_that_of_means_of_other_documents_and_other_draws(draws: int) -> None:
    rng, found = np.random.default_rng(2), []
    for _ in range(2000):
        shared = rng.normal(0, 0.5, (1, draws))
        values = rng.normal(size=(40, 1)) + shared + rng.normal(0, 2, (40, draws))
        found.append(mean_of_draws(values, shared_draws=True))
    spread = np.std([one.value for one in found])
    squares = np.mean([(one.stderr or 0) ** 2 for one in found])
    assert np.sqrt(squares) == pytest.approx(spread, rel=0.06)
    known = np.sqrt(1 / 40 + 0.25 / draws + 4 / (40 * draws))
    assert spread == pytest.approx(known, rel=0.06)


def test_draws_that_differ_by_chance_alone_add_nothing_for_sure() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(50, 6))
    alike = values - values.mean(0)  # draws of equal means
    assert mean_of_draws(alike, shared_draws=True).stderr == mean_of_draws(alike).stderr
