"""Finds the channels that can be taken out of a network, each on its own.

The dependencies come from torch-pruning, which follows the network's autograd graph. A group counts
if its channels are made by convolutions or linear layers, pass only through what treats each of
them on its own, and are read by convolutions or linear layers. Residual streams, which several
layers add up to, are left whole, and so is what layer normalisation, attention or grouped
convolutions mix. Every group is proven: without a random half of its channels the network puts out
what it does with them masked.

Source: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, arXiv:2301.12900.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from aim_plugins.modulation.channels import ChannelGroup, Ends
from vision_bench.reengineering.cutting import DENSE_LAYERS, NORMS, is_depthwise
from vision_bench.reengineering.removal import same_outputs

_MIXERS = ("_OutputOp", "_CustomizedOp", "_ExpandOp")
"""Operations of torch-pruning whose channels must stay."""


def find_channel_groups(module: nn.Module, example: Tensor) -> list[ChannelGroup]:
    """Finds the channels of a network that can be removed.

    Args:
        module: The network, which is left as it is.
        example: One or more inputs that it takes.

    Returns:
        The groups, in the order of the layers that make them.

    Raises:
        ImportError: If torch-pruning is not installed.
        ValueError: If the network cannot be followed, or has no such channels.
    """
    pruning = require("torch_pruning")
    traced = copy.deepcopy(module).eval().requires_grad_(True)
    graph = _follow(pruning, traced, example)
    names = {layer: name for name, layer in traced.named_modules()}
    groups: list[ChannelGroup] = []
    seen: set[nn.Module] = set()
    for layer in names:
        if not _makes_channels(layer) or layer in seen or layer not in graph.module2node:
            continue
        members = _members(pruning, graph, layer)
        seen.update(member.dep.target.module for member in members if _makes(member.dep))
        group = _group(members, names)
        if group is not None:
            groups.append(group)
    proven = prove(module, groups, example)
    if not proven:
        raise ValueError(
            f"{type(module).__name__} has no channels that could be removed: choose "
            "granularity='weight'"
        )
    return proven


@torch.no_grad()
def prove(module: nn.Module, groups: Sequence[ChannelGroup], example: Tensor) -> list[ChannelGroup]:
    """Those groups whose channels can be removed with the same outputs as when they are masked.

    Args:
        module: The network.
        groups: Its groups.
        example: One or more inputs that it takes.

    Raises:
        ValueError: If groups can be removed each, but not all together.
    """
    # In double precision, so that a wrong removal cannot pass for rounding, and with the zeros that
    # residual branches often start from filled, as behind them nothing would show.
    probe = copy.deepcopy(module).eval().double()
    generator = torch.Generator().manual_seed(0)
    for parameter in probe.parameters():
        _fill(parameter, generator)
    inputs = example.double() if example.is_floating_point() else example
    halves = {group.name: _half(group.size, generator) for group in groups}
    proven = _proven(probe, list(groups), halves, inputs)
    if not same_outputs(probe, proven, halves, inputs) and proven:
        raise ValueError(
            f"the channels of {type(module).__name__} can be removed one group at a time, but not "
            "together: choose granularity='weight'"
        )
    return proven


def require(name: str) -> ModuleType:
    """Imports a library of the extra that re-engineering needs.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"this needs {name.replace('_', '-')}: pip install 'aim-plugins[reengineer]'"
        ) from error


class _Called(TorchFunctionMode):
    """Notes the functions of PyTorch that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: set[Any] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.functions.add(func)
        return func(*args, **(kwargs or {}))


def _follow(pruning: ModuleType, traced: nn.Module, example: Tensor) -> Any:
    with _Called() as called, torch.no_grad():
        traced(example)
    if torch.roll in called.functions:  # torch-pruning would not come to an end
        raise ValueError(
            f"torch-pruning cannot follow the channels of {type(traced).__name__}, which shifts "
            "its inputs (torch.roll): choose granularity='weight'"
        )
    try:
        return pruning.DependencyGraph().build_dependency(
            traced, example_inputs=example, verbose=False
        )
    except Exception as error:  # whatever a network does that torch-pruning does not expect
        raise ValueError(
            f"torch-pruning cannot follow the channels of {type(traced).__name__} "
            f"({type(error).__name__}: {error}): choose granularity='weight'"
        ) from error


def _makes_channels(layer: object) -> bool:
    return isinstance(layer, DENSE_LAYERS) and getattr(layer, "groups", 1) == 1


def _makes(dep: Any) -> bool:
    return dep.handler.__name__.endswith("out_channels") and _makes_channels(dep.target.module)


def _members(pruning: ModuleType, graph: Any, layer: Any) -> list[Any]:
    linear = isinstance(layer, nn.Linear)
    remove = pruning.prune_linear_out_channels if linear else pruning.prune_conv_out_channels
    return list(graph.get_pruning_group(layer, remove, idxs=list(range(len(layer.weight)))))


def _group(members: Iterable[Any], names: dict[nn.Module, str]) -> ChannelGroup | None:
    """The group of what depends on a layer's outputs; None if its channels must stay."""
    outputs: dict[str, Ends] = {}
    inputs: dict[str, Ends] = {}
    makers, added = 0, False
    for member in members:
        layer, dep = member.dep.target.module, member.dep
        kind = type(layer).__name__
        if layer in names:
            side = outputs if dep.handler.__name__.endswith("out_channels") else inputs
            if isinstance(layer, NORMS) or is_depthwise(layer):
                side = outputs
            elif not _makes_channels(layer):
                return None
            makers += side is outputs and _makes_channels(layer)
            positions, channels = tuple(member.idxs), tuple(member.root_idxs)
            side[names[layer]] = Ends(names[layer], positions, channels)
        elif isinstance(layer, nn.Parameter) or kind in _MIXERS:
            return None
        else:
            added |= kind == "_ElementWiseOp" and _adds(dep.target)
    first = next(iter(outputs.values()), None)
    if first is None or not inputs or len(first.positions) < 2 or (makers > 1 and added):
        return None
    return ChannelGroup(
        first.layer, len(first.positions), tuple(outputs.values()), tuple(inputs.values())
    )


def _adds(node: Any) -> bool:
    """Whether an operation adds up several streams."""
    kind = type(node.grad_fn).__name__
    return len(node.inputs) > 1 and kind.startswith(("Add", "Sub", "Rsub"))


def _half(size: int, generator: torch.Generator) -> Tensor:
    opened = torch.zeros(size, dtype=torch.bool)
    opened[torch.randperm(size, generator=generator)[: size // 2]] = True
    return opened


def _fill(parameter: Tensor, generator: torch.Generator) -> None:
    drawn = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
    drawn = drawn.to(parameter.device) / 2 + 0.5
    if parameter.ndim == 1:
        parameter.copy_(torch.where(parameter.abs() < 1e-3, drawn, parameter))
    elif not parameter.any():
        parameter.copy_((drawn - 0.75) / 10)


def _proven(
    probe: nn.Module, groups: list[ChannelGroup], halves: dict[str, Tensor], inputs: Tensor
) -> list[ChannelGroup]:
    """Halves the groups until those that fail are found, which are mostly none."""
    if not groups or same_outputs(probe, groups, halves, inputs):
        return groups
    if len(groups) == 1:
        return []
    middle = len(groups) // 2
    parts = groups[:middle], groups[middle:]
    return [group for part in parts for group in _proven(probe, part, halves, inputs)]
