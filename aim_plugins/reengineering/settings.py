"""Settings of `aim-plugins reengineer`, as a config and options give them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from aim_plugins.core.files import existing_folder, safe_name
from aim_plugins.core.settings import Count, Names, Positive, Settings, Shares, bound, option
from aim_plugins.task_questions.split import DEFAULT_SPLIT, check_limit, check_split, listed

DEFAULT_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5)

Tolerance = Annotated[float, bound("a share from 0 up to 1", lambda value: 0 <= value < 1)]


@dataclass(frozen=True, kw_only=True)
class TaskModuleSettings(Settings):
    """What `aim-plugins reengineer` makes smaller, and for which task.

    Attributes:
        model: A causal model: a name on the hub, a local folder, or "demo:smollm2".
        tasks: The task of multiple choice that the smaller model is for: one of lm-eval's tasks, or
            a group of them.
        output: Folder of results; by default runs/reengineer/MODEL_TASK.
        include_path: Folder of tasks of your own.
        limit: Documents of the task, the first ones; by default all.
        also: Other tasks of multiple choice, on which the same models are measured.
        also_limit: Documents of each of these, the first ones.
        shares: Shares of neurons kept in every block, and of heads at least; by default
            0.9,0.8,0.7,0.6,0.5.
        split: Shares of the documents that importance is learned from, that a share is chosen on,
            and that the results are of; by default 0.4,0.2,0.4.
        tolerance: How far the chosen share's accuracy may lie below that of the whole model, on
            the documents that it is chosen on.
        removals: Removals at random that each share is held against.
        dtype: Type of the weights.
        device: Where the model runs; by default an accelerator if there is one.
        trust_remote_code: Whether code that comes with the model may run.
        max_length: Longest document in tokens, of which the end is kept; by default the model's
            window.
        batch_size: Documents in a pass, with all of their choices.
        seed: Seed of the split and of removals at random.
    """

    model: str = option(metavar="MODEL")
    tasks: Names = option(metavar="TASK")
    output: str | None = option(None, short="-o", metavar="DIR")
    include_path: str | None = option(None, metavar="FOLDER")
    limit: Positive | None = None
    also: Names = option((), metavar="NAMES")
    also_limit: Positive = 50.0
    shares: Shares = option(DEFAULT_SHARES, metavar="SHARES")
    split: Shares = option(DEFAULT_SPLIT, metavar="SHARES")
    tolerance: Tolerance = 0.05
    removals: Count = 3
    dtype: str = "float32"
    device: str | None = None
    trust_remote_code: bool = False
    max_length: Count | None = None
    batch_size: Count = 8
    seed: int = 0

    def check(self) -> None:
        if len(self.tasks) != 1:
            raise ValueError(
                f"tasks={','.join(self.tasks)!r}: name one task, which the smaller model is for; "
                "others that it is measured on stand in also (--also)"
            )
        if self.task in self.also or len(set(self.also)) < len(self.also):
            raise ValueError(
                f"also={','.join(self.also)!r} names a task twice, or {self.task!r} itself: name "
                "each once"
            )
        if len(set(self.shares)) < len(self.shares) or max(self.shares) >= 1:
            raise ValueError(
                f"shares={listed(self.shares)}: give different shares below 1; the whole model is "
                "measured anyway"
            )
        check_split(self.split)
        for name in ("limit", "also_limit"):
            check_limit(name, getattr(self, name))

    def check_files(self) -> None:
        if self.include_path is not None:
            existing_folder(self.include_path, "include_path")

    @property
    def task(self) -> str:
        """The task."""
        return self.tasks[0]

    @property
    def folder(self) -> Path:
        """Folder of results."""
        name = safe_name(f"{Path(self.model).name}_{self.task}")[:100]
        return Path(self.output or f"runs/reengineer/{name}")

    @property
    def falling(self) -> tuple[float, ...]:
        """The shares, the largest first."""
        return tuple(sorted(self.shares, reverse=True))

    @property
    def loading(self) -> dict[str, Any]:
        """How the model is loaded."""
        names = ("dtype", "device", "max_length", "trust_remote_code")
        return {name: getattr(self, name) for name in names}
