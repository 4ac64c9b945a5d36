"""Moments of activations: batches, merging, shrinkage and memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import oas

from aim_plugins.coverage import moments
from aim_plugins.coverage.moments import ClassMoments, Moments, oas_shrinkage, shrunk_cholesky


def _rows(count: int, neurons: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(neurons, neurons, generator=generator)
    return torch.randn(count, neurons, generator=generator) @ mixing + 5


@pytest.mark.parametrize("sizes", [(90,), (1, 89), (30, 30, 30), (89, 1), (0, 90)])
def test_moments_do_not_depend_on_batches(sizes):
    rows = _rows(90, 7)
    gathered = Moments.empty(7)
    for part in rows.split(sizes):
        gathered.update(part)
    wanted = np.cov(rows.double().numpy().T, bias=True)
    assert gathered.count == 90
    np.testing.assert_allclose(gathered.mean, rows.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(gathered.covariance, wanted, rtol=1e-10)


def test_small_variance_beside_a_large_mean_survives():
    rows = _rows(64, 3).double() * 1e-4 + 1e4
    gathered = Moments.empty(3)
    for part in rows.split(5):
        gathered.update(part)
    np.testing.assert_allclose(
        gathered.covariance, np.cov(rows.numpy().T, bias=True), rtol=1e-6, atol=1e-16
    )


def test_merging_nothing_changes_nothing():
    empty = Moments.empty(4)
    empty.merge(Moments.empty(4))
    assert empty.count == 0 and not empty.covariance.any()


def test_inputs_that_are_not_finite_are_left_out():
    rows = _rows(20, 3)
    broken = rows.clone()
    broken[4, 1], broken[7, 0] = float("nan"), float("inf")
    kept = rows[[i for i in range(20) if i not in (4, 7)]]
    assert Moments.of(broken).count == 18
    torch.testing.assert_close(Moments.of(broken).covariance, Moments.of(kept).covariance)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_equal_rows_count_as_constant(value):
    assert Moments.of(torch.full((7, 3), value)).is_constant
    assert not Moments.of(torch.full((7, 3), value) + torch.eye(7, 3)).is_constant


def test_class_moments_are_those_of_each_class_and_merge():
    rows, classes = _rows(60, 5), torch.arange(60) % 3
    halves = [ClassMoments(torch.arange(5)) for _ in range(2)]
    for half, place in zip(halves, (slice(0, 25), slice(25, 60)), strict=True):
        half.update(rows[place], classes[place])
    halves[0].merge(halves[1])
    assert sorted(halves[0].by_class) == [0, 1, 2]
    for one, found in halves[0].by_class.items():
        chosen = rows[classes == one].double().numpy()
        np.testing.assert_allclose(found.covariance, np.cov(chosen.T, bias=True), rtol=1e-10)


def test_moments_survive_their_state():
    gathered = Moments.of(_rows(9, 2))
    again = Moments.from_state(gathered.state("fc"), "fc")
    assert again.count == 9 and torch.equal(again.mean, gathered.mean)
    assert torch.equal(again.scatter, gathered.scatter)


def test_moments_of_different_neurons_do_not_merge():
    with pytest.raises(ValueError, match="same layer"):
        ClassMoments(torch.tensor([0, 1])).merge(ClassMoments(torch.tensor([0, 2])))


def test_too_many_matrices_are_refused(monkeypatch):
    monkeypatch.setattr(moments, "MEMORY_LIMIT", 2 * 5**2 * 8)
    gathered = ClassMoments(torch.arange(5))
    gathered.update(_rows(4, 5), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(ValueError, match="layer with 5 neurons and 3 classes"):
        gathered.update(_rows(1, 5), torch.tensor([2]))
    assert sorted(gathered.by_class) == [0, 1]


@pytest.mark.parametrize(("count", "neurons"), [(10, 30), (200, 8), (2, 3)])
def test_shrinkage_is_that_of_the_paper(count, neurons):
    covariance = Moments.of(_rows(count, neurons)).covariance
    squares = np.trace(covariance.numpy() @ covariance.numpy())
    square = np.trace(covariance.numpy()) ** 2
    p = neurons
    wanted = ((1 - 2 / p) * squares + square) / ((count + 1 - 2 / p) * (squares - square / p))
    assert oas_shrinkage(covariance, count) == pytest.approx(min(1.0, wanted), rel=1e-12)


def test_shrinkage_nears_that_of_scikit_learn_in_many_neurons():
    # scikit-learn leaves out the terms 2 / p.
    rows = _rows(100, 60)
    _, wanted = oas(rows.double().numpy())
    assert oas_shrinkage(Moments.of(rows).covariance, 100) == pytest.approx(wanted, rel=0.05)


def test_one_neuron_keeps_its_variance():
    factor = shrunk_cholesky(torch.tensor([[4.0]]).double(), 10, None)
    assert factor.item() == pytest.approx(2.0)


def test_a_singular_covariance_names_the_shrinkage():
    covariance = Moments.of(_rows(3, 6)).covariance
    assert shrunk_cholesky(covariance, 3, None).isfinite().all()
    with pytest.raises(ValueError, match="shrinkage=0 leaves the covariance of 3 inputs"):
        shrunk_cholesky(covariance, 3, 0.0)
