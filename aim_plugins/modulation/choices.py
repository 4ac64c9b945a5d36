"""What multiple choice is worth under a column, exactly, from the clean logits.

Where every choice is one token after the same context, their log-likelihoods share one normalizer,
which cancels: the choice that wins is the argmax of the choices' modulated logits. Its law follows
from the clean logits (`Column.argmax_law`), and so does the expected accuracy, without sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from aim_plugins.modulation.columns import Column


@dataclass(frozen=True)
class ChoiceDocument:
    """A multiple-choice document with K single-token choices.

    Attributes:
        logits: Clean logits of the choices up to a constant, K of them.
        rewards: What the task's metric is when each choice wins.
    """

    logits: Sequence[float]
    rewards: Sequence[float]


def expected_rewards(documents: Sequence[ChoiceDocument], column: Column) -> list[float] | None:
    """The expected metric of each document under a column; None where no law is known."""
    found = [0.0] * len(documents)
    for size in {len(document.logits) for document in documents}:
        members = [i for i, document in enumerate(documents) if len(document.logits) == size]
        logits = torch.tensor([documents[i].logits for i in members], dtype=torch.float64)
        rewards = torch.tensor([documents[i].rewards for i in members], dtype=torch.float64)
        law = column.argmax_law(logits)
        if law is None:
            return None
        values = (law * rewards).sum(dim=1).tolist()
        for index, value in zip(members, values, strict=True):
            found[index] = value
    return found


def chance_level(documents: Sequence[ChoiceDocument]) -> float:
    """The metric of a uniformly random choice, to which every curve falls."""
    return sum(sum(d.rewards) / len(d.rewards) for d in documents) / len(documents)
