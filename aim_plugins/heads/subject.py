"""Questions of multiple choice as what components of a causal model are attributed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.attribution.outputs import choice_margin
from aim_plugins.attribution.subject import BatchSubject
from aim_plugins.heads.settings import QuestionOutput
from aim_plugins.modulation.components import Components
from aim_plugins.task_questions.questions import Question, QuestionBatch


def right_log_likelihood(
    log_likelihoods: Float[Tensor, "questions choices"], right: Int[Tensor, " questions"]
) -> Float[Tensor, " questions"]:
    """The log-likelihood of the right choice by itself, in nats."""
    return log_likelihoods.gather(1, right[:, None])[:, 0]


OUTPUTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "choice_margin": choice_margin,
    "log_likelihood": right_log_likelihood,
}
"""Outputs that follow from log-likelihoods of a question's choices and the right one's place."""


class QuestionSubject(BatchSubject):
    """Questions, and what a model thinks of their right choices.

    Args:
        model: The model, in eval mode.
        components: Its components.
        questions: The questions.
        output: What is attributed.
        batch_size: Questions in a pass, each under a mask of its own.
    """

    def __init__(
        self,
        model: Any,
        components: Components,
        questions: Sequence[Question],
        output: QuestionOutput = "choice_margin",
        batch_size: int = 64,
    ) -> None:
        super().__init__(model, components, len(questions), batch_size, output=output)
        # Of other outputs the wrong choices are no part: the model need not read them.
        alone = output != "choice_margin"
        self.questions = [one.answer for one in questions] if alone else list(questions)

    def _rows(self, places: Sequence[int]) -> tuple[Any, Int[Tensor, " rows"]]:
        batch = QuestionBatch.of([self.questions[one] for one in places], self.device)
        right = torch.tensor([self.questions[one].right for one in places], device=self.device)
        return (batch, right), batch.owners

    def _forward(self, inputs: Any) -> Float[Tensor, " examples"]:
        batch, right = inputs
        if self.output == "mean_token_margin":
            return batch.mean_token_margins(self.model)
        return OUTPUTS[self.output](batch.log_likelihoods(self.model), right)


def by_length(questions: Sequence[Question]) -> list[Question]:
    """Questions with those of like length side by side, so that batches hold little padding."""
    return sorted(questions, key=lambda one: (max(map(len, one.ids)), one.name))
