"""The selected module as a network of its own: cut to what it retains, saved, and timed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from aim_plugins.modulation.channels import ChannelMasks, layer_macs
from aim_plugins.modulation.masks import Masks, masked
from aim_plugins.modulation.retained import MaskPoint
from vision_bench.models.model import LogitsOnly, VisionModel, named_module
from vision_bench.reengineering.latency import Latency, measure_latency
from vision_bench.reengineering.module import Module
from vision_bench.reengineering.onnx_file import to_onnx
from vision_bench.reengineering.removal import remove_channels
from vision_bench.reengineering.saved_module import ONNX_FILE, save_module

WHOLE_MODEL, MASKED, REMOVED = "whole model", "masked", "removed"
"""Networks whose latency is compared: as it is, with zeros, and without closed channels."""


@dataclass(frozen=True)
class Smaller:
    """What the selected module is as a network of its own.

    Attributes:
        parameters: All parameters, of the whole model and of the module with its head.
        macs: Multiply-accumulates for one image, of both.
        megabytes: Of their ONNX files, in the same order.
        latencies: How long the networks take for a batch, by runtime.
    """

    parameters: tuple[int, int]
    macs: tuple[float, float]
    megabytes: tuple[float, float]
    latencies: Sequence[Latency]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Smaller:
        """Reads what `to_json` wrote."""
        latencies = [
            Latency(**one | {"spread": {name: tuple(ends) for name, ends in one["spread"].items()}})
            for one in content["latencies"]
        ]
        pairs = {name: tuple(content[name]) for name in ("parameters", "macs", "megabytes")}
        return cls(**pairs, latencies=latencies)


def module_networks(
    model: VisionModel,
    masks: Masks,
    point: MaskPoint,
    example: Float[Tensor, "batch 3 height width"],
    round_to: int,
) -> tuple[nn.Module, dict[str, Module]]:
    """The whole model, and the module: masked, and of channels also removed; on the CPU.

    Args:
        model: The classifier.
        masks: What the module was learned by.
        point: The module.
        example: Images, on which outputs are compared.
        round_to: What the number of channels that stay is a multiple of; see `remove_channels`.

    Raises:
        ValueError: If the smaller network answers otherwise than the masked one.
    """
    whole = copy.deepcopy(model.module).cpu()
    modules = {MASKED: with_head_of(point, _masked(whole, point))}
    if isinstance(masks, ChannelMasks):
        modules[REMOVED] = with_head_of(
            point, _removed(whole, masks, point, example.cpu(), round_to)
        )
    return whole, modules


def write_smaller(
    folder: Path,
    model: VisionModel,
    whole: nn.Module,
    modules: Mapping[str, Module],
    classes: Sequence[str],
    example: Float[Tensor, "batch 3 height width"],
) -> Smaller:
    """Writes the module as plain files, and measures it.

    Args:
        folder: Where it goes.
        model: The classifier.
        whole: The whole model, of `module_networks`.
        modules: The modules; the last is written.
        classes: Names of its outputs.
        example: Images, on which runtimes are compared.

    Raises:
        ImportError: If a library of the extra "reengineer" is missing.
        ValueError: If a network cannot be written as ONNX, or a runtime answers otherwise.
        OSError: If a file cannot be written.
    """
    example, last = example.cpu(), list(modules.values())[-1]
    method = "channel" if REMOVED in modules else "weight"
    save_module(folder, last, model, classes, example, method=method)
    files = {
        WHOLE_MODEL: to_onnx(whole, example, {}),
        list(modules)[-1]: (folder / ONNX_FILE).read_bytes(),
    }
    first, second = (len(content) / 1e6 for content in files.values())
    networks = {WHOLE_MODEL: whole, **modules}
    latencies = measure_latency(networks, list(example.shape[1:]), files=files)
    counts = (_count(whole), _count(last))
    macs = sum(layer_macs(whole, example).values()), sum(layer_macs(last, example).values())
    return Smaller(counts, macs, (first, second), latencies)


def with_head_of(point: MaskPoint, base: nn.Module) -> Module:
    """A network with the head of a module, in eval mode."""
    outputs, inputs = point.head["weight"].shape
    head = nn.Linear(inputs, outputs)
    head.load_state_dict(dict(point.head))
    return Module(base, head).eval()


def _count(network: nn.Module) -> int:
    return sum(one.numel() for one in network.parameters())


def _masked(whole: nn.Module, point: MaskPoint) -> nn.Module:
    """A copy whose masked weights are zero."""
    named = named_module(whole)
    with masked(named, point.masks):
        return copy.deepcopy(whole)


def _removed(
    whole: nn.Module, masks: ChannelMasks, point: MaskPoint, example: Tensor, round_to: int
) -> nn.Module:
    named = named_module(whole)
    smaller = remove_channels(named, masks.groups, point.channels, example, round_to)
    return LogitsOnly(smaller).eval() if isinstance(whole, LogitsOnly) else smaller
