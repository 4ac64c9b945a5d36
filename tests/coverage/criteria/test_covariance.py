"""NLC against numpy's covariance, and its independence of order and parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from aim_plugins.coverage import moments
from aim_plugins.coverage.criteria.covariance import NLC
from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.layers import Layers

LAYERS = Layers(("conv", "fc", "out"), (6, 4, 1))


def _neurons(count: int = 80, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 11, generator=generator)
    return rows @ torch.randn(11, 11, generator=generator) + 3


def _seen(neurons: torch.Tensor, size: int = 100) -> NLC:
    criterion = NLC(LAYERS)
    for part in neurons.split(size):
        criterion.update(Batch(part, torch.zeros(len(part), dtype=torch.int64)))
    return criterion


def _expected(neurons: torch.Tensor) -> dict[str, float]:
    rows = neurons.double().numpy()
    places = zip(LAYERS.names, LAYERS.slices, strict=True)
    return {name: np.abs(np.cov(rows[:, place].T, bias=True)).mean() for name, place in places}


def test_value_is_the_mean_absolute_covariance_of_each_layer():
    neurons = _neurons()
    criterion = _seen(neurons)
    assert criterion.by_layer() == pytest.approx(_expected(neurons), rel=1e-10)
    assert criterion.value == pytest.approx(sum(_expected(neurons).values()), rel=1e-10)
    assert criterion.ceiling(80) == math.inf


@pytest.mark.parametrize("size", [1, 7, 80])
def test_neither_order_nor_batch_size_matters(size):
    neurons = _neurons()
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    assert _seen(neurons[order], size).value == pytest.approx(_seen(neurons).value, rel=1e-10)


def test_parts_combine_to_the_whole_even_after_saving():
    neurons = _neurons()
    left, right = _seen(neurons[:13]), _seen(neurons[13:])
    again = NLC(LAYERS)
    again.load_state(left.state())
    again.inputs = left.inputs
    again.combine(right)
    assert again.inputs == 80
    assert again.value == pytest.approx(_seen(neurons).value, rel=1e-10)


def test_constant_neurons_and_broken_inputs_add_nothing():
    neurons = _neurons()
    neurons[:, :6] = 0.1
    assert _seen(neurons, 7).by_layer()["conv"] == pytest.approx(0, abs=1e-12)
    broken = torch.cat([neurons, torch.full((1, 11), math.nan)])
    assert _seen(broken).value == pytest.approx(_seen(neurons).value, rel=1e-12)
    assert NLC(LAYERS).value == 0


def test_matrices_beyond_memory_are_refused(monkeypatch):
    monkeypatch.setattr(moments, "MEMORY_LIMIT", 400)
    with pytest.raises(ValueError, match="NLC of 3 layers with 6 neurons needs .* leave it out"):
        NLC(LAYERS)
