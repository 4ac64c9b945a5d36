"""Taking neurons out of a network: their channels are zero from then on.

A channel whose weights are zero still leaves the constant β − μγ/σ behind its batch normalisation.
So a neuron is zeroed where it acts on others: at the output of its layer and, where a batch
normalisation takes that very output, at the output of this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aim_plugins.coverage.activations import channel_dim_of
from aim_plugins.coverage.layers import Layers
from aim_plugins.modulation.hooks import change_outputs, find_module
from aim_plugins.modulation.sites import split_site


@contextlib.contextmanager
def ablated(model: nn.Module, layers: Layers, neurons: Sequence[int]) -> Iterator[None]:
    """Zeroes neurons while the block runs.

    A normalisation that is reached by another way (behind a concatenation, as in DenseNet) mixes
    neurons of several layers and is left as it is.

    Args:
        model: The model.
        layers: Layers of it.
        neurons: Columns of the neurons.

    Raises:
        IndexError: If there is no such neuron.
    """
    chosen: dict[str, list[int]] = {}
    for neuron in neurons:
        layer, index = layers.locate(neuron)
        chosen.setdefault(layer, []).append(index)
    zeroed: dict[str, tuple[Tensor, list[int], int]] = {}
    functions = {
        site: _zero(zeroed, site, indices, channel_dim_of(find_module(model, split_site(site)[0])))
        for site, indices in chosen.items()
    }
    with contextlib.ExitStack() as attached:
        attached.enter_context(change_outputs(model, functions))
        for module in model.modules():
            if chosen and isinstance(module, _BatchNorm):
                handle = module.register_forward_hook(_follow(zeroed))
                attached.callback(handle.remove)
        yield


def _zero(
    zeroed: dict[str, tuple[Tensor, list[int], int]], site: str, indices: list[int], dim: int
) -> Callable[[Tensor], Tensor]:
    def hook(output: Tensor) -> Tensor:
        changed = zero_channels(output, indices, dim)
        # Kept until the layer runs again, so that the normalisation knows it by its identity.
        zeroed[site] = changed, indices, dim
        return changed

    return hook


def _follow(
    zeroed: dict[str, tuple[Tensor, list[int], int]],
) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        for site, (tensor, indices, dim) in zeroed.items():
            if inputs and inputs[0] is tensor:
                del zeroed[site]
                return zero_channels(output, indices, dim)
        return None

    return hook


def zero_channels(output: Tensor, indices: Sequence[int], dim: int) -> Tensor:
    """A copy of an output whose channels `indices` of dimension `dim` are zero."""
    places = torch.tensor(indices, dtype=torch.int64, device=output.device)
    return output.index_fill(dim, places, 0.0)
