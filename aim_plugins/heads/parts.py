"""The questions of a study: in three parts those of the task and of its references, and others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aim_plugins.heads.settings import TaskAttributionSettings
from aim_plugins.heads.subject import by_length
from aim_plugins.task_documents import Document, fingerprint_of
from aim_plugins.task_questions.questions import Question, read_questions
from aim_plugins.task_questions.split import split_documents


@dataclass(frozen=True)
class Parts:
    """Questions of a task, in three parts.

    Attributes:
        learning: What attributions are learned from.
        validation: What an edit's size is chosen on.
        test: What results are of.
    """

    learning: Sequence[Question]
    validation: Sequence[Question]
    test: Sequence[Question]


@dataclass(frozen=True)
class StudyQuestions:
    """All questions of a study.

    Attributes:
        own: Those of the task.
        references: Those of tasks that the edit is to leave.
        others: Those of tasks that it is measured on.
        learned_from: SHA-256 of the documents that attributions are learned from.
    """

    own: Parts
    references: Mapping[str, Parts]
    others: Mapping[str, Sequence[Question]]
    learned_from: str

    @property
    def learning(self) -> list[Question]:
        """What attributions are learned from: questions of the task, then those of references."""
        return [*self.own.learning, *self.of_references("learning")]

    def of_references(self, part: str) -> list[Question]:
        """Questions of all references in a part."""
        return [question for one in self.references.values() for question in getattr(one, part)]


def read_study_questions(
    settings: TaskAttributionSettings,
    documents: Mapping[str, Sequence[Document]],
    tokenizer: Any,
    max_length: int,
) -> StudyQuestions:
    """Documents as questions, in their parts.

    Args:
        settings: Which task is what, and how documents are split.
        documents: By task.
        tokenizer: The model's tokenizer.
        max_length: Longest input in tokens.

    Raises:
        ValueError: If a part is too small, or a question too long.
    """
    parts, learned = {}, []
    for name in (settings.task, *settings.references):
        split = split_documents(documents[name], settings.split, settings.seed)
        questions = read_questions(documents[name], tokenizer, max_length)
        parts[name] = Parts(
            *(
                by_length([questions[place] for place in part])
                for part in (split.learning, split.validation, split.test)
            )
        )
        learned += [documents[name][place] for place in split.learning]
    own = parts.pop(settings.task)
    others = {
        name: read_questions(documents[name], tokenizer, max_length) for name in settings.also
    }
    return StudyQuestions(own, parts, others, fingerprint_of(learned))
