"""A classifier's output layer: replaced for other classes, or left out."""

from __future__ import annotations

import copy

import torch
from torch import nn

from aim_plugins.modulation.masks import maskable_parameters, owner_of


def replace_output_layer(model: nn.Module, name: str, classes: int, seed: int) -> nn.Module:
    """A copy of a model with a new output layer, drawn at random.

    Args:
        model: The classifier.
        name: Its output layer.
        classes: Number of outputs of the new one.
        seed: Seed of its weights, which are drawn as PyTorch's layer draws them.
    """
    copied = copy.deepcopy(model)
    old = copied.get_submodule(name)
    assert isinstance(old, nn.Linear)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = nn.Linear(old.in_features, classes).to(old.weight)
    owner, kind = owner_of(copied, name)
    setattr(owner, kind, new)
    return copied


def feature_extractor(model: nn.Module, name: str) -> nn.Module:
    """A copy of a model without its output layer: it gives what that one takes in."""
    copied = copy.deepcopy(model)
    owner, kind = owner_of(copied, name)
    setattr(owner, kind, nn.Identity())
    return copied.eval()


def hidden_parameters(model: nn.Module, name: str) -> list[str]:
    """Weights and biases of convolutions and linear layers but for the output layer.

    It gets no mask, as in the authors' ResNet: its weights are new.
    """
    return [one for one in maskable_parameters(model) if not one.startswith(f"{name}.")]
