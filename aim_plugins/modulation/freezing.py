"""A model whose parameters ask for no gradients for a while."""

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
