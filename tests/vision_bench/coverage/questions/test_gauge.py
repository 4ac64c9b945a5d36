"""Suites that share inputs are measured as each would be alone; stratified draws are even."""

from __future__ import annotations

import pytest
import torch

from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.learning import Chosen, Values, cluster_sets
from aim_plugins.coverage.reference import Reference, ReferenceBuilder, ReferenceMetadata
from aim_plugins.coverage.registry import make_criteria
from aim_plugins.coverage.settings import CriteriaSettings
from vision_bench.coverage.questions.correlation import stratified
from vision_bench.coverage.questions.gauge import Gauge, Pool

LAYERS = Layers(("conv", "fc", "head"), (6, 8, 3))


def neurons(count: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, LAYERS.neurons, generator=generator)
    return Batch(rows, rows[:, -3:].argmax(1))


def reference(settings: CriteriaSettings) -> Reference:
    training = neurons(300, 0)
    builder = ReferenceBuilder(LAYERS, settings, 300)
    builder.update(training)
    chosen = [Chosen("fc", (7, 9, 12))]
    values = Values.read(chosen, [(torch.arange(300), training)])
    metadata = ReferenceMetadata(
        method="lrp-epsilon",
        sites=list(LAYERS.names),
        model_signature={},
        versions={},
        surprise_layer="fc",
        important=[{"label": "fc", "class_index": None}],
    )
    return builder.finish(cluster_sets(LAYERS, chosen, values, 2), metadata)


@pytest.mark.parametrize("compat", ["none", "neural-coverage"])
def test_going_back_forgets_what_was_seen_since(compat: str):
    settings = CriteriaSettings(compat=compat)
    known, shared = reference(settings), neurons(40, 1)
    gauge = Gauge(known, settings)
    gauge.update(shared)
    start = gauge.seal()
    for seed in (2, 3):
        gauge.go_back(start)
        more = neurons(12, seed)
        gauge.update(more)
        fresh = make_criteria(known, settings)
        for one in fresh.values():
            one.update(shared)
            one.update(more)
        assert gauge.values == pytest.approx({label: one.value for label, one in fresh.items()})
        assert {one.inputs for one in gauge.criteria.values()} == {52}
    gauge.go_back(gauge.empty)
    assert {one.inputs for one in gauge.criteria.values()} == {0}


def pool(labels: list[int]) -> Pool:
    count = len(labels)
    return Pool(
        torch.arange(count) * 10,
        torch.zeros(count, 2),
        torch.zeros(count).long(),
        torch.tensor(labels),
    )


def test_a_stratified_draw_takes_as_many_of_each_class():
    made = pool([0] * 50 + [1] * 20 + [2] * 30)
    chosen = stratified(made, torch.arange(100), 31, seed=0)
    assert len(set(chosen.tolist())) == 31
    assert sorted(made.labels[chosen].bincount().tolist()) == [10, 10, 11]


def test_a_stratified_draw_takes_all_of_a_small_class():
    made = pool([0] * 50 + [1] * 2)
    chosen = stratified(made, torch.arange(52), 20, seed=0)
    assert made.labels[chosen].bincount().tolist() == [18, 2]


def test_a_stratified_draw_keeps_to_the_rows_it_is_given():
    made, rows = pool([0, 1] * 20), torch.arange(5, 25)
    assert set(stratified(made, rows, 10, seed=1).tolist()) <= set(rows.tolist())


def test_rows_are_found_by_their_positions_in_the_data_set():
    made = pool([0] * 5)
    assert made.rows_of(torch.tensor([40, 0, 7, 20])).tolist() == [4, 0, 2]


@pytest.mark.parametrize(("by_label", "classes"), [(False, [0, 1]), (True, [1, 1])])
def test_surprise_compares_by_the_label_only_where_the_library_does(by_label, classes):
    made = Pool(
        torch.arange(2), torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([1, 1]), by_label
    )
    assert made.batch(torch.arange(2)).classes.tolist() == classes
    assert made.right.tolist() == [False, True]
