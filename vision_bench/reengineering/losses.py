"""Losses that training may go on with."""

from __future__ import annotations

import torch
from torch import Tensor


def finite(loss: Tensor, optimiser: torch.optim.Optimizer, title: str) -> Tensor:
    """A loss, unless it is not finite.

    Args:
        loss: The loss.
        optimiser: What moves the weights; the error names its rates.
        title: Of the stage.

    Raises:
        ValueError: If it is not.
    """
    if not loss.isfinite():
        rates = " or ".join(
            f"{group.get('setting', 'lr')}={group.get('max_lr', group['lr']):g}"
            for group in optimiser.param_groups
        )
        raise ValueError(f"{title or 'training'}: the loss is {loss.item()}; lower {rates}")
    return loss
