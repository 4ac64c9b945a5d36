"""What a module is held against has as much of the model as it has."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from aim_plugins.modulation.channels import ChannelMasks, layer_macs
from aim_plugins.modulation.masks import WeightMasks
from aim_plugins.modulation.retained import MaskPoint
from vision_bench.models.load import load_model
from vision_bench.reengineering.channels import find_channel_groups
from vision_bench.reengineering.controls import CONTROLS, MAGNITUDE, RANDOM, control, fit_head
from vision_bench.reengineering.evaluation import with_head
from vision_bench.reengineering.removal import remove_channels

EXAMPLE = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return load_model("lenet5", weights="random", seed=0, preprocessing="size=28").module


def macs(network: nn.Module) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(EXAMPLE[:1])
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("kind", CONTROLS)
def test_as_many_weights_are_retained_as_the_module_has(model: nn.Module, kind: str) -> None:
    masks = WeightMasks(model)
    point, share = control(kind, model, masks, 0.3, seed=0)
    total = sum(one.numel() for one in model.parameters())
    kept = sum(int(mask.sum()) for mask in point.masks.values())
    assert share == 0.3
    assert kept == round(0.3 * total)
    assert masks.retained_ratio() == 1.0  # the module's own masks stay


def test_the_largest_weights_of_all_layers_together_are_retained(model: nn.Module) -> None:
    point, _ = control(MAGNITUDE, model, WeightMasks(model), 0.3, seed=0)
    kept, lost = [], []
    for name, parameter in model.named_parameters():
        kept.append(parameter[point.masks[name]].abs())
        lost.append(parameter[~point.masks[name]].abs())
    assert torch.cat(kept).min() >= torch.cat(lost).max()


@pytest.mark.parametrize("share", [0.7, 0.4, 0.2])
@pytest.mark.parametrize("kind", CONTROLS)
def test_a_control_of_channels_has_no_fewer_macs_than_the_module(
    model: nn.Module, kind: str, share: float
) -> None:
    groups = find_channel_groups(model, EXAMPLE)
    masks = ChannelMasks(model, groups, layer_macs(model, EXAMPLE))
    point, own = control(kind, model, masks, share, seed=0)
    counted = macs(remove_channels(model, groups, point.channels, EXAMPLE)) / macs(model)
    assert own == pytest.approx(counted, rel=1e-5)
    assert own >= share
    # The next channel of its ranking would be one too many: no channel of LeNet has more.
    assert own - share <= float(masks.macs_by_gate().max())


def test_random_choices_depend_on_the_seed_alone(model: nn.Module) -> None:
    masks = WeightMasks(model)
    first, again, other = (control(RANDOM, model, masks, 0.3, seed=seed)[0] for seed in (0, 0, 1))
    assert all(torch.equal(mask, again.masks[name]) for name, mask in first.masks.items())
    assert not all(torch.equal(mask, other.masks[name]) for name, mask in first.masks.items())


def test_the_best_head_on_validation_images_is_kept() -> None:
    """On outputs that tell the classes apart, a head of one epoch or more finds them."""
    labels = torch.arange(60) % 3
    logits = torch.nn.functional.one_hot(labels, 5).float() * 4
    point, _ = control(MAGNITUDE, nn.Linear(2, 2), WeightMasks(nn.Linear(2, 2)), 0.5, seed=0)
    found = fit_head(
        point, (logits, labels), (logits, labels), 3, lr=0.1, batch_size=8, epochs=30, seed=0
    )
    outputs = logits @ found.head["weight"].T + found.head["bias"]
    assert (outputs.argmax(1) == labels).all()
    assert found.masks is point.masks


def test_a_head_without_a_relu_tells_classes_by_negative_outputs_alone() -> None:
    labels = torch.arange(60) % 3
    logits = -4 * torch.nn.functional.one_hot(labels, 5).float() - 1
    words = {"lr": 0.1, "batch_size": 8, "epochs": 30, "seed": 0}
    data = (logits, labels)
    linear = fit_head(MaskPoint({}), data, data, 3, relu=False, **words)
    behind = fit_head(MaskPoint({}), data, data, 3, **words)
    assert with_head(linear, logits, labels, relu=False).value == 1.0
    assert with_head(behind, logits, labels).value < 0.5  # it sees zeros
