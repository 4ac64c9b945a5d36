"""Surprise coverage against definitions in float64, scipy, scikit-learn and dnn_tip."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import gaussian_kde, multivariate_normal
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import KernelDensity

from aim_plugins.coverage import distances, moments
from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.criteria.surprise import DSC, LSC, MDSC, ClassTraces, bucket_units
from aim_plugins.coverage.moments import ClassMoments, oas_shrinkage

COLUMNS = torch.tensor([1, 3, 4, 6])


def _data(count: int, seed: int, classes: int = 3) -> Batch:
    """Correlated activations of 8 neurons, of which the criteria look at 4."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(8, 8, generator=torch.Generator().manual_seed(99))
    kinds = torch.randint(classes, (count,), generator=generator)
    rows = torch.randn(count, 8, generator=generator) @ mixing
    return Batch(rows + kinds[:, None].float(), kinds)


TRAIN, TEST = _data(120, 0), _data(25, 1)


def _traces(batch: Batch = TRAIN) -> ClassTraces:
    return ClassTraces(COLUMNS, batch.neurons[:, COLUMNS], batch.classes)


def _moments(batch: Batch = TRAIN) -> ClassMoments:
    gathered = ClassMoments(COLUMNS)
    gathered.update(batch.neurons[:, COLUMNS], batch.classes)
    return gathered


def _of_class(batch: Batch, one: int) -> np.ndarray:
    return batch.neurons[batch.classes == one][:, COLUMNS].double().numpy()


def _each(criterion, batch: Batch = TEST):
    """Surprise of each input with the training traces of its class."""
    yield from zip(
        batch.neurons[:, COLUMNS].double().numpy(),
        batch.classes.tolist(),
        criterion.surprise(batch).tolist(),
        strict=True,
    )


def test_likelihood_without_shrinkage_is_the_density_of_scipy():
    kernels = {one: gaussian_kde(_of_class(TRAIN, one).T) for one in range(3)}
    for row, one, value in _each(LSC(_traces(), shrinkage=0.0)):
        assert value == pytest.approx(-kernels[one].logpdf(row)[0], rel=1e-9)


def test_likelihood_with_shrinkage_is_a_mean_of_normal_densities():
    for row, one, value in _each(LSC(_traces())):
        traces = _of_class(TRAIN, one)
        count, neurons = traces.shape
        covariance = np.cov(traces.T)
        share = oas_shrinkage(torch.from_numpy(covariance), count)
        kernel = (1 - share) * covariance + share * np.trace(covariance) / neurons * np.eye(neurons)
        kernel *= count ** (-2 / (neurons + 4))
        density = np.mean([multivariate_normal(trace, kernel).pdf(row) for trace in traces])
        assert value == pytest.approx(-math.log(density), rel=1e-9)


def test_likelihood_of_a_bandwidth_is_the_density_of_scikit_learn():
    fits = {
        one: KernelDensity(bandwidth=0.7, leaf_size=1000).fit(_of_class(TRAIN, one))
        for one in range(3)
    }
    for row, one, value in _each(LSC(_traces(), bandwidth=0.7)):
        assert value == pytest.approx(-fits[one].score_samples(row[None])[0], rel=1e-9)


def test_likelihood_far_from_all_traces_is_finite():
    far = Batch(torch.full((1, 8), 1e4), torch.tensor([0]))
    value = LSC(_traces(), bandwidth=0.2).surprise(far).item()
    distance = cdist(np.full((1, 4), 1e4), _of_class(TRAIN, 0)).min()
    assert value == pytest.approx(distance**2 / 0.08, rel=1e-4)


def test_likelihood_leaves_out_neurons_that_hardly_vary():
    neurons = TRAIN.neurons.clone()
    neurons[:, 3] = 2 + 1e-3 * neurons[:, 3] / neurons[:, 3].std()
    criterion = LSC(_traces(Batch(neurons, TRAIN.classes)))
    assert criterion.columns.tolist() == [1, 4, 6]
    with pytest.raises(ValueError, match="min_variance=1e-05: none of 4 neurons"):
        LSC(ClassTraces(COLUMNS, torch.ones(9, 4), torch.arange(9) % 2))


def test_distance_is_that_of_the_paper():
    traces = TRAIN.neurons[:, COLUMNS].double().numpy()
    kinds = TRAIN.classes.numpy()
    for row, one, value in _each(DSC(_traces())):
        own = traces[kinds == one]
        nearest = own[np.linalg.norm(own - row, axis=1).argmin()]
        other = np.linalg.norm(traces[kinds != one] - nearest, axis=1).min()
        assert value == pytest.approx(np.linalg.norm(row - nearest) / other, rel=1e-9)


def test_distance_of_training_traces_is_zero():
    assert not DSC(_traces()).surprise(TRAIN).any()


def test_distance_with_duplicates_of_another_class():
    traces = ClassTraces(
        torch.arange(1), torch.tensor([[0.0], [0.0], [5.0]]), torch.tensor([0, 1, 1])
    )
    batch = Batch(torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([0, 0, 1]))
    criterion = DSC(traces)
    # x_a = 0 is seen with both classes; x_a = 5 is 5 away from the other class.
    assert criterion.surprise(batch).tolist() == [0.0, math.inf, 0.2]
    assert criterion.units(batch).flatten().tolist() == [0, -1, 4]


def test_distance_needs_two_classes():
    one = ClassTraces(COLUMNS, torch.rand(5, 4), torch.full((5,), 3))
    with pytest.raises(ValueError, match="traces of one class, 3"):
        DSC(one)


def test_mahalanobis_without_shrinkage_is_that_of_scikit_learn():
    fits = {one: EmpiricalCovariance().fit(_of_class(TRAIN, one)) for one in range(3)}
    for row, one, value in _each(MDSC(_moments(), shrinkage=0.0)):
        assert value == pytest.approx(math.sqrt(fits[one].mahalanobis(row[None])[0]), rel=1e-9)


def test_mahalanobis_with_fewer_traces_than_neurons():
    train = _data(9, 3)
    for row, one, value in _each(MDSC(_moments(train))):
        traces = _of_class(train, one)
        covariance = np.cov(traces.T, bias=True)
        share = oas_shrinkage(torch.from_numpy(covariance), len(traces))
        shrunk = (1 - share) * covariance + share * np.trace(covariance) / 4 * np.eye(4)
        shift = row - traces.mean(0)
        assert value == pytest.approx(math.sqrt(shift @ np.linalg.inv(shrunk) @ shift), rel=1e-9)


CRITERIA = [lambda: LSC(_traces()), lambda: DSC(_traces()), lambda: MDSC(_moments())]


@pytest.mark.parametrize("make", CRITERIA)
def test_a_class_unknown_to_training_is_infinitely_surprising(make):
    criterion, batch = make(), Batch(TEST.neurons[:2], torch.tensor([7, 0]))
    values = criterion.surprise(batch)
    assert values[0] == math.inf and values[1].isfinite()
    criterion.update(batch)
    assert criterion.value == 1 and criterion.inputs == 2


@pytest.mark.parametrize("make", CRITERIA)
def test_inputs_that_are_not_finite_reach_no_bucket(make):
    criterion, neurons = make(), TEST.neurons.clone()
    wanted = criterion.surprise(TEST)
    neurons[2, 3], neurons[5, 4] = math.nan, math.inf
    neurons[6, 0] = math.nan  # none of the chosen neurons
    found = criterion.surprise(Batch(neurons, TEST.classes))
    assert found.isnan().nonzero().flatten().tolist() == [2, 5]
    kept = [place for place in range(len(TEST)) if place not in (2, 5)]
    torch.testing.assert_close(found[kept], wanted[kept])


def test_traces_that_are_not_finite_are_left_out():
    broken = Batch(TRAIN.neurons.clone(), TRAIN.classes)
    broken.neurons[3, 1] = math.nan
    kept = torch.arange(120) != 3
    without = Batch(TRAIN.neurons[kept], TRAIN.classes[kept])
    for criterion in (LSC, DSC):
        found, wanted = criterion(_traces(broken)), criterion(_traces(without))
        torch.testing.assert_close(found.surprise(TEST), wanted.surprise(TEST))
    with pytest.raises(ValueError, match="none of 2 traces is finite"):
        LSC(ClassTraces(COLUMNS, torch.full((2, 4), math.nan), torch.arange(2)))


def test_a_class_of_one_trace_has_no_spread_but_a_distance():
    single = Batch(
        torch.cat([TRAIN.neurons, torch.ones(1, 8)]), torch.cat([TRAIN.classes, torch.tensor([3])])
    )
    batch = Batch(TEST.neurons[:3], torch.tensor([3, 3, 0]))
    for criterion in (LSC(_traces(single)), MDSC(_moments(single))):
        assert criterion.surprise(batch).isinf().tolist() == [True, True, False]
    assert DSC(_traces(single)).surprise(batch).isfinite().all()


@pytest.mark.parametrize("make", CRITERIA)
def test_coverage_is_the_number_of_buckets_in_any_order_and_parts(make):
    values = make().surprise(TEST)
    whole, parts, other = make(), make(), make()
    for criterion in (whole, parts, other):
        criterion.width = 0.5
    whole.update(TEST)
    order = torch.randperm(len(TEST), generator=torch.Generator().manual_seed(4))
    first, *rest = order.split(7)
    other.update(Batch(TEST.neurons[first], TEST.classes[first]))
    for part in rest:
        parts.update(Batch(TEST.neurons[part], TEST.classes[part]))
    parts.combine(other)
    assert whole.value == len({math.floor(value / 0.5) for value in values.tolist()}) > 3
    assert parts.value == whole.value and parts.inputs == len(TEST)
    assert torch.equal(parts.found[0], whole.found[0])


@pytest.mark.parametrize("make", CRITERIA)
def test_small_chunks_change_nothing(make, monkeypatch):
    wanted = make().surprise(TEST)
    monkeypatch.setattr(distances, "CHUNK", 100)
    torch.testing.assert_close(make().surprise(TEST), wanted, rtol=1e-12, atol=1e-12)


def test_buckets_of_both_signs_are_units_of_their_own():
    values = torch.tensor(
        [0.0, 9.9, 10.0, -0.1, -10.0, -10.1, math.inf, math.nan, -1e300], dtype=torch.float64
    )
    units = bucket_units(values, 10.0)
    assert units[:8].tolist() == [0, 0, 2, 1, 1, 3, -1, -1]
    assert units[8] > 0


def test_bad_settings_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="width=0"):
        DSC(_traces(), width=0.0)
    with pytest.raises(ValueError, match="bandwidth=-1"):
        LSC(_traces(), bandwidth=-1.0)
    monkeypatch.setattr(moments, "MEMORY_LIMIT", 1000)
    with pytest.raises(ValueError, match="layer with 4 neurons and 120 training inputs"):
        DSC(_traces())
