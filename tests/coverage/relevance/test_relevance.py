"""Relevance over a training set."""

from __future__ import annotations

import pytest
import torch

from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.relevance.registry import make_attributor
from aim_plugins.coverage.relevance.relevance import Relevance, measure_relevance, top_neurons

LAYERS = Layers(("conv", "fc", "head"), (3, 4, 2))
SCORES = torch.tensor([1.0, 9.0, 2.0, 7.0, 7.0, -8.0, 0.0, 50.0, 60.0])


def batches(images, labels, size):
    return list(zip(images.split(size), labels.split(size), strict=True))


@pytest.mark.parametrize("name", ["lrp-epsilon", "lig"])
def test_sums_are_over_the_correctly_classified_inputs_of_a_class(
    net, layers, images, labels, name
):
    attributor = make_attributor(name)
    found = measure_relevance(net, layers, batches(images, labels, 5), 4, attributor)
    expected = torch.zeros(4, layers.neurons, dtype=torch.float64)
    counts = [0] * 4
    for image, label in zip(images, labels.tolist(), strict=True):
        if int(net(image[None]).argmax()) == label:
            one = attributor.attribute(net, layers, image[None], torch.tensor([label]))
            expected[label] += one[0].double()
            counts[label] += 1
    assert torch.allclose(found.scores, expected, atol=1e-5)
    assert found.counts.tolist() == counts
    assert found.inputs == len(images)
    assert torch.allclose(found.total, expected.sum(0), atol=1e-5)
    for label in range(4):
        if counts[label]:
            assert torch.equal(found.of_class(label), found.scores[label])


def test_neither_order_nor_batch_size_matters(net, layers, images, labels):
    whole = measure_relevance(net, layers, batches(images, labels, 24), 4)
    flipped = measure_relevance(net, layers, batches(images.flip(0), labels.flip(0), 7), 4)
    assert torch.allclose(whole.scores, flipped.scores, atol=1e-6)
    assert torch.equal(whole.counts, flipped.counts)


def test_parts_combine_to_the_whole(net, layers, images, labels):
    parts = batches(images, labels, 8)
    whole = measure_relevance(net, layers, parts, 4)
    combined = measure_relevance(net, layers, parts[:1], 4)
    combined.combine(measure_relevance(net, layers, parts[1:], 4))
    assert torch.allclose(combined.scores, whole.scores, atol=1e-9)
    assert (combined.inputs, combined.counts.tolist()) == (whole.inputs, whole.counts.tolist())


def test_progress_counts_inputs(net, layers, images, labels):
    seen = []
    measure_relevance(net, layers, batches(images, labels, 10), 4, progress=seen.append)
    assert seen == [10, 20, 24]


def test_state_restores(net, layers, images, labels):
    found = measure_relevance(net, layers, batches(images, labels, 24), 4)
    again = Relevance.from_state(layers, found.state())
    assert torch.equal(again.scores, found.scores)
    assert (again.inputs, again.counts.tolist()) == (24, found.counts.tolist())
    with pytest.raises(ValueError, match="relevance of 29 neurons .* with 9: .* another model"):
        Relevance.from_state(
            LAYERS, {**found.state(), "scores": torch.zeros(4, 29, dtype=torch.float64)}
        )


def test_the_best_neurons_come_first_and_of_equal_ones_the_first():
    assert top_neurons(SCORES, LAYERS, 4) == [1, 3, 4, 2]
    assert top_neurons(SCORES, LAYERS, 3, exclude_last=False) == [8, 7, 1]
    assert top_neurons(SCORES, LAYERS, 2, layer="conv") == [1, 2]
    assert top_neurons(SCORES, LAYERS, 2, layer="head") == [8, 7]


def test_a_layer_of_fewer_neurons_gives_all():
    assert top_neurons(SCORES, LAYERS, 6, layer="conv") == [1, 2, 0]
    assert top_neurons(SCORES, LAYERS, 100) == [1, 3, 4, 2, 0, 6, 5]


def test_the_top_of_a_class_is_its_own():
    relevance = Relevance.empty(LAYERS, 2)
    relevance.add(torch.stack([SCORES, -SCORES]), torch.tensor([0, 1]))
    assert relevance.top(1, class_index=0) == [1]
    assert relevance.top(1, class_index=1) == [5]
    assert relevance.top(2, class_index=1, layer="fc") == [5, 6]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda one: one.top(0), "top_m_neurons=0: choose at least one neuron"),
        (lambda one: one.top(1, layer="fcc"), "layer='fcc': did you mean 'fc'"),
        (lambda one: one.of_class(2), "class=2: there are classes 0 to 1"),
        (lambda one: one.top(1, class_index=1), "class=1: .* none of its inputs correctly"),
        (lambda one: one.combine(Relevance.empty(LAYERS, 3)), "belongs to another model"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    relevance = Relevance.empty(LAYERS, 2)
    relevance.add(SCORES[None], torch.tensor([0]))
    with pytest.raises(ValueError, match=message):
        call(relevance)


def test_a_model_that_is_never_right_has_no_important_neurons(net, layers, images):
    with torch.no_grad():
        wrong = (net(images).argmax(1) + 1) % 4
    relevance = measure_relevance(net, layers, batches(images, wrong, 12), 4)
    assert (relevance.scores == 0).all()
    with pytest.raises(ValueError, match="none of 24 inputs was classified correctly"):
        relevance.top(3)


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_that_are_no_class_are_refused(net, layers, images, label):
    labels = torch.full((24,), label)
    with pytest.raises(ValueError, match=f"labels go from {label} to {label}.* 4 classes"):
        measure_relevance(net, layers, [(images, labels)], 4)


def test_the_only_layer_is_not_left_out_silently():
    layers = Layers(("fc",), (3,))
    with pytest.raises(ValueError, match="'fc' is the only layer"):
        top_neurons(torch.rand(3), layers, 1)
    assert top_neurons(torch.tensor([0.0, 2.0, 1.0]), layers, 1, layer="fc") == [1]
