"""The documents of a study, numbered: of the tasks that are measured, and of the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from aim_plugins.core.errors import first_few
from aim_plugins.task_coverage.settings import TaskCoverageSettings
from aim_plugins.task_coverage.subject import Subject, Tokens
from aim_plugins.task_documents import (
    Document,
    answer_names,
    fingerprint_of,
    load_documents,
)

_MOST_CLASSES = 10
"""Places of right answers that are measured apart, at most."""


class Suite:
    """Documents by their numbers.

    Args:
        tasks: Documents of the tasks that are measured.
        reference: Those of the tasks that a reference is learned from; tasks of the same name are
            the same documents.
        classes: "answer", or "one" where all documents are of one class.

    Attributes:
        documents: All of them.
        tasks: Numbers of the documents of each task that is measured.
        reference_positions: Numbers of those that a reference is learned from.
        classes: The class of each.
        tokens: All of them as the model reads them; filled in by `tokenize`.
    """

    def __init__(
        self,
        tasks: Mapping[str, Sequence[Document]],
        reference: Mapping[str, Sequence[Document]],
        classes: str = "answer",
    ) -> None:
        self.documents: list[Document] = []
        places: dict[str, list[int]] = {}
        for name, documents in {**reference, **tasks}.items():
            start = len(self.documents)
            places[name] = list(range(start, start + len(documents)))
            self.documents += documents
        self.tasks = {name: places[name] for name in tasks}
        self.reference_positions = [one for name in reference for one in places[name]]
        asked = [one.place if classes == "answer" else 0 for one in self.documents]
        self.classes: Int[Tensor, " documents"] = torch.tensor(asked)
        self.tokens: list[Tokens] = []

    @property
    def positions(self) -> list[int]:
        """Numbers of the documents that are measured."""
        return [one for positions in self.tasks.values() for one in positions]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all documents."""
        return fingerprint_of(self.documents)

    def at(self, positions: Sequence[int]) -> list[Document]:
        """Documents by their numbers."""
        return [self.documents[one] for one in positions]

    def tokenize(self, subject: Subject) -> None:
        """Lets the model's tokenizer read them."""
        self.tokens = subject.tokenize(self.documents)

    def reported_classes(self) -> dict[int, str]:
        """Names of the classes that are measured apart; none where there is one, or too many."""
        found = sorted(set(self.classes[self.positions].tolist()))
        if not 1 < len(found) <= _MOST_CLASSES:
            return {}
        documents = [one for one in self.at(self.positions) if one.choices]
        names = answer_names(documents)
        return {one: names[one] for one in found}


def load_suite(settings: TaskCoverageSettings) -> Suite:
    """Reads the documents that settings name, before a model is loaded.

    Raises:
        ValueError: If a task does not exist or stands in another one, or the reference documents
            are of too few classes.
    """
    names = dict.fromkeys([*settings.tasks, *settings.learned_from])
    loaded = load_documents(list(names), settings.include_path, settings.limit)
    for role in (settings.tasks, settings.learned_from):
        leaves = [one for name in role for one in {document.task for document in loaded[name]}]
        if twice := sorted({one for one in leaves if leaves.count(one) > 1}):
            raise ValueError(
                f"tasks: {first_few(twice)} stands in several of {', '.join(role)}: name it once"
            )
    suite = Suite(
        {name: loaded[name] for name in settings.tasks},
        {name: loaded[name] for name in settings.learned_from},
        settings.classes,
    )
    _check_classes(suite, settings)
    return suite


def _check_classes(suite: Suite, settings: TaskCoverageSettings) -> None:
    if settings.reference is not None or "DSC" not in settings.criteria:
        return
    if len(set(suite.classes[suite.reference_positions].tolist())) < 2:
        raise ValueError(
            "criteria: DSC compares classes, and the documents of "
            f"{', '.join(settings.learned_from)} are of one: leave it out of criteria, or name "
            "reference_tasks with several right answers"
        )
