"""A classifier's output layer, found by running the model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


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
