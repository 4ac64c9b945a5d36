"""CC against cells told apart one by one, and against the sequential definition."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from aim_plugins.coverage.criteria.clusters import CC, grid_cells
from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.layers import Layers

LAYERS = Layers(("a", "b"), (2, 3))


def _neurons(count: int = 60, scale: float = 4.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


def _seen(neurons: torch.Tensor, threshold: float = 10.0) -> CC:
    criterion = CC(LAYERS, threshold)
    criterion.update(Batch(neurons, torch.zeros(len(neurons), dtype=torch.int64)))
    return criterion


def _kept_in_order(rows: torch.Tensor, threshold: float) -> int:
    """What TensorFuzz keeps: rows whose squared distance from all kept ones is above."""
    kept: list[list[float]] = []
    for row in rows.double().tolist():
        if all(math.dist(row, other) ** 2 > threshold for other in kept):
            kept.append(row)
    return len(kept)


@pytest.mark.parametrize("threshold", [1.0, 10.0])
def test_count_is_that_of_distinct_cells(threshold):
    neurons = _neurons()
    for name, place in zip(LAYERS.names, LAYERS.slices, strict=True):
        rows = neurons[:, place].double().tolist()
        side = math.sqrt(threshold / len(rows[0]))
        cells = {tuple(math.floor(x / side) for x in row) for row in rows}
        assert _seen(neurons, threshold).by_layer()[name] == len(cells)


def test_activations_of_a_cell_are_within_the_threshold():
    rows = _neurons(400, scale=2.0)[:, 2:]
    cells = grid_cells(rows, 10.0).tolist()
    shared = 0
    for left, right in itertools.combinations(range(400), 2):
        if cells[left] == cells[right]:
            shared += 1
            assert math.dist(rows[left].tolist(), rows[right].tolist()) ** 2 <= 10
    assert shared > 100


@pytest.mark.parametrize("seed", range(4))
def test_count_is_never_below_that_of_tensorfuzz_in_any_order(seed):
    neurons = _neurons()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    for name, place in zip(LAYERS.names, LAYERS.slices, strict=True):
        assert _seen(neurons).by_layer()[name] >= _kept_in_order(neurons[order][:, place], 10.0)


def test_parts_combine_to_the_whole():
    neurons = _neurons()
    left, right = _seen(neurons[40:]), _seen(neurons[:40])
    left.combine(right)
    whole = _seen(neurons)
    assert left.value == whole.value and left.inputs == 60
    assert all(map(torch.equal, left.found, whole.found))


def test_inputs_that_are_not_finite_reach_no_cell():
    neurons = _neurons(3)
    neurons[1, 0], neurons[2, 4] = math.nan, -math.inf
    units = CC(LAYERS).units(Batch(neurons, torch.zeros(3, dtype=torch.int64)))
    assert (units < 0).tolist() == [[False, False], [True, False], [False, True]]


def test_a_threshold_must_be_positive():
    with pytest.raises(ValueError, match="threshold=0"):
        CC(LAYERS, 0.0)
