"""How many components an edit ablates, and how far its rival goes: chosen by one rule.

The more of the goal the better, as long as the rest keeps its accuracy up to a tolerance; where
nothing keeps it, what costs it least. Images that are tested choose nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vision_bench.attribution.editing.goal import Score


@dataclass(frozen=True)
class Trial:
    """An edit that is tried.

    Attributes:
        order: In which order components are ablated.
        components: Numbers of those that are, in that order.
    """

    order: str
    components: Sequence[int]

    @property
    def words(self) -> str:
        """What it is called."""
        return f"{len(self.components)} by {self.order}"


@dataclass(frozen=True)
class Choice:
    """What was tried on the images that select.

    Attributes:
        words: What each that was tried is called.
        scores: What each reached.
        before: What the model as it is reaches.
        tolerance: How much accuracy the rest may lose.
    """

    words: Sequence[str]
    scores: Sequence[Score]
    before: Score
    tolerance: float

    def worth(self, place: int) -> float:
        """What one is worth: its goal, or below zero what it costs too much."""
        return worth(self.scores[place], self.before, self.tolerance)

    @property
    def chosen(self) -> int:
        """The place of the best; of equals the first."""
        return max(range(len(self.scores)), key=self.worth)

    @property
    def helps(self) -> bool:
        """Whether the best keeps the rest and reaches more of the goal than the model as it is."""
        return self.worth(self.chosen) > self.before.goal


def worth(score: Score, before: Score, tolerance: float) -> float:
    """What a score is worth, to be compared with others.

    >>> before = Score(0.1, 0.9)
    >>> worth(Score(0.8, 0.89), before, 0.02), round(worth(Score(0.9, 0.7), before, 0.02), 2)
    (0.8, -0.18)
    """
    lost = before.rest - score.rest - tolerance
    # Shares of counts are rounded; a loss of just the tolerance is none too much.
    return score.goal if lost <= 1e-9 else -lost
