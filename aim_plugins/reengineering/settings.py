"""Settings of `aim-plugins reengineer`, as a config and options give them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from aim_plugins.core.settings import Count, Shares, bound, option
from aim_plugins.task_questions.settings import QuestionSettings, listed

DEFAULT_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5)

Tolerance = Annotated[float, bound("a share from 0 up to 1", lambda value: 0 <= value < 1)]


@dataclass(frozen=True, kw_only=True)
class TaskModuleSettings(QuestionSettings):
    """What `aim-plugins reengineer` makes smaller, and for which task.

    Attributes:
        tasks: The task of multiple choice that the smaller model is for: one of lm-eval's tasks, or
            a group of them.
        shares: Shares of neurons kept in every block, and of heads at least; by default
            0.9,0.8,0.7,0.6,0.5.
        split: Shares of the documents that importance is learned from, that a share is chosen on,
            and that the results are of; by default 0.4,0.2,0.4.
        tolerance: How far the chosen share's accuracy may lie below that of the whole model, on
            the documents that it is chosen on.
        removals: Removals at random that each share is held against.
        batch_size: Documents in a pass, with all of their choices.
        seed: Seed of the split and of removals at random.
    """

    runs: ClassVar[str] = "reengineer"

    shares: Shares = option(DEFAULT_SHARES, metavar="SHARES")
    tolerance: Tolerance = 0.05
    removals: Count = 3
    batch_size: Count = 8

    def check(self) -> None:
        super().check()
        if len(set(self.shares)) < len(self.shares) or max(self.shares) >= 1:
            raise ValueError(
                f"shares={listed(self.shares)}: give different shares below 1; the whole model is "
                "measured anyway"
            )

    @property
    def falling(self) -> tuple[float, ...]:
        """The shares, the largest first."""
        return tuple(sorted(self.shares, reverse=True))
