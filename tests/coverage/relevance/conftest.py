"""Small classifiers whose relevance can be worked out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aim_plugins.coverage.activations import neuron_layers


class ReluNet(nn.Module):
    """Convolutions and linear layers with ReLUs, the first in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True)
        self.pool, self.conv2, self.relu2 = nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.ReLU()
        self.fc1, self.relu3, self.fc2 = nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 4)

    def forward(self, x):
        x = self.pool(self.relu1(self.conv1(x)))
        return self.fc2(self.relu3(self.fc1(self.relu2(self.conv2(x)).flatten(1))))


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = ReluNet().eval()
        with torch.no_grad():
            # Else one class would win everywhere.
            net.fc2.bias -= net(torch.randn(200, 1, 10, 10)).mean(0)
        return net


@pytest.fixture
def images():
    return torch.randn(24, 1, 10, 10, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels(net, images):
    """What the model predicts, but for every third image."""
    with torch.no_grad():
        predicted = net(images).argmax(1)
    predicted[::3] = (predicted[::3] + 1) % 4
    return predicted


@pytest.fixture
def layers(net, images):
    return neuron_layers(net, lambda: net(images[:2]))
