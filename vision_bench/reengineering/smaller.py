"""The selected module as a network of its own: cut to what it retains, saved, and timed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aim_plugins.modulation.channels import ChannelMasks
from aim_plugins.modulation.masks import Masks
from aim_plugins.modulation.retained import MaskPoint
from vision_bench.models.model import LogitsOnly, VisionModel
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
        megabytes: Of their ONNX files, in the same order.
        latencies: How long the networks take for a batch, by runtime.
    """

    parameters: tuple[int, int]
    megabytes: tuple[float, float]
    latencies: Sequence[Latency]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Smaller:
        """Reads what `to_json` wrote."""
        latencies = [
            Latency(
                **{**one, "spread": {name: tuple(ends) for name, ends in one["spread"].items()}}
            )
            for one in content["latencies"]
        ]
        first, second = content["parameters"]
        return cls((first, second), content["megabytes"], latencies)


def write_smaller(
    folder: Path,
    model: VisionModel,
    masks: Masks,
    point: MaskPoint,
    classes: Sequence[str],
    example: Float[Tensor, "batch 3 height width"],
) -> Smaller:
    """Writes the module as plain files, and measures it.

    Args:
        folder: Where it goes.
        model: The classifier.
        masks: What the module was learned by.
        point: The module.
        classes: Names of its outputs.
        example: Images, on which outputs are compared.

    Raises:
        ImportError: If a library of the extra "reengineer" is missing.
        ValueError: If the smaller network answers otherwise than the masked one.
        OSError: If a file cannot be written.
    """
    example = example.cpu()
    whole = copy.deepcopy(model.module).cpu()
    networks: dict[str, nn.Module] = {WHOLE_MODEL: whole}
    networks[MASKED] = last = _with_head(_masked(whole, point), point)
    if isinstance(masks, ChannelMasks):
        networks[REMOVED] = last = _with_head(_removed(whole, masks, point, example), point)
    save_module(folder, last, model, classes, example, method=_method(masks))
    sizes = len(to_onnx(whole, example, {})) / 1e6, (folder / ONNX_FILE).stat().st_size / 1e6
    latencies = measure_latency(networks, list(example.shape[1:]))
    return Smaller((_count(whole), _count(last)), sizes, latencies)


def _count(network: nn.Module) -> int:
    return sum(one.numel() for one in network.parameters())


def _method(masks: Masks) -> str:
    return "channel" if isinstance(masks, ChannelMasks) else "weight"


def _with_head(base: nn.Module, point: MaskPoint) -> Module:
    outputs, inputs = point.head["weight"].shape
    head = nn.Linear(inputs, outputs)
    head.load_state_dict(dict(point.head))
    return Module(base, head).eval()


@torch.no_grad()
def _masked(whole: nn.Module, point: MaskPoint) -> nn.Module:
    """A copy whose masked weights are zero."""
    found = copy.deepcopy(whole)
    named = found.model if isinstance(found, LogitsOnly) else found
    for name, parameter in named.named_parameters():
        if name in point.masks:
            parameter.mul_(point.masks[name])
    return found


def _removed(whole: nn.Module, masks: ChannelMasks, point: MaskPoint, example: Tensor) -> nn.Module:
    named = whole.model if isinstance(whole, LogitsOnly) else whole
    smaller = remove_channels(named, masks.groups, point.channels, example)
    return LogitsOnly(smaller).eval() if isinstance(whole, LogitsOnly) else smaller
