"""A small residual CNN on Fashion-MNIST, whose filters' ablations are cheap: for benchmarks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from aim_plugins.attribution.outputs import margin
from aim_plugins.attribution.subject import BatchSubject
from aim_plugins.modulation.component_kinds import find_components
from vision_bench.data.classification import load_dataset
from vision_bench.demo.store import make_once

RECIPE = {"images": 12_000, "epochs": 3, "batch_size": 64, "learning_rate": 0.05, "seed": 0}


class Block(nn.Module):
    """Two convolutions that add to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, inputs: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(inputs)))
        return F.relu(self.bn2(self.conv2(inner)) + inputs)


def network() -> nn.Module:
    """A residual CNN of 288 filters, for grey images."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        Block(32),
        nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        Block(64),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def images(split: str, limit: int) -> tuple[Tensor, Tensor]:
    """Grey images, normalised, and their labels."""
    data = load_dataset("fashion-mnist", split=split, limit=limit)
    pixels = torch.stack([data[place][0][:1] for place in range(len(data))])
    return (pixels - 0.286) / 0.353, data.labels


def _train(folder: Path) -> dict[str, float]:
    """Trains the network, and writes it into a folder; returns its accuracy."""
    torch.manual_seed(int(RECIPE["seed"]))
    model, (pixels, labels) = network().train(), images("train", int(RECIPE["images"]))
    epochs, size = int(RECIPE["epochs"]), int(RECIPE["batch_size"])
    steps = epochs * math.ceil(len(pixels) / size)
    optimizer = torch.optim.SGD(
        model.parameters(), RECIPE["learning_rate"], momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RECIPE["learning_rate"], total_steps=steps
    )
    for _ in range(epochs):
        for chosen in torch.randperm(len(pixels)).split(size):
            optimizer.zero_grad()
            F.cross_entropy(model(pixels[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    save_file(model.state_dict(), folder / "model.safetensors")
    return {"accuracy": accuracy(model.eval())}


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Share of 2,000 test images that the model gets right."""
    pixels, labels = images("test", 2000)
    return float((model(pixels).argmax(1) == labels).float().mean())


class Margins(BatchSubject):
    """Margins of images."""

    def __init__(self, model: nn.Module, examples: int, batch_size: int = 128) -> None:
        super().__init__(model, find_components(model, "conv_filters"), examples, batch_size)
        self.images, self.labels = images("test", examples)

    def _rows(self, places: Sequence[int]) -> tuple[Any, None]:
        return (self.images[list(places)], self.labels[list(places)]), None

    def _forward(self, inputs: Any) -> Tensor:
        return margin(self.model(inputs[0]), inputs[1])


def trained_network() -> nn.Module:
    """The network, which is trained once and kept in the user's cache."""
    model = network()
    folder = make_once("attribution-benchmark", RECIPE, _train)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()
