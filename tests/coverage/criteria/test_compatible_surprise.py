"""What NeuraL-Coverage takes for surprise, against its definitions written down input by input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KernelDensity

from aim_plugins.coverage.criteria.compatible_surprise import (
    CompatibleDSC,
    CompatibleLSC,
    CompatibleMDSC,
    library_variance,
)
from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.criteria.surprise import ClassTraces
from aim_plugins.coverage.layers import Layers

COMPATIBLE = {"LSC": CompatibleLSC, "DSC": CompatibleDSC, "MDSC": CompatibleMDSC}
LAYERS = Layers(("conv", "fc"), (3, 4))


def _batch(count: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.arange(count) % 3
    return Batch(torch.randn(count, 7, generator=generator) + 0.5 * kinds[:, None], kinds)


TRAIN, TEST = _batch(90, 0), _batch(30, 1)
TRAIN.neurons[:, 5] *= 1e-3


def _traces(batch: Batch = TRAIN) -> ClassTraces:
    return ClassTraces(torch.arange(7), batch.neurons, batch.classes)


KEPT = [0, 1, 2, 3, 4, 6]
ROWS, TRACES = (one.neurons[:, KEPT].double().numpy() for one in (TEST, TRAIN))
KINDS, LABELS = TEST.classes.numpy(), TRAIN.classes.numpy()


def _library_variance(batches: list[np.ndarray]) -> list[np.ndarray]:
    """Its lines, layer by layer."""
    count, found = 0, [(0.0, 0.0)] * 2
    for rows in batches:
        for layer, place in enumerate(LAYERS.slices):
            mean, variance = found[layer]
            count += len(rows)
            share = (count - len(rows)) / count
            mean = share * mean + rows[:, place].sum(0) / count
            spread = ((rows[:, place] - mean) ** 2).sum(0) / count
            found[layer] = mean, share * variance + share * spread
    return [variance for _, variance in found]


@pytest.mark.parametrize("size", [10, 40, 90])
def test_variance_is_that_of_the_library(size):
    rows = TRAIN.neurons.double().numpy()
    wanted = _library_variance([rows[start : start + size] for start in range(0, 90, size)])
    found = library_variance(LAYERS, TRAIN.neurons, size)
    np.testing.assert_allclose(found, np.concatenate(wanted), rtol=1e-5, atol=1e-12)


def test_one_batch_leaves_the_first_layer_out():
    criterion = COMPATIBLE["DSC"](LAYERS, _traces(), batch_size=90)
    assert criterion.columns.tolist() == [3, 4, 6]


def _truncated(values: np.ndarray, width: float) -> int:
    return len({int(value / width) for value in values})


def test_likelihood_has_one_bandwidth_and_the_tree_of_scikit_learn():
    wanted = np.empty(len(TEST))
    for one in range(3):
        fit = KernelDensity(bandwidth=0.2).fit(TRACES[one == LABELS])
        wanted[one == KINDS] = -fit.score_samples(ROWS[one == KINDS])
    criterion = COMPATIBLE["LSC"](LAYERS, _traces(), batch_size=10)
    assert criterion.columns.tolist() == KEPT
    np.testing.assert_allclose(criterion.surprise(TEST), wanted, rtol=1e-12)
    criterion.update(TEST)
    assert criterion.value == _truncated(wanted, 10.0) > 3


def test_distance_to_other_classes_is_from_the_input():
    wanted = []
    for row, one in zip(ROWS, KINDS, strict=True):
        distances = np.linalg.norm(TRACES - row, axis=1)
        wanted.append(distances[one == LABELS].min() / distances[one != LABELS].min())
    criterion = COMPATIBLE["DSC"](LAYERS, _traces(), batch_size=10)
    np.testing.assert_allclose(criterion.surprise(TEST), wanted, rtol=1e-9)
    criterion.update(TEST)
    assert criterion.value == _truncated(np.array(wanted), 0.1)


def test_an_input_that_is_a_trace_of_another_class_has_almost_no_surprise():
    batch = Batch(TRAIN.neurons[:1], torch.tensor([1]))
    criterion = COMPATIBLE["DSC"](LAYERS, _traces(), batch_size=10)
    assert criterion.surprise(batch).tolist() == [1e-6]


def test_mahalanobis_distance_has_no_shrinkage():
    wanted = np.empty(len(TEST))
    for place, (row, one) in enumerate(zip(ROWS, KINDS, strict=True)):
        traces = TRACES[one == LABELS]
        shift = row - traces.mean(0)
        wanted[place] = np.sqrt(shift @ np.linalg.inv(np.cov(traces.T, bias=True)) @ shift)
    criterion = COMPATIBLE["MDSC"](LAYERS, _traces(), 0.5, batch_size=10)
    np.testing.assert_allclose(criterion.surprise(TEST), wanted, rtol=1e-4)
    criterion.update(TEST)
    assert criterion.value == _truncated(wanted, 0.5) > 3


def test_a_singular_covariance_is_refused():
    single = Batch(TRAIN.neurons, TRAIN.classes.clone())
    single.classes[0] = 8
    with pytest.raises(ValueError, match="class 8: the covariance of 1 inputs is singular"):
        COMPATIBLE["MDSC"](LAYERS, _traces(single), batch_size=10)


@pytest.mark.parametrize("name", ["LSC", "DSC", "MDSC"])
def test_surprise_combines_and_needs_all_layers(name):
    whole, left, right = (COMPATIBLE[name](LAYERS, _traces(), batch_size=10) for _ in range(3))
    whole.update(TEST)
    left.update(Batch(TEST.neurons[:11], TEST.classes[:11]))
    right.update(Batch(TEST.neurons[11:], TEST.classes[11:]))
    left.combine(right)
    assert torch.equal(left.found[0], whole.found[0])
    unknown = Batch(TEST.neurons[:1], torch.tensor([9]))
    assert whole.units(unknown).item() == -1
    part = ClassTraces(torch.arange(3), TRAIN.neurons[:, :3], TRAIN.classes)
    with pytest.raises(ValueError, match="traces of 3 neurons: .* all 7"):
        COMPATIBLE[name](LAYERS, part)
    with pytest.raises(ValueError, match="min_variance=1000.0 leaves no neuron"):
        COMPATIBLE[name](LAYERS, _traces(), min_variance=1000.0)
