"""Importance-driven coverage."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch

from aim_plugins.coverage.criteria.combinations import IDC, ImportantNeurons, find_clusters
from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.layers import Layers

LAYERS = Layers(("conv", "fc"), (3, 4))
IMPORTANT = ImportantNeurons((5, 0, 3), ((0.0, 1.0), (-1.0, 0.0, 2.0), (4.0,)), "fc")


def batch(neurons):
    neurons = torch.as_tensor(neurons, dtype=torch.float32)
    return Batch(neurons, torch.zeros(len(neurons), dtype=torch.int64))


def random_batch(inputs, seed=0):
    return batch(torch.randn(inputs, 7, generator=torch.Generator().manual_seed(seed)))


def idc(*batches, important=IMPORTANT):
    criterion = IDC(LAYERS, important)
    for one in batches:
        criterion.update(one)
    return criterion


def nearest_tuples(neurons, important):
    """The clusters of each input, by comparing with every centre."""
    return [
        tuple(
            int(np.abs(np.array(centres) - float(row[column])).argmin())
            for column, centres in zip(important.columns, important.centres, strict=True)
        )
        for row in neurons.double()
    ]


def test_covered_combinations_are_those_of_the_nearest_centres():
    one = random_batch(4)
    found = idc(one)
    expected = set(nearest_tuples(one.neurons, IMPORTANT))
    assert {found.decode(code) for code in found.covered} == expected
    assert found.value == len(expected) / 6
    assert found.total == 6


def test_every_combination_has_a_code_of_its_own():
    counts = (2, 3, 1, 4)
    important = ImportantNeurons((0, 1, 2, 3), tuple(tuple(map(float, range(k))) for k in counts))
    found = idc(important=important)
    rows = torch.tensor(list(itertools.product(*map(range, counts))))
    codes = found.encode(rows).tolist()
    assert codes == list(range(math.prod(counts)))
    assert [found.decode(code) for code in codes] == [tuple(row) for row in rows.tolist()]


def test_uncovered_combinations_complete_the_covered_ones():
    found = idc(random_batch(3))
    assert sorted([*found.uncovered(), *found.covered]) == list(range(6))
    assert not set(found.uncovered()) & set(found.covered)


def test_a_combination_is_named_by_ranges():
    found = idc()
    assert [found.describe(code) for code in (0, 4)] == [
        "fc:2 ≤ 0.5, conv:0 ≤ -0.5, fc:0 any",
        "fc:2 > 0.5, -0.5 < conv:0 ≤ 1, fc:0 any",
    ]


def test_an_activation_lies_in_the_range_that_names_its_cluster():
    neurons = torch.zeros(3, 7)
    neurons[:, 5] = torch.tensor([0.49, 0.5, 0.51])
    assert IMPORTANT.combinations_of(neurons)[:, 0].tolist() == [0, 0, 1]


def test_neither_order_nor_batch_size_matters():
    whole = random_batch(200)
    parts = [batch(one) for one in whole.neurons.flip(0).split(7)]
    assert torch.equal(idc(whole).found[0], idc(*parts).found[0])


def test_parts_combine_to_the_whole():
    first, second = random_batch(3, 1), random_batch(3, 2)
    combined = idc(first)
    combined.combine(idc(second))
    whole = idc(first, second)
    assert torch.equal(combined.found[0], whole.found[0])
    assert (combined.inputs, combined.value) == (6, whole.value)


def test_state_restores():
    found, other = idc(random_batch(5)), idc()
    other.load_state(found.state())
    assert other.covered == found.covered


def test_the_ceiling_is_reached_by_as_many_inputs_as_combinations():
    assert [idc().ceiling(inputs) for inputs in (0, 3, 6, 100)] == [0, 0.5, 1, 1]


def test_more_combinations_than_int64_holds_are_still_told_apart():
    neurons = torch.randint(0, 3, (400, 60), generator=torch.Generator().manual_seed(0)).float()
    layers = Layers(("fc",), (60,))
    important = ImportantNeurons(tuple(range(60)), ((0.0, 1.0, 2.0),) * 60)
    found = IDC(layers, important)
    found.update(batch(torch.cat([neurons, neurons[:50]])))
    assert found.total == 3**60
    assert found.value == 400 / 3**60
    with pytest.raises(ValueError, match=r"IDC of network: about 10\^29 combinations are kept as"):
        found.describe(0)
    with pytest.raises(ValueError, match="too many to list"):
        found.uncovered()


def test_thousands_of_neurons_do_not_overflow():
    layers = Layers(("fc",), (4000,))
    found = IDC(layers, ImportantNeurons(tuple(range(4000)), ((0.0, 1.0),) * 4000))
    found.update(batch(torch.rand(3, 4000)))
    assert (found.value, found.ceiling(3)) == (0.0, 0.0)
    with pytest.raises(ValueError, match=r"about 10\^1204 combinations"):
        found.uncovered()


def test_an_input_with_nan_has_no_combination():
    neurons = torch.zeros(2, 7)
    neurons[0, 0] = math.nan
    neurons[1, 6] = math.nan
    assert idc(batch(neurons)).units(batch(neurons)).flatten().tolist() == [-1, 1]
    assert len(idc(batch(neurons)).covered) == 1


def test_coverage_relative_to_the_training_set_may_exceed_one():
    training, test = idc(random_batch(1)), idc(random_batch(40))
    assert test.relative_to(training) == len(test.covered)
    assert training.relative_to(training) == 1
    with pytest.raises(ValueError, match="the training set has reached no combination"):
        test.relative_to(idc())


def test_coverage_of_other_clusters_is_not_combined():
    other = ImportantNeurons(IMPORTANT.columns, ((0.0, 1.5), *IMPORTANT.centres[1:]), "fc")
    with pytest.raises(ValueError, match="IDC of fc and of fc have other neurons or clusters"):
        idc().combine(idc(important=other))


def test_clusters_of_training_activations():
    neurons = torch.zeros(60, 7)
    neurons[:, 2] = torch.tensor([0.0, 5.0, 9.0]).repeat(20) + torch.rand(60) / 10
    found = find_clusters(neurons, [2, 4], label="conv")
    assert found.counts == (3, 1)
    assert found.combinations == 3
    assert found.centres[1] == (0.0,)
    means = [float(neurons[place::3, 2].double().mean()) for place in range(3)]
    assert found.centres[0] == pytest.approx(means)


def test_fewer_inputs_than_clusters_are_refused():
    with pytest.raises(ValueError, match="n_clusters=5: 3 inputs"):
        find_clusters(torch.rand(3, 7), [0], k=5)
    with pytest.raises(ValueError, match="class 3: there is no important neuron"):
        find_clusters(torch.rand(3, 7), [], label="class 3")


def test_important_neurons_survive_json_and_tensors():
    content = json.loads(json.dumps(IMPORTANT.to_json(LAYERS)))
    assert content["neurons"][0] == {"layer": "fc", "index": 2, "centres": [0.0, 1.0]}
    assert ImportantNeurons.from_json(content, LAYERS) == IMPORTANT
    assert ImportantNeurons.from_tensors(IMPORTANT.to_tensors(), "fc") == IMPORTANT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": "fcc"}, "layer='fcc': did you mean 'fc'"),
        ({"index": 9}, "neuron 9 of layer 'fc': it has 4"),
        ({"centres": [2.0, 1.0]}, "ascending order"),
        ({"centres": []}, "ascending order"),
        ({"centres": ["high"]}, "each has 'layer', 'index' and 'centres'"),
    ],
)
def test_an_importance_file_of_another_model_is_refused(change, message):
    content = IMPORTANT.to_json(LAYERS)
    content["neurons"][0].update(change)
    with pytest.raises(ValueError, match=message):
        ImportantNeurons.from_json(content, LAYERS)


def test_an_importance_file_of_another_form_is_refused():
    with pytest.raises(ValueError, match="important neurons: KeyError 'neurons'"):
        ImportantNeurons.from_json({"label": "fc"}, LAYERS)
