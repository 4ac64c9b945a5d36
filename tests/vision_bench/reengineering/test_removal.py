"""Networks without their closed channels, against the same networks with those channels zeroed."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from aim_plugins.modulation.channels import ChannelGroup, ChannelMasks, layer_macs
from vision_bench.reengineering.channels import find_channel_groups
from vision_bench.reengineering.cutting import Constant, cut, set_widths, widths
from vision_bench.reengineering.removal import remove_channels

Build = Callable[[str], nn.Module]


@contextlib.contextmanager
def gated(
    model: nn.Module, groups: Sequence[ChannelGroup], gates: Mapping[str, Tensor]
) -> Iterator[None]:
    """Multiplies what every reader takes in, behind normalisation and activation, by the gates."""
    handles = []

    def multiply(ends, group: ChannelGroup) -> Callable:
        def hook(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            axis = -1 if isinstance(layer, nn.Linear) else 1
            values = inputs[0].movedim(axis, -1)
            factors = torch.ones(values.shape[-1]).index_put(
                (torch.tensor(ends.positions),), gates[group.name][list(ends.channels)].float()
            )
            return ((values * factors).movedim(-1, axis),)

        return hook

    for group in groups:
        for ends in group.inputs:
            layer = model.get_submodule(ends.layer)
            handles.append(layer.register_forward_pre_hook(multiply(ends, group)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def draw(groups: Sequence[ChannelGroup], share: float, seed: int = 0) -> dict[str, Tensor]:
    """Open channels of each group, of which at least one stays unless the share is 0."""
    generator = torch.Generator().manual_seed(seed)
    opened = {one.name: torch.rand(one.size, generator=generator) < share for one in groups}
    for channels in opened.values():
        channels[-1] |= share > 0
    return opened


def macs_of(model: nn.Module, images: Tensor) -> float:
    """MACs of convolutions and linear layers, by PyTorch's counter; attention's are none."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    counts = counter.get_flop_counts()["Global"]
    names = ("convolution", "addmm", "mm")
    return sum(n for op, n in counts.items() if str(op).removeprefix("aten.") in names) / 2


@pytest.mark.parametrize("share", [0.5, 0.1, 0.0])
def test_removing_channels_is_zeroing_them(
    network: nn.Module, images: Tensor, share: float
) -> None:
    groups = find_channel_groups(network, images[:1])
    opened = draw(groups, share)
    with torch.no_grad():
        with gated(network, groups, opened):
            wanted = network(images)
        smaller = remove_channels(network, groups, opened, images)
        assert (smaller(images) - wanted).abs().max() <= 1e-5
    before, after = (sum(one.numel() for one in net.parameters()) for net in (network, smaller))
    assert after < before


@pytest.mark.parametrize("share", [0.5, 0.1, 0.0])
def test_widths_are_rounded_up_with_the_same_outputs(
    network: nn.Module, images: Tensor, share: float
) -> None:
    groups = find_channel_groups(network, images[:1])
    opened = draw(groups, share)
    smaller = remove_channels(network, groups, opened, images, round_to=4)
    with torch.no_grad(), gated(network, groups, opened):
        assert (smaller(images) - network(images)).abs().max() <= 1e-5
    for group in groups:
        count = int(opened[group.name].sum())
        layer = smaller.get_submodule(group.name)
        if count:  # else it is a constant
            assert len(layer.weight) == min(-(-count // 4) * 4, group.size)


def test_removal_works_at_other_image_sizes(images: Tensor, build: Build) -> None:
    network = build("efficientnet")
    groups = find_channel_groups(network, images[:1])
    opened = draw(groups, 0.0)
    smaller = remove_channels(network, groups, opened, images)
    larger = torch.randn(2, 3, 45, 50)
    with torch.no_grad(), gated(network, groups, opened):
        assert torch.allclose(smaller(larger), network(larger), atol=1e-5)


def test_macs_left_are_those_that_pytorch_counts(network: nn.Module, images: Tensor) -> None:
    groups = find_channel_groups(network, images[:1])
    masks = ChannelMasks(network, groups, layer_macs(network, images))
    opened = draw(groups, 0.4)
    masks.set_open(opened)
    smaller = remove_channels(network, groups, opened, images)
    counted = macs_of(smaller, images) / macs_of(network, images)
    assert masks.retained_share().item() == pytest.approx(counted, rel=1e-5)


@pytest.mark.parametrize("name", ["resnet20", "bottleneck", "mixer", "efficientnet", "vgg"])
def test_a_group_closed_whole_costs_no_macs(name: str, images: Tensor, build: Build) -> None:
    network = build(name)
    groups = find_channel_groups(network, images[:1])
    masks = ChannelMasks(network, groups, layer_macs(network, images))
    opened = draw(groups, 0.5) | draw(groups[::2], 0.0)
    masks.set_open(opened)
    smaller = remove_channels(network, groups, opened, images)
    counted = macs_of(smaller, images) / macs_of(network, images)
    assert masks.retained_share().item() == pytest.approx(counted, rel=1e-5)


def test_removal_gives_the_weights_that_torch_pruning_gives(images: Tensor, build: Build) -> None:
    import torch_pruning

    network = build("bottleneck")
    groups = find_channel_groups(network, images[:1])
    opened = draw(groups, 0.5)
    smaller = remove_channels(network, groups, opened, images)
    graph = torch_pruning.DependencyGraph().build_dependency(network, images[:1])
    for group in groups:
        closed = (~opened[group.name]).nonzero().flatten().tolist()
        graph.get_pruning_group(
            network.get_submodule(group.name), torch_pruning.prune_conv_out_channels, closed
        ).prune()
    wanted = network.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in smaller.state_dict().items())


def test_gates_have_the_gradient_of_a_multiplier_behind_the_activation(
    network: nn.Module, images: Tensor
) -> None:
    groups = find_channel_groups(network, images[:1])
    masks = ChannelMasks(network, groups, layer_macs(network, images))
    target = torch.tensor([0, 1, 2, 3])
    with masks.training_on(network):
        F.cross_entropy(network(images), target).mul(1e-3).backward()
    gates = {group.name: torch.ones(group.size, requires_grad=True) for group in groups}
    with gated(network, groups, gates):
        F.cross_entropy(network(images), target).mul(1e-3).backward()
    wanted = torch.cat([gates[group.name].grad for group in groups])
    assert wanted.abs().max() > 0
    assert torch.allclose(masks.scores.grad, wanted, rtol=1e-3, atol=1e-8)


def test_the_gradient_of_a_gate_is_clipped_once_for_all_that_read_it(
    images: Tensor, build: Build
) -> None:
    network = build("vgg")  # its flattened channels are each read at four places
    groups = find_channel_groups(network, images[:1])
    masks = ChannelMasks(network, groups, layer_macs(network, images))
    with masks.training_on(network):
        network(images).sum().mul(100).backward()
    assert masks.scores.grad.abs().max() == 1


def test_the_network_that_channels_are_removed_from_stays_as_it_is(
    images: Tensor, build: Build
) -> None:
    network = build("resnet20")
    before = copy.deepcopy(network.state_dict())
    groups = find_channel_groups(network, images[:1])
    remove_channels(network, groups, draw(groups, 0.0), images)
    after = network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_another_model_s_channels_are_refused(images: Tensor, build: Build) -> None:
    network = build("vgg")
    groups = find_channel_groups(network, images[:1])
    opened = draw(groups, 0.5)
    with pytest.raises(ValueError, match=r"'0\.0' has the shape \(3,\), and the group 4 channels"):
        remove_channels(network, groups, opened | {"0.0": torch.ones(3, dtype=bool)}, images)
    with pytest.raises(ValueError, match="names no channels of group '0.0'"):
        remove_channels(network, groups, {}, images)


def test_masks_that_still_act_are_refused(images: Tensor, build: Build) -> None:
    network = build("vgg")
    groups = find_channel_groups(network, images[:1])
    masks = ChannelMasks(network, groups, layer_macs(network, images))
    with masks.training_on(network), pytest.raises(ValueError, match="parametrized"):
        remove_channels(network, groups, draw(groups, 0.5), images)


def test_a_group_that_hides_a_reader_is_refused(images: Tensor, build: Build) -> None:
    network = build("resnet20")
    groups = find_channel_groups(network, images[:1])
    name = groups[0].name
    wrong = ChannelGroup(name, groups[0].size, groups[0].outputs, groups[1].inputs)
    with pytest.raises((ValueError, RuntimeError)):
        remove_channels(network, [wrong], draw([wrong], 0.5), images)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Conv2d(3, 4, (3, 5), padding=(0, 2), dilation=2, bias=False),
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, 3, padding="valid"),
        nn.Conv1d(3, 4, 2, stride=3),
        nn.Linear(3, 4),
    ],
)
def test_a_constant_is_the_layer_on_zeros(layer: nn.Module) -> None:
    sizes = {nn.Conv2d: (3, 17, 16), nn.Conv1d: (3, 17), nn.Linear: (5, 3)}[type(layer)]
    zeros = torch.zeros(2, *sizes)
    bias = torch.zeros(4) if layer.bias is None else layer.bias
    assert torch.equal(Constant(layer, bias)(zeros), layer(zeros))


def test_cutting_a_depthwise_convolution_keeps_the_outputs_of_the_rest() -> None:
    layer, kept = nn.Conv2d(6, 6, 3, groups=6), torch.tensor([4, 1])
    images = torch.randn(2, 6, 8, 8)
    wanted = layer(images)[:, kept]
    cut(layer, None, kept)
    assert torch.allclose(layer(images[:, kept]), wanted, atol=1e-6)
    assert widths(layer) == {"": [2, 2]}


def test_widths_of_another_network_are_refused() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    with pytest.raises(ValueError, match="first: '1'"):
        set_widths(network, {"0": [2, 3]})
    with pytest.raises(ValueError, match=r"'0' has \[2, 3\] .* should have \[2, 5\]"):
        set_widths(network, {"0": [2, 5], "1": [5, 4]})
