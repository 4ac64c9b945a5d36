"""Questions of a task under changed models, where the budget is of its accuracy.

Answers are the harness's own zero-shot ones: of a question's choices the one with the largest
log-likelihood, each scored behind the question by the engine that the harness's models run on.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from aim_plugins.engines.engine import ScoreRequest
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.engines.scoring import BrokenModelError
from aim_plugins.modulation.columns import Column
from aim_plugins.steering.calibration.costs import Changed, behind, prefix_tokens
from aim_plugins.steering.inputs import require_harness
from aim_plugins.steering.settings.calibration import CalibrationSettings
from aim_plugins.task_documents import Document, load_documents
from aim_plugins.task_questions.answers import Answers
from aim_plugins.task_questions.questions import Question, check_choices

Hits = tuple[bool, ...]
"""Of each question, whether it is answered rightly."""
_PARTS = 3
"""Parts of the questions: one for sites, one for strengths, one for the report."""


def budget_documents(settings: CalibrationSettings) -> list[Document]:
    """The documents of the task that the budget is of, none twice, in random order.

    There are none where it is of plain text.

    Raises:
        ValueError: If there is no such task, it is none of multiple choice, or a third of its
            documents is too small for the budget.
    """
    if not settings.task:
        return []
    require_harness()
    documents = load_documents([settings.task], settings.include_path)[settings.task]
    check_choices(settings.task, documents)
    distinct = list({one.options: one for one in documents}.values())
    count = min(settings.budget_limit or len(distinct), len(distinct))
    if allowed_loss(count // _PARTS, settings.budget) < 0:
        raise ValueError(
            f"budget_task={settings.budget_task!r}: strengths are found on {count // _PARTS} of "
            f"{count} questions, which cannot tell so small a drop: take "
            f"{_fewest(settings.budget)} or more, or a larger drop"
        )
    return random.Random(f"questions {settings.seed}").sample(distinct, count)


def allowed_loss(count: int, budget: float) -> float:
    """The share of questions that may be lost where the strength is found; below 0 for too few.

    One more question counts as lost: of losses that grow with the strength, the largest strength so
    found then loses at most the budget on others, on average over which questions are taken. The
    budget itself would be overspent by a question.

    Args:
        count: Questions that the strength is found on.
        budget: The accuracy that may be lost.

    Source: Angelopoulos et al., "Conformal Risk Control", ICLR 2024 (arXiv:2208.02814), theorem 1.

    >>> allowed_loss(count=99, budget=0.05) * 99
    4.0
    """
    return ((count + 1) * budget - 1) / count if count else -1.0


def check_room(
    engine: HuggingFaceEngine, questions: Sequence[Question], prompts: Sequence[str]
) -> None:
    """Refuses prompts that leave no room for the questions behind them.

    Raises:
        ValueError: If one has more tokens together with a question than the model's window.
    """
    start, most = engine.tokenizer.bos_token_id, engine.max_length
    for prompt in prompts:
        prefix = prefix_tokens(engine, prompt)
        for question in questions:
            count = max(len(behind(prefix, ids, start)) for ids in question.ids)
            if count > most + 1:
                raise ValueError(
                    f"{question.name} has {count} tokens behind the prompt {prompt[:40]!r}, more "
                    f"than the model's window of {most}: give shorter instructions, or fewer shots"
                )


class TaskQuestions:
    """Questions of a task in three parts.

    Args:
        engine: Runs the model.
        questions: The questions, in random order: parts that are matched, such as by the plain
            model's loss, are not exchangeable, which the bound on what others lose takes for
            granted.
        batch_size: Questions with a choice, in a forward pass.

    Attributes:
        sites: Those that sites are chosen on.
        strengths: Those that the strengths at these sites are found on.
        held_out: Those that report.
    """

    def __init__(
        self, engine: HuggingFaceEngine, questions: Sequence[Question], *, batch_size: int
    ) -> None:
        self._engine, self._batch_size = engine, batch_size
        third = len(questions) // _PARTS
        self.sites, self.strengths = questions[:third], questions[third : 2 * third]
        self.held_out = questions[2 * third :]

    def hits(self, questions: Sequence[Question], changed: Sequence[Changed]) -> list[Hits]:
        """Which questions each changed model answers rightly; one that a change broke none."""
        answers = self._answers(questions, changed)
        return [(False,) * len(questions) if one is None else tuple(one.hits) for one in answers]

    def _answers(
        self, questions: Sequence[Question], changed: Sequence[Changed]
    ) -> list[Answers | None]:
        """Answers of each changed model, from one scoring of all that share a prefix."""
        found: list[Answers | None] = [None] * len(changed)
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, one in enumerate(changed):
            groups.setdefault(one.prefix, []).append(place)
        for prefix, members in groups.items():
            requests = self._requests(questions, prefix)
            scores = self._scores(requests, [changed[place].column for place in members])
            for place, values in zip(members, scores, strict=True):
                found[place] = None if values is None else _answers_of(questions, values)
        return found

    def _requests(
        self, questions: Sequence[Question], prefix: tuple[int, ...]
    ) -> list[ScoreRequest]:
        """Each choice behind its question, which stands behind the prefix."""
        start = self._engine.tokenizer.bos_token_id
        requests = []
        for question in questions:
            for ids, count in zip(question.ids, question.scored, strict=True):
                tokens = behind(prefix, ids, start)
                label = f"a choice of {question.name}"
                requests.append(ScoreRequest(tokens[:-count], tokens[-count:], label))
        return requests

    def _scores(
        self, requests: Sequence[ScoreRequest], columns: Sequence[Column]
    ) -> list[list[float] | None]:
        """Log-likelihoods of all choices under each column; None where it broke the model."""
        try:
            rows = self._engine.score(
                requests, columns, batch_size=self._batch_size, progress=False
            )
        except BrokenModelError:
            if len(columns) == 1:
                return [None]
            return [self._scores(requests, [column])[0] for column in columns]
        by_column = zip(*(row.log_likelihoods for row in rows), strict=True)
        return [list(values) for values in by_column]


def _answers_of(questions: Sequence[Question], values: Sequence[float]) -> Answers:
    """Log-likelihoods of all choices, by question."""
    left = iter(values)
    scores = [[next(left) for _ in question.ids] for question in questions]
    return Answers(scores, [question.right for question in questions])


def _fewest(budget: float) -> int:
    """Questions whose part can spend a budget."""
    return _PARTS * max(1, math.ceil(1 / budget - 1 - 1e-9))
