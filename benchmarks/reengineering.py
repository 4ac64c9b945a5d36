"""Re-engineering: what training masks costs, and what zeros and removed channels gain.

    python -m benchmarks.reengineering [--models cifar10_resnet20 ...] [--rounds 11] [--share 0.2]

A training step with masks on all weights, and one with gates on channels, against a step of plain
fine-tuning. The latency of a network as it is, with 90 % of its weights zeroed, and
without its closed channels, at batch 1 and 16 in PyTorch, ONNX Runtime and OpenVINO. Weights are
random: neither time depends on them. Then modules that were really learned: the latency of what is
left against the whole model, beside their accuracy against the restricted model's. One thread
everywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from aim_plugins.core.settings import read_settings
from aim_plugins.modulation.channels import ChannelMasks, layer_macs
from aim_plugins.modulation.masks import Masks, WeightMasks, masked, random_masks
from benchmarks._timing import RESULTS, paired_times, write_result
from vision_bench.demo.names import resolve
from vision_bench.models.load import load_model
from vision_bench.reengineering.channels import find_channel_groups
from vision_bench.reengineering.findings import RESTRICTED
from vision_bench.reengineering.latency import measure_latency
from vision_bench.reengineering.removal import remove_channels
from vision_bench.reengineering.settings import ReengineerSettings
from vision_bench.reengineering.study import ReengineerStudy
from vision_bench.reengineering.tuning import TUNED_MODULE

MODELS = {"cifar10_resnet20": (32, 64), "torchvision:densenet121": (224, 8)}
"""Networks, the side of their images, and how many are in a step of training."""

_ZEROS = 0.9

CONFIGS = Path(__file__).parents[1] / "eval_configs" / "vision" / "reengineering"
MODULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("demo_efficientnet.py", {"n_epochs": 20, "alpha": 8, "target_share": 0.32}),
    (
        "demo_resnet20_channels.py",
        {
            "train_limit": 12000,
            "n_epochs": 24,
            "target_share": 0.15,
            "fine_tune": 10,
            "limit": None,
        },
    ),
)
"""Configs of modules that are learned, with more than the demo takes time for."""


def steps(
    model: nn.Module, images: Tensor, attached: contextlib.ExitStack, alpha: float = 1.0
) -> dict[str, Callable[[], None]]:
    """A step of training by each way, on copies that share nothing, while masks are attached."""
    labels = torch.arange(len(images)) % 10
    example = images[:1]
    groups = find_channel_groups(model, example)

    def plain() -> Callable[[], None]:
        own = copy.deepcopy(model).eval()
        optimizer = torch.optim.Adam(own.parameters(), 1e-4)

        def step() -> None:
            optimizer.zero_grad()
            F.cross_entropy(own(images), labels).backward()
            optimizer.step()

        return step

    def with_masks(make: Callable[[nn.Module], Masks]) -> Callable[[], None]:
        own = copy.deepcopy(model).eval()
        masks = make(own)
        optimizer = torch.optim.Adam(masks.parameters(), 1e-4)
        attached.enter_context(masks.training_on(own))
        assert any(map(parametrize.is_parametrized, own.modules()))

        def step() -> None:
            optimizer.zero_grad()
            loss = F.cross_entropy(own(images), labels) + alpha * masks.retained_share()
            loss.backward()
            optimizer.step()

        return step

    return {
        "fine_tuning": plain(),
        "weight_masks": with_masks(WeightMasks),
        "channel_masks": with_masks(
            lambda own: ChannelMasks(own, groups, layer_macs(own, example))
        ),
    }


def step_cost(model: nn.Module, images: Tensor, rounds: int) -> dict[str, Any]:
    """CPU seconds of a step by each way, and their ratio to plain fine-tuning by rounds."""
    with contextlib.ExitStack() as attached:
        times = paired_times(steps(model, images, attached), rounds=rounds)
    plain = times["fine_tuning"]
    found: dict[str, Any] = {}
    for name, own in times.items():
        ratios = [one / other for one, other in zip(own, plain, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found[name] = {
            "seconds": statistics.median(own),
            "times_fine_tuning": middle,
            "quartiles": [low, high],
        }
    return found


def smaller(model: nn.Module, example: Tensor, share: float) -> tuple[nn.Module, float]:
    """The network without all but a share of the channels of each group, and the MACs left."""
    groups = find_channel_groups(model, example)
    generator = torch.Generator().manual_seed(0)
    opened = {}
    for group in groups:
        kept = torch.zeros(group.size, dtype=torch.bool)
        order = torch.randperm(group.size, generator=generator)
        kept[order[: max(1, round(share * group.size))]] = True
        opened[group.name] = kept
    masks = ChannelMasks(model, groups, layer_macs(model, example))
    masks.set_open(opened)
    removed = remove_channels(model, groups, opened, example, round_to=8)
    return removed, masks.retained_share().item()


def latencies(
    model: nn.Module, example: Tensor, share: float, rounds: int
) -> tuple[list[dict[str, Any]], float]:
    """Latency as it is, with zeros, and without the closed channels; and the MACs left."""
    zeroed = copy.deepcopy(model)
    names = WeightMasks(zeroed).names
    with masked(zeroed, random_masks(zeroed, names, 1 - _ZEROS, seed=0)):
        zeros = copy.deepcopy(zeroed)
    removed, macs = smaller(model, example, share)
    modules = {"whole": model, "zeros": zeros, "removed": removed}
    found = measure_latency(modules, example.shape[1:], rounds=rounds, threads=1)
    return [asdict(one) for one in found], macs


def learned_module(config: str, given: dict[str, Any]) -> dict[str, Any]:
    """A module as `reengineer run` learns it: its accuracy, and how fast what is left is."""
    with tempfile.TemporaryDirectory() as folder:
        output = {"output": str(Path(folder) / "module")}
        settings = read_settings(
            ReengineerSettings, CONFIGS / config, (), given | output, resolve=resolve
        )
        study = ReengineerStudy(settings)
        study.run()
    found, smaller = study.findings, study.findings.smaller
    assert smaller is not None
    own = found.tuned[TUNED_MODULE] if found.tuned else found.modules[found.selected].answers
    difference = own.against(found.baselines[RESTRICTED])
    return {
        "config": config,
        "given": given,
        "images": len(own.right),
        "macs_left": found.chosen.share,
        "parameters": smaller.parameters,
        "accuracy": own.value,
        "against_restricted": [difference.value, difference.low, difference.high],
        "latency": [asdict(one) for one in smaller.latencies],
    }


def _earlier() -> dict[str, Any]:
    """What was measured before, of which parts that are not measured now stay."""
    path = RESULTS / "reengineering.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--share", type=float, default=0.2, help="of channels that stay")
    parser.add_argument("--only", choices=["steps", "latency", "modules"])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result = _earlier() | {"share_of_channels": options.share, "zeros": _ZEROS}
    for name in options.models if options.only != "modules" else ():
        model, (side, batch) = load_model(name, weights="random", seed=0).module, MODELS[name]
        found: dict[str, Any] = result.get(name, {})
        if options.only != "latency":
            images = torch.randn(batch, 3, side, side)
            found["step"] = {
                "batch": batch,
                **step_cost(model, images, options.rounds),
            }
            print(name, "step", found["step"], file=sys.stderr, flush=True)
        if options.only != "steps":
            found["latency"], found["macs_left"] = latencies(
                model, torch.randn(2, 3, side, side), options.share, options.rounds
            )
            for one in found["latency"]:
                print(name, one, file=sys.stderr, flush=True)
        result[name] = found
    if options.only in (None, "modules"):
        result["modules"] = [learned_module(config, given) for config, given in MODULES]
    print(write_result("reengineering", result))


if __name__ == "__main__":
    main()
