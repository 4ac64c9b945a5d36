"""Gates of 1 on channels, for each example of a batch its own.

The derivative of an example's loss by such a gate is what closing the channel would change for that
example, to first order. Its mean square over examples is the channel's Taylor importance.

Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019,
arXiv:1906.10771, section 3.1 (equation 8, gates).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from aim_plugins.modulation.channels import ChannelGroup, gate_index
from aim_plugins.modulation.freezing import frozen


@contextlib.contextmanager
def example_gates(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    examples: int,
    owners: Int[Tensor, " rows"] | None = None,
) -> Iterator[list[Float[Tensor, "examples channels"]]]:
    """Lets gates act on what layers read while the block runs; leaving it restores the model.

    The model's own parameters are frozen meanwhile.

    Args:
        model: The model.
        groups: Its channels.
        examples: How many examples a batch has.
        owners: Which example each row of a batch belongs to; by default row i to example i.

    Returns:
        A leaf for each group, all ones; of a loss that is a sum over examples, the gradient of a
        row is that of its own example's loss.
    """
    device = next(model.parameters()).device
    gates = [torch.ones(examples, one.size, device=device).requires_grad_() for one in groups]
    with frozen(model), contextlib.ExitStack() as stack:
        for name, index in gate_index(model, groups, "inputs").items():
            hook = _hook(gates, index, owners)
            stack.callback(model.get_submodule(name).register_forward_pre_hook(hook).remove)
        yield gates


def _hook(
    gates: Sequence[Tensor], index: Int[Tensor, " inputs"], owners: Tensor | None
) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def hook(layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        inputs = given[0]
        always = gates[0].new_ones(len(gates[0]), 1)
        factors = torch.cat([*gates, always], 1)[:, index]
        if owners is not None:
            factors = factors[owners]
        last = isinstance(layer, nn.Linear | Conv1D)
        middle = (1,) * (inputs.ndim - 2)
        rows, count = factors.shape
        factors = factors.view(rows, *middle, count) if last else factors.view(rows, count, *middle)
        return (inputs * factors.to(inputs.dtype), *given[1:])

    return hook
