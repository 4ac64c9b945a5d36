"""Settings of commands that measure a causal model on lm-eval's tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from aim_plugins.core.files import existing_folder, safe_name
from aim_plugins.core.settings import Count, Names, Positive, Settings, Shares, option


@dataclass(frozen=True, kw_only=True)
class TaskSettings(Settings):
    """A causal model, and tasks of lm-eval.

    Attributes:
        model: A causal model: a name on the hub, a local folder, or "demo:smollm2".
        tasks: Tasks, separated by commas.
        output: Folder of results; by default runs/COMMAND/MODEL_TASKS.
        include_path: Folder of tasks of your own.
        limit: Documents of each task, the first ones; by default all.
        dtype: Type of the weights; others than float32 round activations, and make them depend on
            the batch.
        device: Where the model runs; by default an accelerator if there is one.
        trust_remote_code: Whether code that comes with the model may run.
        max_length: Longest document in tokens, of which the end is kept; by default the model's
            window.
        seed: Seed of what is drawn.
    """

    runs: ClassVar[str]
    """Folder of results of this command, within runs."""
    limits: ClassVar[tuple[str, ...]] = ("limit",)
    """Settings that are numbers of documents, or shares of them."""

    model: str = option(metavar="MODEL")
    tasks: Names = option(metavar="NAMES")
    output: str | None = option(None, short="-o", metavar="DIR")
    include_path: str | None = option(None, metavar="FOLDER")
    limit: Positive | None = None
    dtype: str = "float32"
    device: str | None = None
    trust_remote_code: bool = False
    max_length: Count | None = None
    seed: int = 0

    def check(self) -> None:
        super().check()
        for name in self.limits:
            limit = getattr(self, name)
            if limit is not None and limit >= 1 and limit != int(limit):
                raise ValueError(
                    f"{name}={limit:g}: give a whole number of documents, or a share below 1"
                )

    def check_files(self) -> None:
        super().check_files()
        if self.include_path is not None:
            existing_folder(self.include_path, "include_path")

    @property
    def folder(self) -> Path:
        """Folder of results."""
        name = safe_name(f"{Path(self.model).name}_{'+'.join(self.tasks)}")[:100]
        return Path(self.output or f"runs/{self.runs}/{name}")

    @property
    def loading(self) -> dict[str, Any]:
        """How the model is loaded."""
        names = ("dtype", "device", "max_length", "trust_remote_code")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class QuestionSettings(TaskSettings):
    """A task of multiple choice whose documents are split, and others.

    Attributes:
        tasks: The task of multiple choice: one of lm-eval's tasks, or a group of them.
        limit: Documents of the task, the first ones; by default all.
        also: Other tasks of multiple choice, on which the changed model is measured too.
        also_limit: Documents of each of the other tasks, the first ones.
        split: Shares of the documents that are learned from, that are chosen on, and that results
            are of; by default 0.4,0.2,0.4.
    """

    elsewhere: ClassVar[tuple[str, ...]] = ("also",)
    """Settings that name other tasks."""
    limits: ClassVar[tuple[str, ...]] = ("limit", "also_limit")

    tasks: Names = option(metavar="TASK")
    also: Names = option((), metavar="NAMES")
    also_limit: Positive = 50.0
    split: Shares = option((0.4, 0.2, 0.4), metavar="SHARES")

    def check(self) -> None:
        super().check()
        if len(self.tasks) != 1:
            raise ValueError(
                f"tasks={','.join(self.tasks)!r}: name one task; others that the changed model is "
                "measured on stand in also (--also)"
            )
        named = [self.task, *self.others]
        if twice := [one for place, one in enumerate(named) if one in named[:place]]:
            given = ", ".join(f"{one}={','.join(getattr(self, one))!r}" for one in self.elsewhere)
            raise ValueError(
                f"{given}: {twice[0]!r} is named twice, or the task itself: name each once"
            )
        if len(self.split) != 3 or not math.isclose(sum(self.split), 1, abs_tol=1e-6):
            raise ValueError(
                f"split={listed(self.split)}: give three shares that add up to 1: of documents to "
                "learn from, to choose on, and to test on"
            )

    @property
    def task(self) -> str:
        """The task."""
        return self.tasks[0]

    @property
    def others(self) -> tuple[str, ...]:
        """All other tasks."""
        return tuple(task for one in self.elsewhere for task in getattr(self, one))


def listed(values: Sequence[float]) -> str:
    """Numbers as they are written in options.

    >>> listed((0.4, 0.2, 0.4))
    '0.4,0.2,0.4'
    """
    return ",".join(f"{one:g}" for one in values)
