"""What a suite leaves out, against brute force."""

from __future__ import annotations

from itertools import groupby

import pytest
import torch

from aim_plugins.coverage.criteria.boundary import KMNC
from aim_plugins.coverage.criteria.combinations import IDC, ImportantNeurons
from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.gaps import find_gaps, find_stretches
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.reference import ImportantSet, Reached


def _clusters(row: list[float], centres: tuple[tuple[float, ...], ...]) -> tuple[int, ...]:
    return tuple(
        min(range(len(one)), key=lambda place: (abs(value - one[place]), place))
        for value, one in zip(row, centres, strict=True)
    )


def _gaps(world, most: int = 12):
    important = world.reference.important[0]
    suite = world.split(world.suite, [8, 82])[0]
    idc = IDC(world.layers, important.neurons)
    idc.update(suite)
    columns = list(important.neurons.columns)
    positions = torch.arange(100, 108)
    found = find_gaps(idc, important, suite.neurons[:, columns], positions, most)
    return idc, important, suite, found


def test_gaps_are_combinations_of_training_that_the_suite_lacks(world) -> None:
    idc, important, suite, found = _gaps(world)
    columns, centres = important.neurons.columns, important.neurons.centres

    def of(batch: Batch) -> list[tuple[int, ...]]:
        return [_clusters(row, centres) for row in batch.neurons[:, list(columns)].tolist()]

    training, tested = of(world.training), set(of(suite))
    missing = set(training) - tested
    assert len(missing) > 1
    assert {idc.decode(one.code) for one in found} == missing
    for one in found:
        assert one.training_inputs == training.count(idc.decode(one.code))
        assert one.example == training.index(idc.decode(one.code))
    sizes = [one.training_inputs for one in found]
    assert sizes == sorted(sizes, reverse=True)


def test_the_nearest_input_is_the_one_with_the_shortest_way_into_the_combination(world) -> None:
    idc, important, suite, found = _gaps(world)
    columns, centres = list(important.neurons.columns), important.neurons.centres
    values = suite.neurons[:, columns].double()
    spread = values.std(0, correction=0)
    for one in found:
        combination = idc.decode(one.code)

        def way(row: torch.Tensor, wanted: tuple[int, ...] = combination) -> list[float]:
            steps = []
            for value, own, place in zip(row.tolist(), centres, wanted, strict=True):
                middle = (own[0] + own[1]) / 2
                out = value - middle if place == 0 else middle - value
                steps.append(max(out, 0.0))
            return steps

        steps = torch.tensor([way(row) for row in values]) / spread
        distances = steps.norm(dim=1)
        assert one.nearest == 100 + int(distances.argmin())
        assert one.distance == pytest.approx(float(distances.min()))
        assert len(one.differs) == int((steps[int(distances.argmin())] > 0).sum())


def test_the_gaps_of_most_training_inputs_are_kept(world) -> None:
    _, _, _, every = _gaps(world)
    _, _, _, first = _gaps(world, most=1)
    assert first == every[:1]


def test_a_suite_that_reaches_all_of_training_has_no_gap(world) -> None:
    important = world.reference.important[0]
    idc = IDC(world.layers, important.neurons)
    idc.update(world.training)
    values = world.training.neurons[:, list(important.neurons.columns)]
    assert find_gaps(idc, important, values, torch.arange(300), 5) == []


def test_too_many_combinations_to_number_name_no_gap() -> None:
    layers = Layers(("fc",), (70,))
    neurons = ImportantNeurons(tuple(range(70)), ((0.0, 1.0),) * 70)
    reached = Reached(*(torch.zeros(1, dtype=torch.int64) for _ in range(3)))
    idc = IDC(layers, neurons)
    found = find_gaps(idc, ImportantSet(neurons, reached), torch.rand(3, 70), torch.arange(3), 5)
    assert found == []


def test_stretches_are_the_longest_runs_of_buckets_that_nothing_reaches() -> None:
    layers = Layers(("a", "b"), (3, 2))
    low, high = torch.zeros(5), torch.tensor([1.0, 2.0, 1.0, 0.0, 4.0])
    kmnc = KMNC(layers, low, high, 20)
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(6, 5, generator=generator) * high
    kmnc.update(Batch(values, torch.zeros(6, dtype=torch.int64)))
    expected = {}
    for neuron in (0, 1, 2, 4):  # training never moved neuron 3
        width = float(high[neuron]) / 20
        reached = {min(19, int(float(one) / width)) for one in values[:, neuron].double()}
        runs, start = [], 0
        for hit, run in groupby(range(20), key=lambda bucket: bucket in reached):
            length = len(list(run))
            if not hit:
                runs.append((length, start))
            start += length
        length, start = max(runs, key=lambda one: one[0])
        expected[layers.neuron_name(neuron)] = (length, start * width, (start + length) * width)
    found = find_stretches(kmnc, layers, 10)
    assert {one.neuron for one in found} == set(expected)
    for one in found:
        assert (one.buckets, one.low, one.high) == pytest.approx(expected[one.neuron])
        assert one.share == pytest.approx(one.buckets / 20)
    assert [one.buckets for one in found] == sorted((one.buckets for one in found), reverse=True)
    assert find_stretches(kmnc, layers, 2) == found[:2]


def test_full_ranges_leave_no_stretch() -> None:
    layers = Layers(("a",), (1,))
    kmnc = KMNC(layers, torch.zeros(1), torch.ones(1), 4)
    values = torch.tensor([[0.1], [0.3], [0.6], [0.9]])
    kmnc.update(Batch(values, torch.zeros(4, dtype=torch.int64)))
    assert find_stretches(kmnc, layers, 5) == []
