"""A model that asks for no gradients, or is in eval mode, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Asks for no gradients of parameters while the block runs; then each asks as it did before."""
    asked = {one: one.requires_grad for one in model.parameters()}
    try:
        for one in asked:
            one.requires_grad_(False)
        yield
    finally:
        for one, flag in asked.items():
            one.requires_grad_(flag)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode while the block runs; then each module is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
