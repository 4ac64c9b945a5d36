"""What can be removed of a causal model: neurons of feed-forward parts, and groups of heads.

A neuron is an input of a block's down projection. Heads that share keys and values are removed
together with these, so that what is left is grouped-query attention of the same kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from aim_plugins.core.errors import first_few
from aim_plugins.modulation.channels import ChannelGroup, Ends, input_count

LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3")
"""Kinds of models whose blocks have gate, up and down projections, and query, key, value and output
projections of heads whose size stands in the configuration."""
GPT2 = "gpt2"


@dataclass(frozen=True)
class Removable:
    """What can be removed of a model.

    Attributes:
        neurons: A group for each block's feed-forward part.
        heads: A group for each block's attention, a channel of which is a key-value head with its
            query heads; none where heads stay.
    """

    neurons: tuple[ChannelGroup, ...]
    heads: tuple[ChannelGroup, ...]

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """All groups."""
        return (*self.neurons, *self.heads)


def find_removable(model: nn.Module) -> Removable:
    """Finds the channels of a causal model of transformers.

    Args:
        model: The model.

    Raises:
        ValueError: If its architecture is none of those known, or its layers are of another class,
            as those of quantised models and adapters are.
    """
    config: Any = model.config
    kind = getattr(config, "model_type", "")
    if kind == GPT2:
        # Its heads share one fused layer, and their size is the width by their number.
        found = Removable(_gpt2_neurons(model), ())
    elif kind in LLAMA_LIKE:
        blocks = range(config.num_hidden_layers)
        found = Removable(
            tuple(_neurons(model, f"model.layers.{block}.mlp") for block in blocks),
            tuple(_heads(config, f"model.layers.{block}.self_attn") for block in blocks),
        )
    else:
        raise ValueError(
            f"model: {kind or type(model).__name__!r} is an architecture whose neurons and heads "
            f"are not known here: give one of {', '.join((*LLAMA_LIKE, GPT2))}"
        )
    _check_layers(model, found.groups)
    return found


def _neurons(model: nn.Module, place: str) -> ChannelGroup:
    size = input_count(model.get_submodule(f"{place}.down_proj"))
    every = tuple(range(size))
    return ChannelGroup(
        place,
        size,
        tuple(Ends(f"{place}.{name}", every, every) for name in ("gate_proj", "up_proj")),
        (Ends(f"{place}.down_proj", every, every),),
    )


def _heads(config: Any, place: str) -> ChannelGroup:
    groups = config.num_key_value_heads
    shared = config.num_attention_heads // groups
    width = head_size(config)

    def ends(name: str, heads: int) -> Ends:
        count = groups * heads * width
        channels = tuple(one // (heads * width) for one in range(count))
        return Ends(f"{place}.{name}", tuple(range(count)), channels)

    makers = (ends("q_proj", shared), ends("k_proj", 1), ends("v_proj", 1))
    return ChannelGroup(place, groups, makers, (ends("o_proj", shared),))


def head_size(config: Any) -> int:
    """Features of one attention head."""
    own = getattr(config, "head_dim", None)
    return int(own or config.hidden_size // config.num_attention_heads)


def _gpt2_neurons(model: nn.Module) -> tuple[ChannelGroup, ...]:
    found = []
    for block in range(model.config.n_layer):  # type: ignore[union-attr, arg-type]
        place = f"transformer.h.{block}.mlp"
        size = input_count(model.get_submodule(f"{place}.c_proj"))
        every = tuple(range(size))
        makers, readers = Ends(f"{place}.c_fc", every, every), Ends(f"{place}.c_proj", every, every)
        found.append(ChannelGroup(place, size, (makers,), (readers,)))
    return tuple(found)


def _check_layers(model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
    names = [one.layer for group in groups for one in (*group.outputs, *group.inputs)]
    layers = dict(model.named_modules())
    odd = [name for name in names if type(layers.get(name)) not in (nn.Linear, Conv1D)]
    if odd:
        raise ValueError(
            f"model: {first_few(odd)} is no plain linear layer, as in quantised models and with "
            "adapters: load the whole model, with adapters merged into its weights"
        )


def masks_of(
    model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Bool[Tensor, " channels"]]
) -> dict[str, Bool[Tensor, "*shape"]]:
    """Masks that retain exactly the weights that are left when the other channels are removed.

    What makes a channel is masked as well as what reads it, so that the ratio that the masks retain
    is that of the smaller model.

    Args:
        model: The model.
        groups: Its channels.
        kept: For each group, by name, which of them are kept.
    """
    masks: dict[str, Tensor] = {}
    for group in groups:
        own = kept[group.name]
        for ends in group.outputs:
            layer = model.get_submodule(ends.layer)
            rows = own[list(ends.channels)]
            masks[f"{ends.layer}.weight"] = (
                rows[None] if isinstance(layer, Conv1D) else rows[:, None]
            )
            if layer.bias is not None:
                masks[f"{ends.layer}.bias"] = rows
        for ends in group.inputs:
            layer = model.get_submodule(ends.layer)
            columns = own[list(ends.channels)]
            columns = columns[:, None] if isinstance(layer, Conv1D) else columns[None]
            masks[f"{ends.layer}.weight"] = columns
    return masks
