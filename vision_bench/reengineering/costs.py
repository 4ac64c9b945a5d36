"""What a network costs, whole and with masks: multiply-accumulates and parameters.

A multiply-accumulate (MAC) counts once. SeaM's tables call that a FLOP, as fvcore does; PyTorch's
own counter counts two. Only weights that are not zero count under a mask, in convolutions and in
linear layers, which SeaM's counter left out where they are not two-dimensional products with a
bias. Zeros alone make no network faster: the MACs under masks on single weights are what hardware
for sparse weights could save, those under gates on channels what their removal does save.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from aim_plugins.modulation.channels import ChannelMasks
from aim_plugins.modulation.masks import Masks, masked, own_parameters, retained_ratio
from aim_plugins.modulation.retained import MaskPoint


@dataclass(frozen=True)
class Costs:
    """What one input costs, with and without masks.

    Attributes:
        macs: Multiply-accumulates of convolutions and linear layers; an addition and a
            multiplication are one.
        retained_macs: Those of weights that are retained and not zero.
        parameters: All parameters of the network.
        retained_parameters: Those that are not masked.
        retained_ratio: Share of weights and biases of convolutions and linear layers that is
            retained.
    """

    macs: float
    retained_macs: float
    parameters: int
    retained_parameters: int
    retained_ratio: float


def costs(
    model: nn.Module,
    masks: Mapping[str, Bool[Tensor, "*shape"]],
    macs: Mapping[str, float],
) -> Costs:
    """Counts what a network costs.

    Args:
        model: The network, in eval mode.
        masks: By parameter, true where it is retained, in a shape that spreads over it; none for
            the network as it is.
        macs: Of each layer for one input, as `layer_macs` counts them.

    Raises:
        ValueError: If the masks are those of another network.
    """
    sizes = {name: one.numel() for name, one in model.named_parameters(remove_duplicate=False)}
    parameters = sum(one.numel() for one in model.parameters())
    with masked(model, masks):
        kept = {name: _share_of_weights(model.get_submodule(name)) for name in macs}
    removed = sum(
        int((~mask).sum()) * (sizes[name] // mask.numel()) for name, mask in masks.items()
    )
    return Costs(
        macs=sum(macs.values()),
        retained_macs=sum(count * kept[name] for name, count in macs.items()),
        parameters=parameters,
        retained_parameters=parameters - removed,
        retained_ratio=retained_ratio(model, masks),
    )


def _share_of_weights(layer: nn.Module) -> float:
    """Share of a layer's weights that are not zero."""
    weights = [one for kind, one in own_parameters(layer).items() if not kind.endswith("bias")]
    kept = sum(int(torch.count_nonzero(one)) for one in weights)
    return kept / sum(one.numel() for one in weights)


@dataclass(frozen=True)
class Size:
    """How large a masked model is.

    Attributes:
        ratio: Share of weights and biases of convolutions and linear layers that is retained.
        macs: Multiply-accumulates for one image: of weights that are retained, or once closed
            channels are removed.
    """

    ratio: float
    macs: float


def size_of(model: nn.Module, masks: Masks, point: MaskPoint, macs: Mapping[str, float]) -> Size:
    """How large a model is under masks.

    Args:
        model: What the masks name the parameters of, in eval mode.
        masks: Those that modules of this granularity are learned by; they stay as they are.
        point: The masks; none for the whole model.
        macs: Of each layer for one input, as `layer_macs` counts them.
    """
    if not isinstance(masks, ChannelMasks):
        found = costs(model, point.masks, macs)
        return Size(found.retained_ratio, found.retained_macs)
    gates = copy.deepcopy(masks)
    gates.set_open(point.channels)
    return Size(gates.retained_ratio(), gates.retained_share().item() * sum(macs.values()))
