"""A model's answers while some of its components are ablated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from aim_plugins.core.identity import seed_of
from aim_plugins.modulation.ablation import multiplied
from aim_plugins.modulation.components import Components
from aim_plugins.task_questions.answers import Answers
from aim_plugins.task_questions.questions import Question, score_choices

Kept = Callable[[str, Callable[[], Any]], Any]
"""Finds the record of a key, or computes and writes it."""


@dataclass(frozen=True)
class AblatedModel:
    """A model without some of its components.

    Attributes:
        model: The model, in eval mode.
        components: Its components.
        batch_size: Questions in a pass.
        kept: Keeps answers.
    """

    model: Any
    components: Components
    batch_size: int
    kept: Kept

    def answers(self, part: str, questions: Sequence[Question], ablated: Sequence[int]) -> Answers:
        """Answers to questions.

        Args:
            part: Which questions these are, for the record.
            questions: The questions.
            ablated: Numbers of components; none is the whole model.
        """
        key = f"{part} without {','.join(map(str, ablated))}"
        held = self.kept(key, lambda: asdict(self._compute(questions, ablated)))
        return Answers(**held)

    def _compute(self, questions: Sequence[Question], ablated: Sequence[int]) -> Answers:
        factors = torch.ones(1, len(self.components), device=self.model.device)
        factors[0, torch.tensor(ablated, dtype=torch.long)] = 0
        with multiplied(self.model, self.components, factors):
            scores = score_choices(self.model, questions, self.batch_size)
        return Answers(scores, [one.right for one in questions])

    def drawn(self, size: int, seed: int, draw: int) -> list[int]:
        """So many components at random, another draw for each number."""
        generator = torch.Generator().manual_seed(seed_of(seed, "random edit", draw))
        return sorted(torch.randperm(len(self.components), generator=generator)[:size].tolist())
