"""Questions of multiple choice as a causal model reads them, and what it thinks of the choices.

Tokens are split as the harness splits them: spaces at the end of a text belong to what follows on
it, and what follows is what the tokens of both together have beyond those of the text.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from aim_plugins.attribution.outputs import mean_token_margin
from aim_plugins.task_documents import Document, load_documents
from aim_plugins.task_questions.settings import QuestionSettings


@dataclass(frozen=True)
class Question:
    """A document with several choices.

    Attributes:
        name: Names it in tables.
        ids: For each choice, the tokens of its text and itself.
        scored: How many of the last of them are the choice's.
        right: The place of the right one.
    """

    name: str
    ids: tuple[tuple[int, ...], ...]
    scored: tuple[int, ...]
    right: int

    @property
    def answer(self) -> Question:
        """The right choice alone."""
        ids, scored = self.ids[self.right], self.scored[self.right]
        return Question(self.name, (ids,), (scored,), 0)


def load_choices(settings: QuestionSettings) -> dict[str, list[Document]]:
    """Documents of the task, and of all others that settings name, by task.

    Raises:
        ValueError: If a task is unknown, or is none of multiple choice.
    """
    found = load_documents([settings.task], settings.include_path, settings.limit)
    if settings.others:
        found |= load_documents(settings.others, settings.include_path, settings.also_limit)
    for name, documents in found.items():
        check_choices(name, documents)
    return found


def check_choices(task: str, documents: Sequence[Document]) -> None:
    """Refuses documents that are no questions of multiple choice.

    Args:
        task: What was asked for.
        documents: Its documents.

    Raises:
        ValueError: If a document has no choices, such as those of tasks that generate, or nobody
            knows the right one.
    """
    if without := [one.name for one in documents if len(one.options) < 2]:
        raise ValueError(
            f"tasks: {task} has documents without choices, such as {without[0]}: name a task of "
            "multiple choice (output_type multiple_choice)"
        )
    if secret := [one.name for one in documents if not one.answer]:
        raise ValueError(
            f"tasks: nobody knows the right answer of {secret[0]}: name a task whose answers are "
            "public"
        )


def read_questions(
    documents: Sequence[Document], tokenizer: Any, max_length: int
) -> list[Question]:
    """Documents with choices as questions.

    Args:
        documents: The documents, which `check_choices` has let pass.
        tokenizer: The model's tokenizer.
        max_length: Longest input in tokens; of longer ones the end is kept, as in the harness.

    Raises:
        ValueError: If a choice has no tokens of its own, or more than `max_length`.
    """
    return [_question(one, tokenizer, max_length) for one in documents]


def _question(document: Document, tokenizer: Any, max_length: int) -> Question:
    ids, scored = [], []
    for context, choice in document.options:
        text = context.rstrip()
        before = tokenizer(text)["input_ids"] if text else []
        whole = tokenizer(context + choice)["input_ids"]
        if not before:
            start = tokenizer.bos_token_id
            before = [tokenizer.eos_token_id if start is None else start]
            whole = before + [one for one in whole if one != start]
        ids.append(tuple(whole[-(max_length + 1) :]))
        scored.append(len(whole) - len(before))
    if min(scored) < 1:
        raise ValueError(
            f"tasks: a choice of {document.name} has no tokens of its own: leave it out"
        )
    if max(scored) > max_length:
        raise ValueError(
            f"max_length={max_length}: a choice of {document.name} has {max(scored)} tokens, which "
            "must all be predicted: give more, or a task of shorter choices"
        )
    return Question(document.name, tuple(ids), tuple(scored), document.place)


@dataclass(frozen=True)
class QuestionBatch:
    """Questions as inputs of a model. A choice whose tokens begin those of another shares its row.

    So do choices that differ in their last token alone, which is no input.

    Attributes:
        inputs: Token ids, padded on the right, which a causal model needs no mask for.
        owners: The question that each row belongs to.
        rows: Of each scored token, the row.
        positions: The position that predicts it.
        tokens: The token.
        choices: The choice that it belongs to, counted over all questions of the batch.
        counts: How many choices each question has.
    """

    inputs: Int[Tensor, "rows tokens"]
    owners: Int[Tensor, " rows"]
    rows: Int[Tensor, " scored"]
    positions: Int[Tensor, " scored"]
    tokens: Int[Tensor, " scored"]
    choices: Int[Tensor, " scored"]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, questions: Sequence[Question], device: torch.device) -> QuestionBatch:
        """Lays out questions."""
        rows: dict[tuple[int, tuple[int, ...]], int] = {}
        scored: list[tuple[int, int, int, int]] = []
        choice = 0
        for place, question in enumerate(questions):
            longest = _longest([ids[:-1] for ids in question.ids])
            for ids, count in zip(question.ids, question.scored, strict=True):
                row = rows.setdefault((place, longest[ids[:-1]]), len(rows))
                for position in range(len(ids) - 1 - count, len(ids) - 1):
                    scored.append((row, position, ids[position + 1], choice))
                choice += 1
        inputs = [torch.tensor(ids) for _, ids in rows]
        targets = torch.tensor(scored, device=device).unbind(1)
        return cls(
            torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True).to(device),
            torch.tensor([place for place, _ in rows], device=device),
            targets[0],
            targets[1],
            targets[2],
            targets[3],
            tuple(len(one.ids) for one in questions),
        )

    def log_likelihoods(self, model: Any) -> Float[Tensor, "questions choices"]:
        """Log-likelihoods of the choices, in nats; -inf behind the last of a question.

        Raises:
            ValueError: If the model returns NaN.
        """
        logits = self._scored_logits(model).float()
        values = _numbers(F.log_softmax(logits, dim=-1).gather(1, self.tokens[:, None])[:, 0])
        sums = values.new_zeros(sum(self.counts)).index_add(0, self.choices, values)
        parts: Sequence[Tensor] = sums.split(self.counts)
        return torch.nn.utils.rnn.pad_sequence(
            list(parts), batch_first=True, padding_value=-float("inf")
        )

    def mean_token_margins(self, model: Any) -> Float[Tensor, " choices"]:
        """Mean margins of the tokens of every choice, of one question after the other, in nats.

        Raises:
            ValueError: If the model returns NaN.
        """
        return _numbers(mean_token_margin(self._scored_logits(model), self.tokens, self.choices))

    def _scored_logits(self, model: Any) -> Float[Tensor, "scored vocabulary"]:
        """Logits that predict the scored tokens."""
        if "logits_to_keep" not in inspect.signature(model.forward).parameters:
            return model(self.inputs, use_cache=False).logits[self.rows, self.positions]
        # The head is a fifth of a small model: it runs at no more positions than are asked for.
        kept, places = self.positions.unique(return_inverse=True)
        logits = model(self.inputs, use_cache=False, logits_to_keep=kept).logits
        return logits[self.rows, places]


def _numbers(values: Tensor) -> Tensor:
    """Values as they are.

    Raises:
        ValueError: If the model that they are of returns NaN.
    """
    if bool(values.isnan().any()):
        raise ValueError("model: it returns NaN: try --dtype float32")
    return values


def _longest(inputs: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Of each input, the longest one that begins with it.

    >>> _longest([(1, 2), (1, 2, 3), (1, 4)])[1, 2]
    (1, 2, 3)
    """
    falling = sorted(set(inputs), key=len, reverse=True)
    return {one: next(other for other in falling if other[: len(one)] == one) for one in falling}


def question_batches(
    questions: Sequence[Question], batch_size: int, device: torch.device
) -> Iterator[tuple[list[int], QuestionBatch]]:
    """Questions of like length together: their places, and the batch."""
    order = sorted(range(len(questions)), key=lambda one: max(map(len, questions[one].ids)))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        yield places, QuestionBatch.of([questions[one] for one in places], device)


@torch.inference_mode()
def score_choices(model: Any, questions: Sequence[Question], batch_size: int) -> list[list[float]]:
    """Log-likelihoods of every question's choices, in nats.

    Args:
        model: The model, in eval mode.
        questions: The questions.
        batch_size: Questions in a pass.
    """
    found: list[list[float]] = [[]] * len(questions)
    for places, batch in question_batches(questions, batch_size, model.device):
        values = batch.log_likelihoods(model).tolist()
        for place, row, count in zip(places, values, batch.counts, strict=True):
            found[place] = row[:count]
    return found
