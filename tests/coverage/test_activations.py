"""Neurons are read as each layer returns them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from aim_plugins.coverage.activations import NeuronReader, neuron_layers, neuron_means
from aim_plugins.coverage.layers import Layers


class Small(nn.Module):
    """Runs its layers in another order than it declares them, and one of them not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.unused = nn.Linear(4, 3)
        self.conv = nn.Conv2d(1, 4, 3)
        self.twice = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images).relu().mean((2, 3))
        return self.head(self.twice(self.twice(features)))


IMAGES = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> Small:
    torch.manual_seed(0)
    return Small().eval()


def test_layers_are_those_that_run_once_in_the_order_of_execution(model: Small) -> None:
    layers = neuron_layers(model, lambda: model(IMAGES))
    assert layers == Layers(("conv", "head"), (4, 3))


def test_chosen_layers_are_refused_where_they_run_twice_or_never(model: Small) -> None:
    with pytest.raises(ValueError, match="twice .* run several times"):
        neuron_layers(model, lambda: model(IMAGES), "twice")
    with pytest.raises(ValueError, match="unused .* did not run"):
        neuron_layers(model, lambda: model(IMAGES), ["conv", "unused"])
    with pytest.raises(ValueError, match="nearest: 'conv'"):
        neuron_layers(model, lambda: model(IMAGES), "convs")


@torch.no_grad()
def test_a_neuron_is_the_mean_of_its_filter_over_space(model: Small) -> None:
    layers = Layers(("conv", "head"), (4, 3))
    with NeuronReader(model, layers).attached() as reader:
        logits = model(IMAGES)
        neurons = reader.neurons()
    by_hand = torch.tensor(
        [[[float(model.conv(IMAGES)[i, c].double().mean()) for c in range(4)] for i in range(5)]]
    )[0]
    torch.testing.assert_close(neurons[:, :4], by_hand)
    assert torch.equal(neurons[:, 4:], logits)


def test_leaving_the_block_leaves_no_hook(model: Small) -> None:
    with pytest.raises(RuntimeError), NeuronReader(model, Layers(("conv",), (4,))).attached():
        model(torch.zeros(1, 2, 8, 8))
    assert not any(module._forward_hooks for module in model.modules())


def test_padding_is_not_part_of_a_token_mean() -> None:
    tokens = torch.tensor([[[1.0], [3.0], [torch.nan]], [[2.0], [4.0], [6.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert neuron_means(tokens, -1, mask).tolist() == [[2.0], [4.0]]
    assert neuron_means(tokens[1:], -1).tolist() == [[4.0]]


def test_maps_with_channels_last_are_averaged_over_both_sides() -> None:
    maps = torch.arange(12.0).reshape(1, 2, 3, 2)
    assert neuron_means(maps, -1).tolist() == [[5.0, 6.0]]
    assert neuron_means(maps, 1).tolist() == [[2.5, 8.5]]


def test_activations_that_are_no_numbers_are_refused_by_neuron(model: Small) -> None:
    model.conv.bias.data[2] = torch.nan
    with NeuronReader(model, Layers(("conv",), (4,))).attached() as reader:
        model(IMAGES)
        with pytest.raises(ValueError, match="neuron conv:2 is nan for input 0"):
            reader.neurons()


def test_padding_is_left_out_of_outputs_with_heads() -> None:
    heads = torch.tensor(
        [[[1.0, 3.0], [5.0, 7.0], [1e9, 1e9]], [[2.0, 2.0], [4.0, 4.0], [6.0, 6.0]]]
    )
    mask = torch.tensor([[True, True, False], [True, True, True]])
    # Two tokens of two heads, and three tokens of two heads, with one feature.
    assert neuron_means(heads[..., None], -1, mask).tolist() == [[4.0], [4.0]]
    with pytest.raises(ValueError, match=r"shape \[2, 2, 3, 1\] does not begin with the 2 inputs"):
        neuron_means(heads.transpose(1, 2)[..., None], -1, mask)
