"""Takes closed channels out of a network, so that it is smaller with the same outputs.

Where all channels of a group are closed, the layers that read nothing else become constants, and
so do those that made the channels: one channel of zeros stays, and carries the shape.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.utils import parametrize

from aim_plugins.modulation.channels import ChannelGroup, ChannelMasks, input_count, output_count
from aim_plugins.modulation.masks import masked
from vision_bench.reengineering.cutting import DENSE_LAYERS, Constant, cut

TOLERANCE = 1e-5
"""How far outputs may be off, as a share of the largest where that is above 1."""


@torch.no_grad()
def remove_channels(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    open_channels: Mapping[str, Bool[Tensor, " channels"]],
    example: Tensor,
    round_to: int = 1,
) -> nn.Module:
    """A copy of a network that has only the open channels, with the same outputs.

    Args:
        module: The network.
        groups: Its channels, from `channels.find_channel_groups`.
        open_channels: For each group, by name, which channels stay.
        example: A batch of inputs, on which the outputs are compared.
        round_to: Of each group so many closed channels stay, as zeros, that a multiple of this is
            left where there are as many: runtimes compute in blocks of channels, and what does not
            fill them may be slower than before.

    Returns:
        The smaller network, in eval mode, on the device of the module.

    Raises:
        ValueError: If channels of a group are not given or are too many or few, the weights are
            parametrized, or the outputs differ from those of the network with masks.
    """
    if any(parametrize.is_parametrized(layer) for layer in module.modules()):
        raise ValueError(
            f"the weights of {type(module).__name__} are parametrized, so that they cannot be cut: "
            "leave the block that masks them, or call torch.nn.utils.parametrize."
            "remove_parametrizations"
        )
    _check(groups, open_channels)
    smaller = cut_channels(module, groups, open_channels, round_to)
    off, largest = _difference(module, smaller, groups, open_channels, example)
    if not off <= TOLERANCE * max(1.0, largest):
        raise ValueError(
            f"without its closed channels {type(module).__name__} puts out something else (by "
            f"{off:.2g}): find its groups again on these inputs, or choose granularity='weight'"
        )
    return smaller


@torch.no_grad()
def cut_channels(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    open_channels: Mapping[str, Bool[Tensor, " channels"]],
    round_to: int = 1,
) -> nn.Module:
    """The copy that `remove_channels` makes, with nothing checked."""
    smaller = copy.deepcopy(module).eval()
    ends = _Ends(smaller)
    for group in groups:
        ends.close(group, open_channels[group.name].cpu(), round_to)
    for name in dict.fromkeys((*ends.inputs, *ends.outputs)):
        ends.cut(name)
    return smaller


def same_outputs(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    open_channels: Mapping[str, Bool[Tensor, " channels"]],
    example: Tensor,
) -> bool:
    """Whether cutting changes nothing but what the masks do; false too where it cannot run."""
    try:
        smaller = cut_channels(module, groups, open_channels)
        off, largest = _difference(module, smaller, groups, open_channels, example)
    except torch.OutOfMemoryError:  # says nothing of the groups
        raise
    except (RuntimeError, ValueError, IndexError, AssertionError):  # shapes that don't fit any more
        return False
    return off <= TOLERANCE * max(1.0, largest)


class _Ends:
    """Which inputs and outputs of the layers of a network stay."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.alive: dict[str, Tensor] = {}
        """Inputs that are not closed: a closed one may stay to carry the shape."""
        self.silent: set[str] = set()
        """Makers of channels that are all closed."""

    def close(self, group: ChannelGroup, opened: Bool[Tensor, " channels"], round_to: int) -> None:
        kept = _filled(opened, round_to) if opened.any() else opened.clone()
        kept[0] |= not opened.any()
        for ends in group.inputs:
            layer = self.module.get_submodule(ends.layer)
            _place(self.inputs, ends.layer, input_count(layer), ends.positions, kept, ends.channels)
            _place(
                self.alive, ends.layer, input_count(layer), ends.positions, opened, ends.channels
            )
        for ends in group.outputs:
            layer = self.module.get_submodule(ends.layer)
            size = output_count(layer)
            _place(self.outputs, ends.layer, size, ends.positions, kept, ends.channels)
            if not opened.any() and isinstance(layer, DENSE_LAYERS):
                self.silent.add(ends.layer)

    def cut(self, name: str) -> None:
        layer: Any = self.module.get_submodule(name)
        inputs, outputs = self.inputs.get(name), self.outputs.get(name)
        kept = None if outputs is None else outputs.nonzero().flatten()
        if name in self.silent:
            assert kept is not None
            self._replace(name, layer, layer.weight.new_zeros(len(kept)))
        elif inputs is not None and not self.alive[name].any():
            bias = layer.bias
            if bias is None:
                bias = layer.weight.new_zeros(output_count(layer))
            self._replace(name, layer, bias if kept is None else bias[kept.to(bias.device)])
        else:
            if inputs is not None:
                closed = (~self.alive[name]).nonzero().flatten()
                layer.weight.index_fill_(1, closed.to(layer.weight.device), 0)
            cut(layer, None if inputs is None else inputs.nonzero().flatten(), kept)

    def _replace(self, name: str, layer: nn.Module, bias: Tensor) -> None:
        assert isinstance(layer, DENSE_LAYERS)
        self.module.set_submodule(name, Constant(layer, bias))


def _filled(opened: Bool[Tensor, " channels"], round_to: int) -> Bool[Tensor, " channels"]:
    """The open channels, and closed ones up to the next multiple."""
    missing = -int(opened.sum()) % round_to
    kept = opened.clone()
    kept[(~opened).nonzero().flatten()[:missing]] = True
    return kept


def _place(
    found: dict[str, Tensor],
    layer: str,
    size: int,
    positions: Sequence[int],
    states: Bool[Tensor, " channels"],
    channels: Sequence[int],
) -> None:
    whole = found.setdefault(layer, torch.ones(size, dtype=torch.bool))
    whole[torch.tensor(positions)] = states[torch.tensor(channels)]


def _difference(
    module: nn.Module,
    smaller: nn.Module,
    groups: Sequence[ChannelGroup],
    open_channels: Mapping[str, Bool[Tensor, " channels"]],
    example: Tensor,
) -> tuple[float, float]:
    """How far outputs are apart at most, and how large they are at most."""
    whole = copy.deepcopy(module).eval()
    masks = ChannelMasks(whole, groups, {})
    masks.set_open(open_channels)
    with masked(whole, masks.binary()):
        wanted = whole(example)
    # Not clamped: a difference that is not a number is none that may pass.
    return float((smaller(example) - wanted).abs().max()), float(wanted.abs().max())


def _check(
    groups: Sequence[ChannelGroup], open_channels: Mapping[str, Bool[Tensor, " channels"]]
) -> None:
    for group in groups:
        if group.name not in open_channels:
            raise ValueError(
                f"open_channels names no channels of group {group.name!r}: give those that stay"
            )
        if open_channels[group.name].shape != (group.size,):
            raise ValueError(
                f"open_channels of group {group.name!r} has the shape "
                f"{tuple(open_channels[group.name].shape)}, and the group {group.size} channels: "
                "they were learned on another model"
            )
