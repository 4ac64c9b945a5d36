"""Criteria against dnn_tip, an independent library of test prioritisers.

Its buckets and boundaries are closed at the other end; random activations never meet an end.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aim_plugins.coverage.criteria.boundary import KMNC, NBC, SNAC
from aim_plugins.coverage.criteria.criterion import Batch, FixedUnits
from aim_plugins.coverage.criteria.surprise import DSC, LSC, MDSC, ClassTraces
from aim_plugins.coverage.criteria.top import TKNC
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.moments import ClassMoments

neuron_coverage = pytest.importorskip("dnn_tip.neuron_coverage")
their_surprise = pytest.importorskip("dnn_tip.surprise")

LAYERS = Layers(("conv", "fc", "out"), (5, 9, 3))


def _batch(count: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, LAYERS.neurons, generator=generator)
    return Batch(rows, torch.randint(3, (count,), generator=generator))


TRAIN, TEST = _batch(150, 0), _batch(40, 1)
LOW, HIGH = TRAIN.neurons.amin(0), TRAIN.neurons.amax(0)


def _by_layer(rows: torch.Tensor) -> list[np.ndarray]:
    return [rows[..., place].double().numpy() for place in LAYERS.slices]


def _profile(theirs) -> np.ndarray:
    """What each input reaches, as dnn_tip says."""
    _, profiles = theirs(_by_layer(TEST.neurons))
    return profiles.reshape(len(TEST), -1)


def _reached(criterion: FixedUnits, batch: Batch) -> np.ndarray:
    """What each input reaches, as ours says."""
    reached = np.zeros((len(batch), len(criterion.reached)), dtype=bool)
    for row, units in enumerate(criterion.units(batch).tolist()):
        reached[row, [unit for unit in units if unit >= 0]] = True
    return reached


def _compare(criterion: FixedUnits, profile: np.ndarray) -> None:
    np.testing.assert_array_equal(_reached(criterion, TEST), profile)
    criterion.update(TEST)
    assert criterion.value == pytest.approx(profile.any(0).mean())
    assert 0 < criterion.value < 1


@pytest.mark.parametrize("buckets", [3, 50])
def test_kmnc_is_that_of_dnn_tip(buckets):
    theirs = neuron_coverage.KMNC(_by_layer(LOW), _by_layer(HIGH), buckets)
    _compare(KMNC(LAYERS, LOW, HIGH, buckets), _profile(theirs))


def test_nbc_and_snac_are_those_of_dnn_tip():
    spread = [np.ones(size) for size in LAYERS.sizes]
    low, high = LOW + 1, HIGH - 1
    both = neuron_coverage.NBC(_by_layer(low), _by_layer(high), spread, 0)
    above = neuron_coverage.SNAC(_by_layer(high), spread, 0)
    _compare(NBC(LAYERS, low, high), _profile(both))
    _compare(SNAC(LAYERS, low, high), _profile(above))


def test_tknc_is_that_of_dnn_tip():
    tested = Batch(TEST.neurons[:2], TEST.classes[:2])
    _, profile = neuron_coverage.TKNC(2)(_by_layer(tested.neurons))
    criterion = TKNC(LAYERS, 2)
    np.testing.assert_array_equal(_reached(criterion, tested), profile)
    criterion.update(tested)
    assert criterion.value == pytest.approx(profile.any(0).mean()) and criterion.value < 1


COLUMNS = torch.arange(LAYERS["fc"].start, LAYERS["fc"].stop)


def _arrays(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    return batch.neurons[:, COLUMNS].double().numpy(), batch.classes.numpy()


def test_surprise_by_distance_is_that_of_dnn_tip():
    wanted = their_surprise.DSA(*_arrays(TRAIN))(*_arrays(TEST))
    traces = ClassTraces(COLUMNS, TRAIN.neurons[:, COLUMNS], TRAIN.classes)
    np.testing.assert_allclose(DSC(traces).surprise(TEST), wanted, rtol=1e-9)


def test_surprise_by_mahalanobis_distance_is_the_root_of_that_of_dnn_tip():
    theirs = their_surprise.MultiModalSA.build_by_class(
        *_arrays(TRAIN), lambda activations, _: their_surprise.MDSA(activations)
    )
    moments = ClassMoments(COLUMNS)
    moments.update(TRAIN.neurons[:, COLUMNS], TRAIN.classes)
    found = MDSC(moments, shrinkage=0.0).surprise(TEST)
    np.testing.assert_allclose(found.square(), theirs(*_arrays(TEST)), rtol=1e-9)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_surprise_by_likelihood_is_that_of_dnn_tip():
    theirs = their_surprise.MultiModalSA.build_by_class(
        *_arrays(TRAIN), lambda activations, _: their_surprise.LSA(activations)
    )
    traces = ClassTraces(COLUMNS, TRAIN.neurons[:, COLUMNS], TRAIN.classes)
    found = LSC(traces, shrinkage=0.0).surprise(TEST)
    np.testing.assert_allclose(found, theirs(*_arrays(TEST)), rtol=1e-7)
