"""Documents of lm-eval tasks as texts: what the harness asks, and the right answer behind it.

The harness's own prompt without examples, its delimiter, and the gold target make a text. It is
what a model reads while it scores the right answer, so one pass over it sees all that the document
exercises. Of several right answers the first counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aim_plugins.core.errors import first_few
from aim_plugins.core.identity import fingerprint


@dataclass(frozen=True)
class Document:
    """One document of a task.

    Attributes:
        task: The task.
        number: Its place in the task, counted from 0.
        context: What the model is asked.
        answer: The right answer, with the delimiter before it; empty where nobody knows it.
        place: The place of the right answer among the choices; 0 where there are none.
        choices: The choices, if there are any.
        options: For each choice, what the harness scores it by: a text, and what follows on it.
    """

    task: str
    number: int
    context: str
    answer: str
    place: int = 0
    choices: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """What the model reads."""
        return self.context + self.answer

    @property
    def name(self) -> str:
        """Names it in tables."""
        return f"{self.task}#{self.number}"


def load_documents(
    tasks: Sequence[str], include_path: str | None = None, limit: float | None = None
) -> dict[str, list[Document]]:
    """Reads the documents of tasks; a group counts as one task, with the documents of all of its.

    Args:
        tasks: Names of tasks, groups or tags.
        include_path: Folder of tasks of one's own.
        limit: The first so many documents of each task; below 1 a share of them.

    Returns:
        Documents by the names that were asked for.

    Raises:
        ValueError: If there is no such task, or one has no documents or other inputs than texts.
    """
    manager = _manager(tasks, include_path)
    found: dict[str, list[Document]] = {}
    for asked in tasks:
        members: Mapping[str, Any] = manager.load([asked])["tasks"]
        found[asked] = [
            document for name, task in members.items() for document in _documents(name, task, limit)
        ]
    return found


def _manager(tasks: Sequence[str], include_path: str | None) -> Any:
    """The harness's index of tasks: of one's own alone, if they are all there."""
    from lm_eval.tasks import TaskManager

    if include_path is not None:
        # The harness's own are thousands of files, which take ten seconds to look through.
        own = TaskManager(include_path=include_path, include_defaults=False)
        if set(tasks) <= set(own.all_tasks):
            return own
    manager = TaskManager(include_path=include_path)
    if unknown := [name for name in tasks if name not in manager.all_tasks]:
        raise ValueError(
            f"tasks: {first_few(unknown)} is none of the harness's: `lm-eval ls tasks` lists them; "
            "name the folder of your own with include_path (--include-path)"
        )
    return manager


def _documents(name: str, task: Any, limit: float | None) -> list[Document]:
    rows = list(task.eval_docs)
    if limit is not None:
        rows = rows[: math.ceil(limit * len(rows)) if limit < 1 else int(limit)]
    if not rows:
        raise ValueError(f"tasks: {name} has no documents: leave it out")
    if getattr(task.config, "doc_to_image", None) or getattr(task.config, "doc_to_audio", None):
        raise ValueError(f"tasks: {name} shows images or sounds: name a task of texts alone")
    found = [_document(name, task, number, row) for number, row in enumerate(rows)]
    if empty := [one.name for one in found if not one.text.strip()]:
        raise ValueError(f"tasks: {first_few(empty)} has no text: leave the task out")
    return found


def _document(name: str, task: Any, number: int, row: Any) -> Document:
    kind = task.OUTPUT_TYPE
    if kind == "loglikelihood_rolling":
        return Document(name, number, "", str(task.doc_to_target(row)))
    prefix = task.doc_to_prefix(row) or None
    context = task.fewshot_context(row, 0, gen_prefix=prefix)
    delimiter = getattr(task.config, "target_delimiter", "")
    choices = tuple(map(str, task.doc_to_choice(row))) if kind == "multiple_choice" else ()
    target = task.doc_to_target(row)
    if isinstance(context, list):  # the choices stand in the context, and one text follows each
        place, answer = int(task.doc_to_text(row)), f"{delimiter}{target}"
        options = tuple((one, answer) for one in context)
        return Document(name, number, context[place], answer, place, choices, options)
    if choices:
        right = _place(target, choices)
        options = tuple((context, f"{delimiter}{choice}") for choice in choices)
        answer = "" if right is None else options[right][1]
        return Document(name, number, context, answer, right or 0, choices, options)
    if isinstance(target, list | tuple):
        target = target[0] if target else ""
    return Document(name, number, context, f"{delimiter}{target}" if target != "" else "")


def _place(target: Any, choices: Sequence[str]) -> int | None:
    """The place of the right answer; None where a test set keeps it secret."""
    if isinstance(target, list | tuple):
        target = target[0] if target else -1
    if isinstance(target, str) and target in choices:
        return choices.index(target)
    place = int(target) if str(target).lstrip("-").isdigit() else -1
    return place if 0 <= place < len(choices) else None


def answer_names(documents: Sequence[Document]) -> list[str]:
    """What places of right answers are called: the choices where all documents share them."""
    count = max((len(one.choices) for one in documents), default=0)
    shared = {one.choices for one in documents}
    if len(shared) == 1 and count:
        return list(next(iter(shared)))
    return [f"answer {place + 1}" for place in range(max(1, count))]


def fingerprint_of(documents: Sequence[Document]) -> str:
    """SHA-256 of documents."""
    return fingerprint([asdict(one) for one in documents])
