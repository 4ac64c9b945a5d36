"""Expected accuracy of multiple choice under noise, exactly, from the clean logits.

Where every choice is one token after the same context, their log-likelihoods share one normalizer,
which cancels: the choice that wins is the argmax of the choices' noisy logits. Its law is known in
closed form up to one integral (`aim_plugins.modulation.ordering`), so the accuracy expected at
every strength follows from the unmodulated model, without sampling.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aim_plugins.engines.engine import ScoreRow
from aim_plugins.modulation.ordering import argmax_probabilities
from aim_plugins.sweep.table import Row

METRIC = "acc"


@dataclass(frozen=True)
class ChoiceDocument:
    """A multiple-choice document with K single-token choices.

    Attributes:
        logits: Clean logits of the choices up to a constant, K of them.
        rewards: What the task's accuracy is when each choice wins.
    """

    logits: Sequence[float]
    rewards: Sequence[float]


def choice_documents(
    task: Any, instances: Sequence[Any], rows: dict[int, ScoreRow]
) -> list[ChoiceDocument] | None:
    """Reads the documents of a multiple-choice task.

    Args:
        task: The harness's task.
        instances: Its requests.
        rows: The scoring table's row of each request, by `id` of the request.

    Returns:
        One entry for each document, or None if the law does not apply: another kind of task,
        an accuracy that is no mean over documents, choices of several tokens or of different
        contexts, or extra requests.
    """
    if task.OUTPUT_TYPE != "multiple_choice" or not _is_mean(task.aggregation().get(METRIC)):
        return None
    by_document: dict[int, list[Any]] = defaultdict(list)
    for instance in instances:
        by_document[instance.doc_id].append(instance)
    documents = []
    for members in by_document.values():
        members.sort(key=lambda instance: instance.idx)
        scores = [rows[id(instance)] for instance in members]
        tokens = {tuple(score.tokens) for score in scores}
        if (
            len(members) < 2
            or len(tokens) != len(members)
            or any(len(token) != 1 for token in tokens)
            or len({score.context_key for score in scores}) != 1
            or (rewards := _rewards(task, members[0].doc, len(members))) is None
        ):
            return None
        documents.append(ChoiceDocument([score.clean for score in scores], rewards))
    return documents or None


def expected_accuracy_rows(
    task: str, documents: Sequence[ChoiceDocument], stds: Sequence[float]
) -> list[Row]:
    """The exact expected accuracy at every strength, with its standard error over documents."""
    by_size: dict[int, list[ChoiceDocument]] = defaultdict(list)
    for document in documents:
        by_size[len(document.logits)].append(document)
    rows = []
    for std in stds:
        values = torch.cat([_expected(group, std) for group in by_size.values()])
        count = len(values)
        stderr = float(values.std() / count**0.5) if count > 1 else None
        rows.append(Row(task, f"{METRIC}_expected", std, None, float(values.mean()), stderr, count))
    return rows


def chance_level(documents: Sequence[ChoiceDocument]) -> float:
    """The accuracy of a uniformly random choice, to which every curve falls."""
    return sum(sum(d.rewards) / len(d.rewards) for d in documents) / len(documents)


def _is_mean(aggregation: Callable[[list[float]], float] | None) -> bool:
    return aggregation is not None and aggregation([0.0, 0.0, 0.75]) == 0.25


def _expected(group: Sequence[ChoiceDocument], std: float) -> Tensor:
    logits = torch.tensor([document.logits for document in group], dtype=torch.float64)
    rewards = torch.tensor([document.rewards for document in group], dtype=torch.float64)
    return (argmax_probabilities(logits, std) * rewards).sum(dim=1)


def _rewards(task: Any, document: dict[str, Any], choices: int) -> list[float] | None:
    """Asks the task itself for its accuracy when each choice wins, whatever its rules are."""
    rewards = []
    for winner in range(choices):
        results = [(0.0 if choice == winner else -1.0, False) for choice in range(choices)]
        metrics = task.process_results(document, results)
        if METRIC not in metrics:
            return None
        rewards.append(float(metrics[METRIC]))
    return rewards
