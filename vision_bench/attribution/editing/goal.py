"""What an edit is judged by: what is to change, and what is to stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor

from vision_bench.data.classification import ClassificationData


@dataclass(frozen=True)
class Examined:
    """Images that models are examined on.

    Attributes:
        data: The images.
        parts: Which of them belong to each part, by its name, in the order of the report.
        meant: The class that a mark on each image stands for, -1 of images without one; None where
            none has one.
    """

    data: ClassificationData
    parts: Mapping[str, Bool[Tensor, " images"]]
    meant: Int[Tensor, " images"] | None = None

    def right(self, answers: Int[Tensor, " images"], part: str) -> Bool[Tensor, " members"]:
        """Which images of a part are answered rightly; unreadable ones are left out.

        Args:
            answers: The classes answered with; -1 of an unreadable image.
            part: Its name.
        """
        members = self.parts[part] & (answers >= 0)
        return answers[members] == self.data.labels[members]

    def misled(self, answers: Int[Tensor, " images"]) -> Bool[Tensor, " marked"]:
        """Which images with a mark are answered with what it stands for."""
        assert self.meant is not None
        members = (self.meant >= 0) & (answers >= 0)
        return answers[members] == self.meant[members]


@dataclass(frozen=True)
class Score:
    """What an edit reaches.

    Attributes:
        goal: Share of what is to change that does, from 0 to 1.
        rest: Accuracy on what is to stay.
    """

    goal: float
    rest: float


@dataclass(frozen=True)
class Goal:
    """What an edit is to reach.

    Attributes:
        aims: Parts whose answers are to change.
        rest: Parts whose answers are to stay.
        lower: Whether answers of the aims are to be wrong rather than right.
        worst: Whether the worst of the aims counts, rather than all their images together.
    """

    aims: Sequence[str]
    rest: Sequence[str]
    lower: bool = False
    worst: bool = False

    def score(self, examined: Examined, answers: Int[Tensor, " images"]) -> Score:
        """What a model's answers reach."""
        right = {one: examined.right(answers, one) for one in {*self.aims, *self.rest}}
        if self.worst:
            shares = [float(right[one].double().mean()) for one in self.aims if len(right[one])]
            goal = min(shares)
        else:
            goal = _pooled([right[one] for one in self.aims])
        return Score(1 - goal if self.lower else goal, _pooled([right[one] for one in self.rest]))

    @property
    def words(self) -> str:
        """What the goal is called in pictures."""
        if self.worst:
            return "accuracy on the worst group"
        named = " and ".join(self.aims)
        return f"{named}: no longer right" if self.lower else f"{named}: right"


def _pooled(rights: Sequence[Bool[Tensor, " members"]]) -> float:
    total = sum(len(one) for one in rights)
    return sum(int(one.sum()) for one in rights) / max(total, 1)
