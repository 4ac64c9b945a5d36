"""The smaller model: channels cut out of the weights, and a configuration that says so.

What is left is a model of the same class with fewer neurons and heads, the same number in each
block, which transformers loads like any other.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from aim_plugins.modulation.channels import ChannelGroup
from aim_plugins.reengineering.groups import GPT2, Removable, head_size


def narrow_config(config: Any, neurons: int, head_groups: int) -> Any:
    """A configuration of a model of fewer channels.

    Args:
        config: That of the whole model.
        neurons: Neurons of each feed-forward part.
        head_groups: Key-value heads of each attention; its query heads are as many for each of
            them as before.

    Raises:
        ValueError: If the architecture knows no such model: Llama's widths are multiples of the
            number of heads.
    """
    found = copy.deepcopy(config)
    if config.model_type == GPT2:
        found.n_inner = neurons
        return found
    found.head_dim = head_size(config)
    found.intermediate_size = neurons
    shared = config.num_attention_heads // config.num_key_value_heads
    found.num_key_value_heads, found.num_attention_heads = head_groups, shared * head_groups
    # Made anew, so that it is checked.
    return type(config).from_dict(found.to_dict())


def channel_counts(config: Any, removable: Removable, share: float) -> dict[str, int]:
    """How many channels of each group a share keeps: the same in every block.

    Neurons are rounded. Of heads, of which there are few, at least the share is kept, and as many
    as the architecture can be configured with.

    Args:
        config: The model's configuration.
        removable: Its channels.
        share: In (0, 1].
    """
    counts = {group.name: max(1, round(share * group.size)) for group in removable.neurons}
    if removable.heads:
        whole = removable.heads[0].size
        # 0.7 of 10 heads are 7, not the 8 that 7.000000000000001 would give.
        least = max(1, math.ceil(share * whole - 1e-9))
        heads = next(one for one in range(least, whole + 1) if _exists(config, one))
        counts |= {group.name: heads for group in removable.heads}
    return counts


def _exists(config: Any, head_groups: int) -> bool:
    try:
        narrow_config(config, config.intermediate_size, head_groups)
    except Exception:  # the hub's library has errors of its own for what a validator refuses
        return head_groups == config.num_key_value_heads
    return True


@torch.no_grad()
def smaller_model(
    model: Any, removable: Removable, kept: Mapping[str, Bool[Tensor, " channels"]]
) -> Any:
    """The model without the other channels, with weights of its own, in eval mode.

    Args:
        model: The whole model.
        removable: Its channels.
        kept: For each group, by name, which of them are kept; as many in every block.
    """
    neurons = int(kept[removable.neurons[0].name].sum())
    heads = int(kept[removable.heads[0].name].sum()) if removable.heads else 0
    state = model.state_dict()
    for group in removable.groups:
        _cut(model, state, group, kept[group.name])
    config = narrow_config(model.config, neurons, heads)
    # Makes no random weights, which would take longer than all else.
    found = type(model).from_pretrained(
        None,
        config=config,
        state_dict={name: one.clone() for name, one in state.items()},
        dtype=model.dtype,
    )
    return found.to(model.device).eval()


def _cut(
    model: Any, state: dict[str, Tensor], group: ChannelGroup, kept: Bool[Tensor, " channels"]
) -> None:
    """Takes what belongs to other channels out of the weights."""
    for side, all_ends in (("outputs", group.outputs), ("inputs", group.inputs)):
        for ends in all_ends:
            layer = model.get_submodule(ends.layer)
            places = _places(ends.positions, ends.channels, kept).to(model.device)
            dimension = int((side == "inputs") != isinstance(layer, Conv1D))
            weight = f"{ends.layer}.weight"
            state[weight] = state[weight].index_select(dimension, places)
            if side == "outputs" and layer.bias is not None:
                state[f"{ends.layer}.bias"] = state[f"{ends.layer}.bias"][places]


def _places(
    positions: Sequence[int], channels: Sequence[int], kept: Bool[Tensor, " channels"]
) -> Shaped[Tensor, " kept"]:
    chosen = [one for one, channel in zip(positions, channels, strict=True) if bool(kept[channel])]
    return torch.tensor(chosen)
