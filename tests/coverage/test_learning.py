"""Which neurons are chosen, and what training reaches of their clusters."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.learning import (
    END2END,
    Chosen,
    Values,
    choose_neurons,
    cluster_sets,
    subject_layer,
)
from aim_plugins.coverage.relevance.relevance import Relevance
from aim_plugins.coverage.settings import ImportanceSettings

LAYERS = Layers(("conv", "fc", "out"), (5, 6, 3))


def _relevance() -> Relevance:
    relevance = Relevance.empty(LAYERS, 3)
    generator = torch.Generator().manual_seed(0)
    relevance.add(torch.randn(40, 14, generator=generator), torch.tensor([0, 1] * 20))
    return relevance


def _best_halves(values: np.ndarray) -> np.ndarray:
    """Which of the two clusters with least squared distances each value is in, by all divisions."""
    ends = np.sort(values)

    def cost(end: float) -> float:
        return sum(
            ((one - one.mean()) ** 2).sum() for one in (values[values <= end], values[values > end])
        )

    return values > min(ends[:-1], key=cost)


def test_layers_are_counted_from_either_end() -> None:
    assert [subject_layer(LAYERS, index) for index in (1, 3, -1, -2)] == [
        "conv",
        "out",
        "out",
        "fc",
    ]


@pytest.mark.parametrize("index", [4, -4])
def test_a_layer_that_does_not_exist_is_refused_with_those_that_do(index: int) -> None:
    message = rf"layer_index={index}: the model has 3 layers, 1 \(conv\) to 3 \(out\)"
    with pytest.raises(ValueError, match=message):
        subject_layer(LAYERS, index)


def test_the_subject_layer_comes_first_and_classes_without_a_right_answer_are_left_out() -> None:
    settings = ImportanceSettings(
        top_m_neurons=2, layer_by_layer=True, end2end=True, all_class=True
    )
    found = choose_neurons(LAYERS, _relevance(), settings, ["cat", "dog", "cow"])
    labels = [one.label for one in found]
    assert labels == ["fc", "conv", "out", END2END, "class cat", "class dog"]
    assert [one.class_index for one in found] == [None] * 4 + [0, 1]


def test_a_class_of_fewer_right_answers_than_clusters_is_left_out() -> None:
    relevance = _relevance()
    relevance.add(torch.randn(2, 14), torch.tensor([2, 2]))
    for clusters, wanted in (
        (2, ["class cat", "class dog", "class cow"]),
        (3, ["class cat", "class dog"]),
    ):
        settings = ImportanceSettings(all_class=True, n_clusters=clusters)
        found = choose_neurons(LAYERS, relevance, settings, ["cat", "dog", "cow"])
        assert [one.label for one in found[1:]] == wanted


def test_neurons_are_those_of_the_highest_sums_of_their_set() -> None:
    relevance = _relevance()
    settings = ImportanceSettings(top_m_neurons=3, end2end=True, all_class=True)
    found = {one.label: one.columns for one in choose_neurons(LAYERS, relevance, settings, "abc")}
    total = relevance.scores.sum(0).tolist()
    of_a = relevance.scores[0].tolist()
    assert found["fc"] == tuple(sorted(range(5, 11), key=lambda one: -total[one])[:3])
    assert found[END2END] == tuple(sorted(range(11), key=lambda one: -total[one])[:3])
    assert found["class a"] == tuple(sorted(range(5, 11), key=lambda one: -of_a[one])[:3])


def test_scores_of_a_file_choose_the_same_neurons_as_the_relevance_they_are() -> None:
    relevance, settings = _relevance(), ImportanceSettings(top_m_neurons=4, layer_by_layer=True)
    from_relevance = choose_neurons(LAYERS, relevance, settings, "abc")
    assert choose_neurons(LAYERS, relevance.total, settings, "abc") == from_relevance


def test_scores_without_classes_are_refused_where_classes_are_asked_for() -> None:
    with pytest.raises(ValueError, match="all_class needs relevance by class"):
        ImportanceSettings(all_class=True, importance_file="scores.csv")
    with pytest.raises(ValueError, match="all_class needs relevance by class"):
        ImportanceSettings(all_class=True, attr="wisdom")
    settings = ImportanceSettings(all_class=True)
    with pytest.raises(ValueError, match="all_class needs relevance by class"):
        choose_neurons(LAYERS, _relevance().total, settings, "abc")


def test_an_attributor_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="attr='lrp-epsilo'.*lrp-epsilon"):
        ImportanceSettings(attr="lrp-epsilo")


def test_what_training_reaches_is_what_nearest_centres_say(world) -> None:
    for one, found in zip(world.chosen, world.reference.important, strict=True):
        rows = torch.arange(300)
        if one.class_index is not None:
            rows = rows[world.training.classes == one.class_index]
        labels = []
        for column in one.columns:
            labels.append(_best_halves(world.training.neurons[rows, column].double().numpy()))
        reached = [tuple(map(int, row)) for row in zip(*labels, strict=True)]
        counts = Counter(reached)
        codes = [int("".join(map(str, row)), 2) for row in sorted(counts)]
        assert found.reached.codes.tolist() == codes
        assert found.reached.counts.tolist() == [counts[row] for row in sorted(counts)]
        first = [int(rows[reached.index(row)]) for row in sorted(counts)]
        assert found.reached.examples.tolist() == first


def test_fewer_inputs_than_clusters_are_refused_and_say_of_what() -> None:
    batch = Batch(torch.randn(2, 14), torch.tensor([0, 1]))
    chosen = [Chosen("fc", (6,))]
    values = Values.read(chosen, [(torch.arange(2), batch)])
    with pytest.raises(ValueError, match="n_clusters=3: 2 inputs cannot make that many clusters"):
        cluster_sets(LAYERS, chosen, values, 3)


def test_the_order_of_training_inputs_changes_nothing(world) -> None:
    order = torch.randperm(300, generator=torch.Generator().manual_seed(3))
    training = world.training
    parts = [
        (rows, Batch(training.neurons[rows], training.classes[rows])) for rows in order.split(6)
    ]
    found = cluster_sets(world.layers, world.chosen, Values.read(world.chosen, parts), 2)
    for one, other in zip(found, world.reference.important, strict=True):
        assert one.neurons == other.neurons
        assert one.reached.examples.tolist() == other.reached.examples.tolist()
