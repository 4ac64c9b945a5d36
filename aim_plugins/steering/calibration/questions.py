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
from aim_plugins.steering.calibration.costs import UNCHANGED, Changed, behind
from aim_plugins.steering.calibration.halves import Halves, split_matched
from aim_plugins.steering.inputs import require_harness
from aim_plugins.steering.settings.calibration import CalibrationSettings
from aim_plugins.task_documents import Document, load_documents
from aim_plugins.task_questions.answers import Answers
from aim_plugins.task_questions.questions import Question, check_choices

Hits = tuple[bool, ...]
"""Of each question, whether it is answered rightly."""


def budget_documents(settings: CalibrationSettings) -> list[Document]:
    """The documents of the task that the budget is of, none twice; none where it is of plain text.

    Raises:
        ValueError: If there is no such task, it is none of multiple choice, or a half of its
            documents is too small for the budget.
    """
    if not settings.task:
        return []
    require_harness()
    documents = load_documents([settings.task], settings.include_path)[settings.task]
    check_choices(settings.task, documents)
    distinct = list({one.options: one for one in documents}.values())
    count = min(settings.budget_limit or len(distinct), len(distinct))
    if allowed_loss(count // 2, settings.budget) < 0:
        raise ValueError(
            f"budget_task={settings.budget_task!r}: strengths are found on {count // 2} of {count} "
            f"questions, which cannot tell so small a drop: take {_fewest(settings.budget)} or "
            "more, or a larger drop"
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


class TaskQuestions:
    """Questions of a task in two halves that the plain model finds equally hard.

    Args:
        engine: Runs the model.
        questions: The questions.
        batch_size: Questions with a choice, in a forward pass.
        seed: Seed of the deal.

    Attributes:
        halves: Those that strengths are found on, and those that report.
    """

    def __init__(
        self,
        engine: HuggingFaceEngine,
        questions: Sequence[Question],
        *,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        self._engine, self._batch_size = engine, batch_size
        [plain] = self._answers(questions, [UNCHANGED])
        assert plain is not None  # nothing is changed that could break it
        self.halves: Halves[Question] = split_matched(questions, plain.losses, seed)

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
        start, most = self._engine.tokenizer.bos_token_id, self._engine.max_length
        requests = []
        for question in questions:
            for ids, count in zip(question.ids, question.scored, strict=True):
                tokens = behind(prefix, ids, start)
                if prefix and len(tokens) > most + 1:
                    raise ValueError(
                        f"{question.name} has {len(tokens)} tokens with the prompt before it, more "
                        f"than the model's window of {most}: shorten the prompt"
                    )
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
    """Questions whose half can spend a budget."""
    return 2 * max(1, math.ceil(1 / budget - 1 - 1e-9))
