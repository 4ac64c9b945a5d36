"""Cuts layers to some of their channels, and puts a constant where none is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
DENSE_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Layers that make channels of others."""

NORMS = (_BatchNorm,)
"""Layers that treat each channel on its own, and know how many there are."""


class Constant(nn.Module):
    """A layer of which no input is left: its bias, in the shape of the layer's outputs.

    Args:
        layer: The layer.
        bias: What it puts out on each channel.

    Attributes:
        bias: What it puts out on each channel.
    """

    def __init__(
        self, layer: nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear, bias: Float[Tensor, " outputs"]
    ) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias.detach().clone(), requires_grad=layer.weight.requires_grad)
        self._sizes = None if isinstance(layer, nn.Linear) else _Sizes(layer)

    def forward(self, inputs: Tensor) -> Tensor:
        """The constant, once for each place where the layer would put something out."""
        # Cloned, since activations behind it may write in place.
        if self._sizes is None:
            return self.bias.expand(*inputs.shape[:-1], -1).clone()
        sizes = self._sizes.of(inputs.shape[2:])
        shaped = self.bias.view(1, -1, *(1 for _ in sizes))
        return shaped.expand(inputs.shape[0], -1, *sizes).clone()

    def extra_repr(self) -> str:
        return f"outputs={len(self.bias)}"


_SIZED = (*DENSE_LAYERS, *NORMS, Constant)


class _Sizes:
    """Height and width of what a convolution puts out."""

    def __init__(self, layer: Conv) -> None:
        self.kernel, self.stride, self.dilation = layer.kernel_size, layer.stride, layer.dilation
        # Convolutions of timm that pad as TensorFlow does say so by their class alone.
        self.same = layer.padding == "same" or type(layer).__name__.endswith("Same")
        self.padding: Sequence[int] = (0,) * len(layer.kernel_size)
        if not isinstance(layer.padding, str):
            self.padding = layer.padding

    def of(self, sizes: Sequence[int]) -> list[int]:
        if self.same:
            return [
                (size + step - 1) // step for size, step in zip(sizes, self.stride, strict=True)
            ]
        places = zip(sizes, self.kernel, self.stride, self.dilation, self.padding, strict=True)
        return [
            (size + 2 * rim - gap * (side - 1) - 1) // step + 1
            for size, side, step, gap, rim in places
        ]


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution of each channel by itself.

    >>> is_depthwise(nn.Conv2d(4, 4, 3, groups=4)), is_depthwise(nn.Conv2d(1, 4, 3))
    (True, False)
    """
    return (
        isinstance(layer, DENSE_LAYERS[:3])
        and layer.groups > 1
        and layer.groups == layer.in_channels == layer.out_channels
    )


def cut(
    layer: nn.Module, inputs: Int[Tensor, " inputs"] | None, outputs: Int[Tensor, " outputs"] | None
) -> None:
    """Cuts a layer down, in place, to some of its inputs and outputs.

    Args:
        layer: A linear layer, a convolution of all channels together or of each by itself, or a
            batch normalisation; the latter two have outputs only.
        inputs: Which inputs stay; None for all.
        outputs: Which outputs stay; None for all.
    """
    for name, tensor in (
        *layer.named_parameters(recurse=False),
        *layer.named_buffers(recurse=False),
    ):
        if tensor.ndim == 0:  # the number of batches that a normalisation has seen
            continue
        smaller = tensor.detach()
        if outputs is not None:
            smaller = smaller.index_select(0, outputs.to(tensor.device))
        if inputs is not None and name == "weight":
            smaller = smaller.index_select(1, inputs.to(tensor.device))
        if isinstance(tensor, nn.Parameter):
            smaller = nn.Parameter(smaller, requires_grad=tensor.requires_grad)
        setattr(layer, name, smaller)
    _rename_sizes(layer)


def widths(module: nn.Module) -> dict[str, list[int]]:
    """Numbers of inputs and outputs of each layer that makes or normalises channels.

    >>> widths(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
    {'0': [2, 3], '1': [3, 3]}
    """
    return {
        name: _sizes(layer) for name, layer in module.named_modules() if isinstance(layer, _SIZED)
    }


def set_widths(module: nn.Module, wanted: Mapping[str, Sequence[int]]) -> None:
    """Cuts a whole network, in place, to widths that `widths` told of a smaller one.

    Which channels go does not matter, as the values of all are loaded afterwards.

    Raises:
        ValueError: If a layer is not there, or is narrower than it should become.
    """
    known = widths(module)
    if known.keys() != wanted.keys():
        name = sorted(known.keys() ^ wanted.keys())[0]
        raise ValueError(
            f"widths of other layers than {type(module).__name__} has (first: {name!r}): build the "
            "architecture that they were told of"
        )
    for name, (inputs, outputs) in wanted.items():
        full = known[name]
        if inputs > full[0] or outputs > full[1]:
            raise ValueError(
                f"layer {name!r} has {full} inputs and outputs, and should have "
                f"{[inputs, outputs]}: build the architecture that the widths were told of"
            )
        layer: Any = module.get_submodule(name)
        if inputs == 0:
            module.set_submodule(name, Constant(layer, layer.weight.new_zeros(outputs)))
        elif [inputs, outputs] != full:
            both = not (is_depthwise(layer) or isinstance(layer, NORMS))
            cut(layer, torch.arange(inputs) if both else None, torch.arange(outputs))


def _sizes(layer: Any) -> list[int]:
    if isinstance(layer, Constant):
        return [0, len(layer.bias)]
    if isinstance(layer, nn.Linear):
        return [layer.in_features, layer.out_features]
    if isinstance(layer, NORMS):
        return [layer.num_features, layer.num_features]
    return [layer.in_channels, layer.out_channels]


def _rename_sizes(layer: nn.Module) -> None:
    """Lets a layer say of itself what its weight has become."""
    if isinstance(layer, NORMS):
        assert layer.running_mean is not None
        layer.num_features = len(layer.running_mean)
        return
    assert isinstance(layer, DENSE_LAYERS)
    outputs, inputs = layer.weight.shape[:2]
    if isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = inputs, outputs
    elif layer.groups > 1:
        layer.in_channels = layer.out_channels = layer.groups = outputs
    else:
        layer.in_channels, layer.out_channels = inputs, outputs
