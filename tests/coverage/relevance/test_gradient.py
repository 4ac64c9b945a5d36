"""LRP-ε as gradient × activation."""

from __future__ import annotations

import math

import captum.attr
import pytest
import torch
from torch import nn

from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.relevance.gradient import LRPEpsilon


def lrp_of_linear_layers(weights, biases, inputs, target, epsilon=1e-12):
    """LRP-ε of an MLP by its rule, in float64: relevance of each layer's outputs."""
    activations, sums = [inputs.double()], []
    for place, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        sums.append(activations[-1] @ weight.double().T + bias.double())
        activations.append(sums[-1].clamp(min=0) if place + 1 < len(weights) else sums[-1])
    relevance = torch.zeros_like(sums[-1])
    relevance[target] = sums[-1][target]
    found = [relevance]
    for weight, lower, total in zip(weights[:0:-1], activations[-2:0:-1], sums[:0:-1], strict=True):
        shares = lower[None] * weight.double()
        relevance = (shares / (total + epsilon * total.sign())[:, None] * relevance[:, None]).sum(0)
        found.append(relevance)
    return found[::-1]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_it_equals_captums_lrp_on_a_relu_network(net, layers, images, labels, reduction):
    found = LRPEpsilon(reduction).attribute(net, layers, images, labels)
    images.requires_grad_()  # else captum says that it sets it
    for name, place in zip(layers.names, layers.slices, strict=True):
        expected = (
            captum.attr.LayerLRP(net, getattr(net, name)).attribute(images, target=labels).detach()
        )
        if expected.dim() == 4:
            expected = expected.mean((2, 3)) if reduction == "mean" else expected.sum((2, 3))
        assert torch.allclose(found[:, place], expected, atol=1e-5 * float(expected.abs().max()))


def test_it_equals_the_rule_written_out():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3))
    inputs, targets = torch.randn(8, 5), torch.arange(8) % 3
    layers = Layers(("0", "2", "4"), (7, 6, 3))
    found = LRPEpsilon().attribute(net, layers, inputs, targets)
    linear = [net[0], net[2], net[4]]
    for row, (one, target) in enumerate(zip(inputs, targets, strict=True)):
        expected = lrp_of_linear_layers(
            [layer.weight.detach() for layer in linear],
            [layer.bias.detach() for layer in linear],
            one,
            int(target),
        )
        assert torch.allclose(found[row].double(), torch.cat(expected), atol=1e-5)


def test_without_biases_every_layer_shares_out_the_logit(net, layers, images, labels):
    for name in layers.names:
        nn.init.zeros_(getattr(net, name).bias)
    found = LRPEpsilon("sum").attribute(net, layers, images, labels)
    logits = net(images).gather(1, labels[:, None])[:, 0]
    for place in layers.slices:
        assert torch.allclose(found[:, place].sum(1), logits, atol=1e-5)


def test_an_activation_in_place_changes_nothing(net, layers, images, labels):
    found = LRPEpsilon().attribute(net, layers, images, labels)
    net.relu1.inplace = False
    assert torch.equal(found, LRPEpsilon().attribute(net, layers, images, labels))


def test_a_frozen_model_without_gradients_is_explained_alike(net, layers, images, labels):
    found = LRPEpsilon().attribute(net, layers, images, labels)
    net.requires_grad_(False)
    with torch.no_grad():
        again = LRPEpsilon().attribute(net, layers, images, labels)
    assert torch.allclose(found, again, atol=1e-7)
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_the_model_and_its_gradients_stay_as_they_are(net, layers, images, labels):
    before = net(images)
    LRPEpsilon().attribute(net, layers, images, labels)
    assert torch.equal(net(images), before)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())


def test_an_input_is_scored_alike_in_every_batch(net, layers, images, labels):
    whole = LRPEpsilon().attribute(net, layers, images, labels)
    one = LRPEpsilon().attribute(net, layers, images[5:6], labels[5:6])
    assert torch.allclose(whole[5:6], one, atol=1e-6)


def test_a_dead_neuron_has_no_relevance(net, layers, images, labels):
    nn.init.zeros_(net.conv2.weight[2:3].data)
    net.conv2.bias.data[2] = -1.0
    found = LRPEpsilon().attribute(net, layers, images, labels)
    assert (found[:, layers.column("conv2", 2)] == 0).all()


def test_only_correctly_classified_inputs_count(net, layers, images, labels):
    correct = net(images).argmax(1) == labels
    scores, classes = LRPEpsilon().attribute_correct(net, layers, images, labels)
    expected = LRPEpsilon().attribute(net, layers, images[correct], labels[correct])
    assert 0 < int(correct.sum()) < len(images)
    assert torch.equal(classes, labels[correct])
    assert torch.allclose(scores, expected, atol=1e-6)


class Tokens(nn.Module):
    """Embeds tokens, mixes features and classifies their mean."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(9, 5), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, ids, scale=1.0):
        logits = self.head(self.mix(self.embed(ids)).relu().mean(1) * scale)
        return type("Output", (), {"logits": logits})()


def test_tokens_are_averaged_and_arguments_go_by_name():
    torch.manual_seed(0)
    net, ids, targets = (
        Tokens().requires_grad_(False),
        torch.arange(8).view(2, 4),
        torch.tensor([0, 1]),
    )
    found = LRPEpsilon().attribute(net, Layers(("mix",), (4,)), {"ids": ids}, targets)
    mixed = net.mix(net.embed(ids))
    expected = (mixed.relu() * net.head.weight[targets][:, None] / 4).mean(1)
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_layer_off_the_way_to_the_logits_has_no_relevance():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.side = nn.Linear(3, 2), nn.Linear(3, 4)

        def forward(self, x):
            self.seen = self.side(x)
            return self.main(x)

    layers = Layers(("side", "main"), (4, 2))
    found = LRPEpsilon().attribute(Auxiliary(), layers, torch.rand(2, 3), torch.tensor([0, 1]))
    assert (found[:, :4] == 0).all()
    assert (found[:, 4:] != 0).any()


def test_layers_that_do_not_run_once_are_refused(net, images, labels):
    net.idle = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="layers idle did not run"):
        LRPEpsilon().attribute(net, Layers(("idle",), (2,)), images, labels)
    twice = nn.Linear(4, 4)
    model = nn.Sequential(twice, twice)
    with pytest.raises(ValueError, match="layer '0' runs several times"):
        LRPEpsilon().attribute(model, Layers(("0",), (4,)), torch.rand(2, 4), torch.tensor([0, 1]))


def test_a_model_that_returns_no_matrix_of_logits_is_refused():
    model = nn.Conv2d(1, 2, 1)
    with pytest.raises(ValueError, match=r"Conv2d returns \[1, 2, 3, 3\], and relevance starts"):
        LRPEpsilon().attribute(
            model, Layers(("",), (2,)), torch.rand(1, 1, 3, 3), torch.tensor([0])
        )


def test_nan_is_refused_with_the_neuron_named(net, layers, images, labels):
    net.fc1.weight.data[3, 0] = math.nan
    with pytest.raises(ValueError, match="attributor='lrp-epsilon' finds no finite relevance for"):
        LRPEpsilon().attribute(net, layers, images, labels)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="reduction='max' is unknown: write 'mean' or 'sum'"):
        LRPEpsilon("max")
