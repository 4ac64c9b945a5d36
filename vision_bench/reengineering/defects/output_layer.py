"""A classifier's output layer: found by running the model, replaced for other classes, left out."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aim_plugins.modulation.masks import maskable_parameters, owner_of


def find_output_layer(model: nn.Module, images: Float[Tensor, "n channels h w"]) -> str:
    """The name of the linear layer whose outputs are the model's.

    Args:
        model: A classifier in eval mode.
        images: Some of its inputs.

    Raises:
        ValueError: If no linear layer makes the outputs.
    """
    made: dict[str, Tensor] = {}
    linear = {name: one for name, one in model.named_modules() if isinstance(one, nn.Linear)}
    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: made.update({name: output}))
        for name, layer in linear.items()
    ]
    try:
        with torch.no_grad():
            logits = model(images)
    finally:
        for one in hooks:
            one.remove()
    for name, output in made.items():
        if output.shape == logits.shape and torch.equal(output, logits):
            return name
    raise ValueError(
        f"model={type(model).__name__} has no linear layer that makes its outputs, which could be "
        "replaced for other classes: give a model that ends in one, such as a ResNet"
    )


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
