"""Which tasks of the harness have an exact law, and the clean logits of their choices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from aim_plugins.engines.engine import ScoreRow
from aim_plugins.modulation.choices import ChoiceDocument

METRIC = "acc"


def choice_documents(
    task: Any, instances: Sequence[Any], rows: dict[int, ScoreRow], column: int
) -> list[ChoiceDocument] | None:
    """Reads the documents of a multiple-choice task.

    Args:
        task: The harness's task.
        instances: Its requests.
        rows: The scoring table's row of each request, by `id` of the request.
        column: The column whose logits are asked for, without what it changes of them.

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
        documents.append(ChoiceDocument([score.clean[column] for score in scores], rewards))
    return documents or None


def _is_mean(aggregation: Callable[[list[float]], float] | None) -> bool:
    return aggregation is not None and aggregation([0.0, 0.0, 0.75]) == 0.25


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
