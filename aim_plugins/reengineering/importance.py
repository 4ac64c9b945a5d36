"""How much a task's answers depend on each channel: the Taylor importance of its gate.

A gate is a factor of 1 on a channel, and the derivative of a question's loss by it is what closing
it would change, to first order. The mean of its square over questions ranks the channels of a
layer; the loss is the cross-entropy of the right choice among all, by their log-likelihoods.

Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, section 3.1
(equation 8, gates); Michel et al., "Are Sixteen Heads Really Better than One?", NeurIPS 2019,
section 4.1, for heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from aim_plugins.modulation.channels import ChannelGroup
from aim_plugins.modulation.gates import example_gates
from aim_plugins.task_questions.questions import Question, question_batches


def taylor_importance(
    model: Any,
    groups: Sequence[ChannelGroup],
    questions: Sequence[Question],
    batch_size: int,
    seen: Callable[[int], object] = lambda count: None,
) -> dict[str, Float[Tensor, " channels"]]:
    """The importance of every channel, by the name of its group.

    Args:
        model: The model, in eval mode.
        groups: Its channels, each group read by one layer.
        questions: What to learn from.
        batch_size: Questions in a pass.
        seen: Told of the questions of each pass.

    Returns:
        Means over questions of squared derivatives, in nats².
    """
    found = {group.name: torch.zeros(group.size) for group in groups}
    for places, batch in question_batches(questions, batch_size, model.device):
        with example_gates(model, groups, len(batch.counts), batch.owners) as gates:
            scores = batch.log_likelihoods(model)
            right = torch.tensor([questions[place].right for place in places], device=scores.device)
            # Of a sum, each question's own gates have the derivative of its own loss.
            loss = F.cross_entropy(scores, right, reduction="sum")
            slopes = torch.autograd.grad(loss, gates)
        for group, slope in zip(groups, slopes, strict=True):
            found[group.name] += slope.square().sum(0).cpu() / len(questions)
        seen(len(places))
    return found


def keep_most_important(
    importance: Mapping[str, Float[Tensor, " channels"]], counts: Mapping[str, int]
) -> dict[str, Bool[Tensor, " channels"]]:
    """Of each group, its most important channels; of equals the first.

    Args:
        importance: Of each channel, by group.
        counts: How many of each group are kept.
    """
    kept = {}
    for name, values in importance.items():
        ranked = values.argsort(descending=True, stable=True)
        kept[name] = torch.zeros(len(values), dtype=torch.bool)
        kept[name][ranked[: counts[name]]] = True
    return kept
