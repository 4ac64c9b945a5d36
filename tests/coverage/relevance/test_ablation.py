"""Taking neurons out of a network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.relevance.ablation import ablated


class Normalised(nn.Module):
    """Convolution, batch normalisation, ReLU; then the same with a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.fc, self.fc_bn, self.head = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def features(self, x):
        return self.relu(self.bn(self.conv(x)))

    def forward(self, x):
        return self.head(self.fc_bn(self.fc(self.features(x).mean((2, 3)))).relu())


LAYERS = Layers(("conv", "fc", "head"), (4, 5, 3))


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Normalised()
        for norm in (model.bn, model.fc_bn):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.uniform_(norm.bias, 0.5, 1)
            nn.init.uniform_(norm.running_mean, -1, 1)
        return model.eval()


@pytest.fixture
def pictures():
    return torch.randn(6, 1, 7, 7, generator=torch.Generator().manual_seed(1))


def test_a_channel_is_zero_behind_its_normalisation(model, pictures):
    with ablated(model, LAYERS, [2]), torch.no_grad():
        features = model.features(pictures)
    assert (features[:, 2] == 0).all()
    with torch.no_grad():
        plain = model.features(pictures)
    kept = [0, 1, 3]
    assert torch.equal(features[:, kept], plain[:, kept])


def test_it_equals_a_model_without_the_neurons_scale_and_shift(model, pictures):
    pruned = copy.deepcopy(model)
    for norm, index in ((pruned.bn, 1), (pruned.fc_bn, 3)):
        norm.weight.data[index] = norm.bias.data[index] = 0
    with ablated(model, LAYERS, [1, LAYERS.column("fc", 3)]), torch.no_grad():
        found = model(pictures)
    assert torch.allclose(found, pruned(pictures), atol=1e-6)


def test_zeroed_weights_would_leave_a_constant_behind(model, pictures):
    pruned = copy.deepcopy(model)
    pruned.conv.weight.data[2] = pruned.conv.bias.data[2] = 0
    norm = model.bn
    left = norm.bias - norm.running_mean * norm.weight / (norm.running_var + norm.eps).sqrt()
    constant = pruned.features(pictures)[:, 2]
    assert left[2] > 0
    assert torch.allclose(constant, left[2].detach().expand_as(constant), atol=1e-6)


def test_without_a_normalisation_it_equals_zeroed_weights(net, layers, images):
    pruned = copy.deepcopy(net)
    for layer, index in ((pruned.conv2, 0), (pruned.fc1, 4), (pruned.fc2, 1)):
        layer.weight.data[index] = layer.bias.data[index] = 0
    chosen = [layers.column(*one) for one in (("conv2", 0), ("fc1", 4), ("fc2", 1))]
    with ablated(net, layers, chosen), torch.no_grad():
        found = net(images)
    assert torch.allclose(found, pruned(images), atol=1e-6)
    assert (found[:, 1] == 0).all()


def test_a_normalisation_of_other_outputs_is_left_alone():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            one = self.conv(x)
            return self.bn(torch.cat([one, one + 1], 1))

    torch.manual_seed(0)
    model = Dense().eval()
    nn.init.uniform_(model.bn.bias)
    with ablated(model, Layers(("conv",), (2,)), [0]), torch.no_grad():
        found = model(torch.rand(2, 1, 3, 3))
    expected = model.bn(torch.tensor([0.0, 0, 1, 1]).view(1, 4, 1, 1))[0, [0, 2], 0, 0]
    assert torch.allclose(found[0, [0, 2], 0, 0], expected, atol=1e-6)


def test_tokens_lose_a_feature_at_every_place():
    model = nn.Sequential(nn.Linear(3, 4))
    with ablated(model, Layers(("0",), (4,)), [1]), torch.no_grad():
        found = model(torch.rand(2, 5, 3))
    assert (found[..., 1] == 0).all()
    assert (found[..., [0, 2, 3]] != 0).all()


def test_leaving_the_block_restores_the_model(model, pictures):
    before = model(pictures)
    with pytest.raises(KeyError), ablated(model, LAYERS, [0, 5]):
        model(pictures)
        raise KeyError
    assert torch.equal(model(pictures), before)
    assert not any(module._forward_hooks for module in model.modules())


def test_no_neurons_change_nothing(model, pictures):
    with ablated(model, LAYERS, []):
        assert torch.equal(model(pictures), model(pictures))


def test_a_neuron_that_is_none_is_refused(model):
    with pytest.raises(IndexError, match="neuron 12 is none of 12"), ablated(model, LAYERS, [12]):
        pass
