"""Which channels are found in networks of each family."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from aim_plugins.modulation.channels import ChannelGroup, Ends
from vision_bench.reengineering.channels import find_channel_groups, prove

Build = Callable[[str], nn.Module]

FOUND = {
    "resnet20": [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in (0, 1, 2)],
    # The stem of a network whose first block projects its residual stream is no part of it.
    "bottleneck": [
        "conv1",
        *(f"layer{stage}.0.conv{number}" for stage in (1, 2, 3, 4) for number in (1, 2)),
    ],
    "mixer": [f"blocks.{block}.mlp_{of}.fc1" for block in (0, 1) for of in ("tokens", "channels")],
    "vit": ["blocks.0.mlp.fc1", "blocks.1.mlp.fc1"],
    "efficientnet": [
        "blocks.0.0.se.conv_reduce",
        "blocks.1.0.conv_pw",
        "blocks.1.0.se.conv_reduce",
        "blocks.1.1.conv_pw",
        "blocks.1.1.se.conv_reduce",
        "conv_head",
    ],
    "vgg": ["0.0", "0.4", "0.8", "3"],
}


@pytest.mark.parametrize("name", FOUND)
def test_the_channels_of_a_family_are_those_in_its_blocks(
    name: str, images: Tensor, build: Build
) -> None:
    groups = find_channel_groups(build(name), images[:1])
    assert [group.name for group in groups] == FOUND[name]


def test_channels_that_are_concatenated_are_read_at_their_places(
    images: Tensor, build: Build
) -> None:
    groups = {one.name: one for one in find_channel_groups(build("densenet"), images[:1])}
    grown = groups["features.denseblock1.denselayer2.conv2"]
    transition = next(one for one in grown.inputs if one.layer == "features.transition1.conv")
    stem, first = 16, 8
    start = stem + first
    assert transition.positions == tuple(range(start, start + 8))
    assert transition.channels == tuple(range(8))


def test_a_flattened_channel_is_read_at_each_of_its_pixels(images: Tensor, build: Build) -> None:
    groups = {one.name: one for one in find_channel_groups(build("vgg"), images[:1])}
    (ends,) = groups["0.8"].inputs
    assert ends == Ends("3", tuple(range(32)), tuple(place // 4 for place in range(32)))


def test_a_squeezed_channel_is_made_and_read_by_the_squeeze_too(
    images: Tensor, build: Build
) -> None:
    groups = {one.name: one for one in find_channel_groups(build("efficientnet"), images[:1])}
    block = groups["blocks.1.0.conv_pw"]
    made, read = ({one.layer for one in side} for side in (block.outputs, block.inputs))
    assert {"blocks.1.0.conv_pw", "blocks.1.0.conv_dw", "blocks.1.0.se.conv_expand"} <= made
    assert read == {"blocks.1.0.se.conv_reduce", "blocks.1.0.conv_pwl"}


def test_a_wrong_group_is_not_proven(images: Tensor, build: Build) -> None:
    network = build("resnet20")
    groups = find_channel_groups(network, images[:1])
    # The inputs of the stem's first reader are the residual stream, which others read too.
    wrong = ChannelGroup("conv1", 16, groups[0].outputs, (Ends("fc", range_of(64), range_of(64)),))
    assert prove(network, [*groups, wrong], images[:1]) == groups


def range_of(count: int) -> tuple[int, ...]:
    return tuple(range(count))


def test_finding_channels_leaves_the_network_as_it_is(images: Tensor, build: Build) -> None:
    network = build("vgg").train().requires_grad_(False)
    find_channel_groups(network, images[:1])
    assert network.training and not any(one.requires_grad for one in network.parameters())


def test_grouped_convolutions_are_left_whole() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(), nn.Linear(8, 2)
    )
    with pytest.raises(ValueError, match="no channels .* granularity='weight'"):
        find_channel_groups(network, torch.randn(1, 3, 3, 3))


def test_a_network_that_cannot_be_followed_is_refused_in_words(images: Tensor) -> None:
    from torchvision.models import shufflenet_v2_x0_5

    with pytest.raises(ValueError, match="cannot follow .* choose granularity='weight'"):
        find_channel_groups(shufflenet_v2_x0_5(), images[:1])


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, images: Tensor) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch_pruning", None)
    with pytest.raises(ImportError, match=r"torch-pruning: pip install .*reengineer"):
        find_channel_groups(nn.Linear(2, 2), images)


def test_shifted_windows_are_refused_at_once() -> None:
    """torch-pruning did not come to an end on such a network within minutes."""
    from timm.models.swin_transformer import SwinTransformer

    network = SwinTransformer(
        img_size=16, patch_size=2, window_size=2, embed_dim=8, depths=(2,), num_heads=(1,)
    )
    with pytest.raises(ValueError, match=r"SwinTransformer, which shifts .*granularity='weight'"):
        find_channel_groups(network, torch.zeros(1, 3, 16, 16))
