"""What NeuraL-Coverage computes, against its definitions written down input by input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from aim_plugins.coverage.criteria.boundary import KMNC, NC
from aim_plugins.coverage.criteria.compatible import (
    CompatibleCC,
    CompatibleKMNC,
    CompatibleNBC,
    CompatibleNLC,
    CompatibleSNAC,
    CompatibleTKNC,
    CompatibleTKNP,
)
from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.layers import Layers

COMPATIBLE = {
    "NC": NC,
    "CC": CompatibleCC,
    "KMNC": CompatibleKMNC,
    "NBC": CompatibleNBC,
    "NLC": CompatibleNLC,
    "SNAC": CompatibleSNAC,
    "TKNC": CompatibleTKNC,
    "TKNP": CompatibleTKNP,
}
LAYERS = Layers(("conv", "fc"), (4, 6))


def _neurons(count: int = 50, seed: int = 0, layers: Layers = LAYERS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, layers.neurons, generator=generator)


def _seen(name: str, neurons: torch.Tensor, *settings, size: int = 10, layers: Layers = LAYERS):
    criterion = COMPATIBLE[name](layers, *settings)
    for part in neurons.split(size):
        criterion.update(Batch(part, torch.zeros(len(part), dtype=torch.int64)))
    return criterion


def test_neurons_of_a_constant_layer_are_not_covered():
    neurons = _neurons(3)
    neurons[:, :4] = 7.0
    assert _seen("NC", neurons, 0.5).by_layer()["conv"] == 0


def test_the_lower_end_of_a_range_reaches_no_bucket():
    layers = Layers(("fc",), (1,))
    low, high = torch.zeros(1), torch.ones(1)
    # Bucket b of 4 reaches from above (b - 1) / 4 up to b / 4.
    for value, bucket in ((0.0, None), (0.1, 1), (0.25, 1), (0.5, 2), (1.0, 4), (1.1, None)):
        criterion = _seen("KMNC", torch.tensor([[value]]), low, high, 4, layers=layers)
        reached = criterion.reached.nonzero().flatten().tolist()
        assert reached == ([] if bucket is None else [bucket - 1])
    assert KMNC(layers, low, high, 4).units(Batch(low[None], torch.tensor([0]))).item() == 0


def test_buckets_are_those_of_rounding_up():
    train, test = _neurons(seed=1), _neurons()
    low, high = train.amin(0), train.amax(0)
    wanted = set()
    for row in test.numpy():
        for column, value in enumerate(row):
            least, most = low[column].numpy(), high[column].numpy()
            if least < value <= most:
                wanted.add((column, math.ceil((value - least) / (most - least) * np.float32(20))))
    criterion = _seen("KMNC", test, low, high, 20)
    assert criterion.value == pytest.approx(len(wanted) / (20 * LAYERS.neurons))


def test_ranges_begin_at_ten_thousand():
    layers = Layers(("fc",), (1,))
    beyond = torch.tensor([20000.0]), torch.tensor([30000.0])
    below = torch.tensor([[15000.0]])
    assert _seen("NBC", below, *beyond, layers=layers).value == 0
    assert _seen("SNAC", torch.tensor([[-9000.0]]), -beyond[1], -beyond[0], layers=layers).value
    assert not _seen("SNAC", torch.tensor([[-15000.0]]), *(-b for b in beyond), layers=layers).value


def test_a_boundary_itself_is_not_beyond():
    low, high = -torch.ones(10), torch.ones(10)
    rows = torch.stack([low, high])
    assert _seen("NBC", rows, low, high).value == _seen("SNAC", rows, low, high).value == 0
    assert _seen("NBC", 1.01 * rows, low, high).value == 1
    assert _seen("SNAC", 1.01 * rows[:1], low, high).value == 0


def test_most_active_neurons_of_each_layer_are_covered():
    neurons = _neurons(2)
    wanted = set()
    for row in neurons.tolist():
        for place in LAYERS.slices:
            values = row[place]
            ranks = sorted(range(len(values)), key=lambda one, values=values: -values[one])
            wanted |= {place.start + one for one in ranks[:2]}
    assert _seen("TKNC", neurons, 2).value == pytest.approx(len(wanted) / 10)


def test_patterns_are_of_the_last_batch_and_have_an_order():
    neurons = torch.tensor([[4.0, 3, 2, 1] + [0.1 * i for i in range(6)]])
    swapped = neurons[:, [1, 0, *range(2, 10)]]
    rows = torch.cat([neurons, swapped, neurons, swapped, neurons])
    assert _seen("TKNP", rows, 2, size=2).value == 1
    assert _seen("TKNP", rows, 2, size=5).value == 2
    assert _seen("TKNP", rows[:4], 1, size=2).value == 2
    again = COMPATIBLE["TKNP"](LAYERS, 2)
    with pytest.raises(ValueError, match="TKNP does not combine, since it counts the last batch"):
        again.combine(_seen("TKNP", rows, 2))


@pytest.mark.parametrize("top", [250, 251])
def test_long_patterns_are_compared_as_they_are_printed(top):
    layers = Layers(tuple("abcd"), (260,) * 4)
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(1, 1040, generator=generator) + 0.002 * torch.rand(
        40, 1040, generator=generator
    )
    patterns = torch.cat([part.topk(top, dim=1).indices for part in rows.split(260, 1)], 1)
    printed = {str(pattern) for pattern in patterns}
    assert _seen("TKNP", rows, top, size=40, layers=layers).value == len(printed)
    assert (len(printed) == 40) == (top == 250)


def test_clusters_are_kept_in_order_less_the_first():
    neurons = _neurons()
    wanted = 0
    for place in LAYERS.slices:
        kept: list[np.ndarray] = []
        for row in neurons[:, place].numpy():
            if not kept or min(np.sum(np.square(row - other)) for other in kept) > 10:
                kept.append(row)
        wanted += len(kept) - 1
    found = {size: _seen("CC", neurons, 10.0, size=size) for size in (1, 7, 50)}
    assert {criterion.value for criterion in found.values()} == {wanted} and 5 < wanted < 90
    again = COMPATIBLE["CC"](LAYERS, 10.0)
    again.load_state(found[7].state())
    assert again.by_layer() == found[1].by_layer()
    with pytest.raises(ValueError, match="CC does not combine"):
        again.combine(found[1])
    with pytest.raises(ValueError, match="threshold=-1"):
        COMPATIBLE["CC"](LAYERS, -1.0)


def _greedy_covariance(neurons: np.ndarray, size: int) -> float:
    total = 1.0
    for place in LAYERS.slices:
        kept = np.empty((0, place.stop - place.start))
        best = 0.0
        for start in range(0, len(neurons), size):
            more = np.concatenate([kept, neurons[start : start + size, place]])
            spread = np.abs(np.cov(more.T, bias=True)).mean()
            if spread > best:
                kept, best = more, spread
        total += best
    return total


@pytest.mark.parametrize("size", [5, 10])
def test_batches_that_do_not_raise_the_covariance_are_dropped(size):
    neurons = _neurons()
    wanted = _greedy_covariance(neurons.double().numpy(), size)
    assert _seen("NLC", neurons, size=size).value == pytest.approx(wanted, rel=1e-9)
    assert wanted != pytest.approx(_greedy_covariance(neurons.double().numpy(), 50), rel=1e-3)
    with pytest.raises(ValueError, match="NLC does not combine"):
        _seen("NLC", neurons).combine(_seen("NLC", neurons))
