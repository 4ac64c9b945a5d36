"""Multiply-accumulates and parameters of networks, whole and masked."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from aim_plugins.modulation.channels import layer_macs
from aim_plugins.modulation.masks import maskable_parameters, random_masks
from vision_bench.models.load import load_model
from vision_bench.reengineering.costs import Costs, costs
from vision_bench.reengineering.module import Module, make_head


def mixer() -> nn.Module:
    """Linear layers on three axes, as those of token mixing: no two-dimensional products."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 4, stride=4), nn.Flatten(2), nn.Linear(4, 5), nn.GELU(),
        nn.Linear(5, 4, bias=False), Conv1D(3, 4), nn.Flatten(), nn.Linear(18, 4),
    )  # fmt: skip


def grouped() -> nn.Module:
    """A depthwise and a grouped convolution with strides, dilation and padding."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, groups=6, stride=2, padding=1),
        nn.Conv2d(6, 4, 3, groups=2, dilation=2, padding=2), nn.BatchNorm2d(4), nn.Flatten(),
        nn.Linear(64, 2),
    ).eval()  # fmt: skip


def residual() -> nn.Module:
    return load_model("cifar10_resnet20", weights="random").module


NETWORKS = {
    "residual": (residual, 32),
    "module": (lambda: Module(residual(), make_head(10, 3, seed=0)), 32),
    "mixer": (mixer, 8),
    "grouped": (grouped, 8),
}


def counted(model: nn.Module, masks: dict[str, torch.Tensor], example: torch.Tensor) -> Costs:
    return costs(model, masks, layer_macs(model, example))


@pytest.mark.parametrize("name", NETWORKS)
def test_pytorchs_own_counter_counts_two_flops_for_each_mac(name: str) -> None:
    make, side = NETWORKS[name]
    model, example = make().eval(), torch.randn(2, 3, side, side)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(example)
    found = counted(model, {}, example)
    assert found.macs == found.retained_macs == counter.get_total_flops() / 2 / len(example)
    assert found.parameters == sum(one.numel() for one in model.state_dict().values()) - sum(
        one.numel() for one in model.buffers()
    )
    assert (found.retained_parameters, found.retained_ratio) == (found.parameters, 1)


def test_macs_of_a_network_are_those_by_hand() -> None:
    found = counted(grouped(), {}, torch.randn(1, 3, 8, 8))
    by_hand = 64 * 6 * 27 + 16 * 6 * 9 + 16 * 4 * (3 * 9) + 64 * 2
    assert found.macs == by_hand


def test_only_weights_that_are_kept_and_not_zero_are_multiplied() -> None:
    model = grouped()
    masks = random_masks(model, maskable_parameters(model), 0.4, seed=0)
    with torch.no_grad():
        model[0].weight[0] = 0
    found = counted(model, masks, torch.randn(1, 3, 8, 8))
    positions = {"0": 64, "1": 16, "2": 16, "5": 1}
    by_hand = sum(
        at * int(((model.get_parameter(f"{name}.weight") != 0) & masks[f"{name}.weight"]).sum())
        for name, at in positions.items()
    )
    assert found.retained_macs == pytest.approx(by_hand)
    masked_away = sum(int((~one).sum()) for one in masks.values())
    assert found.retained_parameters == found.parameters - masked_away
    # Normalisation has parameters, of which none is masked and none is in the ratio.
    of_layers = found.parameters - 8
    assert found.retained_ratio == pytest.approx((of_layers - masked_away) / of_layers)


def test_a_mask_of_whole_inputs_counts_every_weight_it_closes() -> None:
    model, example = mixer(), torch.randn(1, 3, 8, 8)
    inputs = torch.tensor([[True, False, True, False]])
    whole, found = counted(model, {}, example), counted(model, {"2.weight": inputs}, example)
    assert whole.retained_macs - found.retained_macs == pytest.approx(6 * 2 * 5)
    assert whole.parameters - found.retained_parameters == 2 * 5


def test_a_layer_that_runs_twice_is_counted_twice_and_one_that_never_runs_not_at_all() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 9)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.used(self.used(rows))

    assert counted(Twice(), {}, torch.randn(3, 4)).macs == 32


def test_attention_of_pytorch_costs_what_the_same_attention_of_timm_costs() -> None:
    timm = pytest.importorskip("timm")
    torchvision = pytest.importorskip("torchvision")
    ours = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
    theirs = timm.models.VisionTransformer(
        32, 8, 3, 5, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2
    ).eval()
    nn.init.ones_(ours.heads.head.weight)  # torchvision's are zeros, which cost nothing
    example = torch.randn(2, 3, 32, 32)
    found, expected = counted(ours, {}, example), counted(theirs, {}, example)
    assert found == expected
    # With gradients PyTorch runs and counts the projections one by one.
    with FlopCounterMode(display=False) as counter:
        ours(example)
    assert counter.get_total_flops() / 2 / len(example) == found.macs


def test_attention_without_some_of_its_projections_costs_less() -> None:
    model = nn.MultiheadAttention(8, 2, kdim=4, vdim=6, batch_first=True)

    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = model

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.attention(rows, rows[:, :3, :4], value=rows[:, :3, :6])[0]

    example = torch.randn(2, 5, 8)
    closed = {"attention.k_proj_weight": torch.zeros(8, 4).bool()}
    found = counted(Cross().eval(), closed, example)
    assert found.macs == 5 * 8 * 8 + 3 * 4 * 8 + 3 * 6 * 8 + 5 * 8 * 8
    assert found.parameters - found.retained_parameters == 32
    assert found.retained_ratio == pytest.approx(1 - 32 / (64 + 32 + 48 + 24 + 64 + 8))


def test_masks_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="the model has no such parameter"):
        counted(grouped(), {"9.weight": torch.ones(2, 2).bool()}, torch.randn(1, 3, 8, 8))
