"""Gates on whole channels, so that what they close can be taken out of the network.

A *channel group* is a set of channels that some layers make (their outputs) and others read (their
inputs). A closed gate masks the weights by which every reader takes the channel in, which equals a
gate behind its normalisation and activation: what the makers put there changes nothing any more,
and both sides can be cut to the open channels with the same outputs.

Pressing on parameters kills the late layers and saves little time; the penalty is therefore the
share of multiply-accumulates (MACs) that are left, exact in all gates together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from aim_plugins.modulation.masks import MASKED_LAYERS, Masks, binarize, own_parameters


@dataclass(frozen=True)
class Ends:
    """The inputs or outputs of a layer that belong to channels of a group.

    Attributes:
        layer: Name of the layer.
        positions: Of the layer's inputs or outputs, one for each entry of `channels`.
        channels: Which channel of the group each of them is; several may be the same, such as the
            pixels of a channel behind a flattening.
    """

    layer: str
    positions: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can be removed, each on its own.

    Attributes:
        name: Name of the layer that makes them.
        size: How many there are.
        outputs: Ends of the layers that make them, and of those that take each channel on its own
            (normalisation, depthwise convolutions).
        inputs: Ends of the layers that read them.
    """

    name: str
    size: int
    outputs: tuple[Ends, ...]
    inputs: tuple[Ends, ...]


class ChannelMasks(Masks):
    """A gate for every channel of the groups.

    Args:
        model: The model.
        groups: Its channels.
        macs: MACs of each layer for one input, as in `layer_macs`.

    Raises:
        ValueError: If there are no groups.
    """

    def __init__(
        self, model: nn.Module, groups: Sequence[ChannelGroup], macs: Mapping[str, float]
    ) -> None:
        super().__init__()
        if not groups:
            raise ValueError(
                f"{type(model).__name__} has no channels that could be removed: choose "
                "granularity='weight'"
            )
        self.groups = tuple(groups)
        device = next(model.parameters()).device
        sizes = [group.size for group in groups]
        self.scores = nn.Parameter(torch.ones(sum(sizes), dtype=torch.float32, device=device))
        self._inputs = gate_index(model, groups, "inputs")
        self._outputs = gate_index(model, groups, "outputs")
        self._shapes = {name: _input_shape(model.get_submodule(name)) for name in self._inputs}
        self._macs = {name: macs[name] for name in macs if macs[name] > 0}
        self._sizes = {name: _sizes(layer) for name, layer in model.named_modules()}

    @property
    def names(self) -> Sequence[str]:
        return [f"{layer}.weight" for layer in self._inputs]

    def scores_of(self, name: str) -> Float[Tensor, "*shape"]:
        return self._spread(name, self.scores)

    def gates_of(self, name: str) -> Float[Tensor, "*shape"]:
        # Binarised before it is spread: the gradient of a gate is the sum over all inputs that
        # depend on it, and is clipped as a whole.
        return self._spread(name, binarize(self.scores))

    def retained_share(self) -> Float[Tensor, ""]:
        """Share of the model's MACs that the open gates leave."""
        return self._share_of(binarize(self.scores))

    def _share_of(self, gates: Float[Tensor, " gates"]) -> Float[Tensor, ""]:
        kept = gates.new_zeros(())
        for layer, macs in self._macs.items():
            kept = kept + macs * self._open(layer, gates, self._inputs, self._outputs)
        return kept / sum(self._macs.values())

    @torch.no_grad()
    def retained_ratio(self) -> float:
        """Share of weights and biases that the network has once closed channels are removed."""
        gates, kept = (self.scores > 0).float(), 0.0
        for layer, (weights, biases) in self._sizes.items():
            kept += weights * float(self._open(layer, gates, self._inputs, self._outputs))
            kept += biases * float(self._open(layer, gates, self._outputs))
        return kept / sum(map(sum, self._sizes.values()))

    def _open(self, layer: str, gates: Tensor, *sides: Mapping[str, Tensor]) -> Tensor:
        """Share of a layer's weights whose ends are open on all of these sides."""
        share = gates.new_ones(())
        for side in sides:
            if layer in side:
                share = share * self._ends(side[layer], gates).mean()
        return share

    @torch.no_grad()
    def open_channels(self) -> dict[str, Bool[Tensor, " channels"]]:
        """For each group, by name, which channels are open."""
        parts = (self.scores > 0).split([group.size for group in self.groups])
        return {group.name: part.cpu() for group, part in zip(self.groups, parts, strict=True)}

    @torch.no_grad()
    def set_open(self, channels: Mapping[str, Bool[Tensor, " channels"]]) -> None:
        """Opens these channels, and closes the others of their groups."""
        parts = self.scores.split([group.size for group in self.groups])
        for group, part in zip(self.groups, parts, strict=True):
            if group.name in channels:
                part.copy_(channels[group.name].to(part.device).float() * 2 - 1)

    def macs_by_gate(self) -> Float[Tensor, " gates"]:
        """Share of the model's MACs that closing each gate alone, of all open ones, would save."""
        with torch.no_grad():
            gates = torch.ones_like(self.scores).requires_grad_()
        with torch.enable_grad():
            (found,) = torch.autograd.grad(self._share_of(gates), gates)
        return found

    @torch.no_grad()
    def start_in_order(self, importance: Float[Tensor, " gates"]) -> None:
        """Spreads the scores over (0, 1] by rank, so that the least important gates close first.

        From equal scores all gates would move alike until some close by chance: at 1 the gradient
        of a trained model has no preference, and what closing costs shows in its square.
        """
        ranks = importance.to(self.scores.device).argsort(stable=True).argsort()
        self.scores.copy_((ranks + 1) / len(ranks))

    def _spread(self, name: str, values: Tensor) -> Tensor:
        layer = name.removesuffix(".weight")
        return self._ends(self._inputs[layer], values).view(self._shapes[layer])

    def _ends(self, index: Tensor, values: Tensor) -> Tensor:
        # The last entry stands for inputs that belong to no group: they are always there.
        return torch.cat([values, values.new_ones(1)])[index]


def gate_index(
    model: nn.Module, groups: Sequence[ChannelGroup], side: Literal["inputs", "outputs"]
) -> dict[str, Int[Tensor, " ends"]]:
    """For each layer, which of all gates together each of its inputs or outputs depends on.

    Ends that belong to no group have the number behind the last gate.
    """
    device = next(model.parameters()).device
    found: dict[str, Tensor] = {}
    start, always = 0, sum(group.size for group in groups)
    for group in groups:
        for ends in getattr(group, side):
            layer = model.get_submodule(ends.layer)
            if not isinstance(layer, MASKED_LAYERS):
                continue
            if ends.layer not in found:
                size = (input_count if side == "inputs" else output_count)(layer)
                found[ends.layer] = torch.full((size,), always, device=device)
            places = torch.tensor(ends.positions, device=device)
            found[ends.layer][places] = torch.tensor(ends.channels, device=device) + start
        start += group.size
    return found


def input_count(layer: nn.Module) -> int:
    """Inputs of a layer's weight, which for a grouped convolution are those of one group."""
    weight = layer.weight
    return int(weight.shape[0 if isinstance(layer, Conv1D) else 1])  # type: ignore[index]


def output_count(layer: nn.Module) -> int:
    """Outputs of a layer."""
    weight = layer.weight
    return int(weight.shape[1 if isinstance(layer, Conv1D) else 0])  # type: ignore[index]


def _input_shape(layer: nn.Module) -> tuple[int, ...]:
    if isinstance(layer, Conv1D):
        return (-1, 1)
    return (1, -1, *(1,) * (layer.weight.ndim - 2))  # type: ignore[operator]


def _sizes(layer: nn.Module) -> tuple[int, int]:
    """How many weights and how many biases a layer has that count as retained or not."""
    sizes = {kind: one.numel() for kind, one in own_parameters(layer).items()}
    biases = sum(size for kind, size in sizes.items() if kind.endswith("bias"))
    return sum(sizes.values()) - biases, biases


@torch.no_grad()
def layer_macs(model: nn.Module, example: Tensor) -> dict[str, float]:
    """Multiply-accumulates of each convolution and linear layer for one input.

    A convolution's are its outputs times the weights that make one of them; products of activations
    with each other (attention) are not counted, as no mask removes them. Of PyTorch's attention
    those of its input projections have the name of the attention.

    Args:
        model: The model, in eval mode.
        example: A batch of inputs.

    Returns:
        MACs by layer, for one of the inputs; 0 of layers that don't run.
    """
    counted: dict[str, float] = {}
    handles = []

    def add(name: str, macs: float) -> None:
        counted[name] = counted.get(name, 0.0) + macs / len(example)

    def note(name: str, layer: nn.Module) -> None:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            weights = module.weight.numel() / output_count(module)  # type: ignore[operator]
            add(name, output.numel() * weights)

        counted[name] = 0.0
        handles.append(layer.register_forward_hook(hook))

    def note_attention(name: str, layer: nn.MultiheadAttention) -> None:
        def hook(
            module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any], output: object
        ) -> None:
            given = dict(zip(("query", "key", "value"), inputs, strict=False)) | named
            # It calls the layer behind it by its weights, so that no hook of that layer sees it.
            sizes = [given[one].numel() * layer.embed_dim for one in ("query", "key", "value")]
            add(name, float(sum(sizes)))
            add(f"{name}.out_proj" if name else "out_proj", float(sizes[0]))

        counted[name] = 0.0
        handles.append(layer.register_forward_hook(hook, with_kwargs=True))

    try:
        for name, layer in model.named_modules():
            if isinstance(layer, MASKED_LAYERS):
                note(name, layer)
            elif isinstance(layer, nn.MultiheadAttention):
                note_attention(name, layer)
        model(example)
    finally:
        for handle in handles:
            handle.remove()
    return counted
