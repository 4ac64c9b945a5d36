"""How much a problem's answers depend on each channel of a classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from aim_plugins.modulation.channels import ChannelGroup
from aim_plugins.modulation.gates import example_gates
from vision_bench.reengineering.learn import Batches


def channel_importance(
    module: nn.Module, named: nn.Module, groups: Sequence[ChannelGroup], batches: Batches
) -> Float[Tensor, " gates"]:
    """The Taylor importance of every channel, of all groups together.

    Args:
        module: The classifier with a head for the problem, in eval mode.
        named: The part of it that has the layers of the groups.
        groups: Its channels.
        batches: Images of the problem, and their labels.

    Returns:
        Means over images of squared derivatives of the cross-entropy by gates, in nats².
    """
    found, count = torch.zeros(sum(group.size for group in groups)), 0
    for images, labels in batches:
        with example_gates(named, groups, len(images)) as gates:
            loss = F.cross_entropy(module(images), labels, reduction="sum")
            slopes = torch.autograd.grad(loss, gates)
        found += torch.cat(slopes, 1).square().sum(0).cpu()
        count += len(images)
    return found / max(count, 1)
