"""What a budget is of, and the strengths that spend it, on what no line is reported on."""

from __future__ import annotations

import abc
import statistics
from collections.abc import Callable, Sequence

from aim_plugins.steering.calibration.costs import UNCHANGED, Changed, Tokens
from aim_plugins.steering.calibration.measures import Measures
from aim_plugins.steering.calibration.questions import TaskQuestions, allowed_loss
from aim_plugins.steering.calibration.search import BudgetSearch, Spent
from aim_plugins.steering.calibration.step_search import StepSearch
from aim_plugins.steering.settings.calibration import CalibrationSettings
from aim_plugins.task_questions.questions import Question

PILOT = 8
"""Plain texts of the calibration half on which every choice of sites gets its first strength."""
_ROUGH, _FINE = 0.1, 0.02
"""Share of the budget by which strengths may miss it while sites are chosen, and at the end; of a
task's, share of the strength."""

Strengthened = Callable[[float], Changed]
"""A changed model by its strength."""


class Budget(abc.ABC):
    """A budget of quality.

    Attributes:
        of: What strengths are found on, in words.
    """

    of: str

    @abc.abstractmethod
    def search(self, start: float, *, fine: bool) -> BudgetSearch | StepSearch:
        """The search of a change's strength."""

    @abc.abstractmethod
    def costs(
        self, changed: Sequence[Changed], reference: Changed, *, fine: bool
    ) -> Sequence[float]:
        """What each changed model costs of the budget."""

    def spend(
        self,
        changes: Sequence[Strengthened],
        starts: Sequence[float],
        *,
        fine: bool,
        reference: Changed = UNCHANGED,
    ) -> list[Spent]:
        """Finds for each change the strength that spends the budget.

        All are measured together, so that the reference is run once a round for all.

        Args:
            changes: The changes.
            starts: The first strength of each to measure.
            fine: Whether to report them, else well enough to choose sites.
            reference: What costs are held against.
        """
        assert len(changes) == len(starts)
        searches = [self.search(start, fine=fine) for start in starts]
        while asked := [
            (place, strength) for place, search in enumerate(searches) for strength in search.next
        ]:
            changed = [changes[place](strength) for place, strength in asked]
            costs = self.costs(changed, reference, fine=fine)
            for (place, strength), cost in zip(asked, costs, strict=True):
                searches[place].record(strength, cost)
        return [search.found for search in searches]


class TextBudget(Budget):
    """A budget of KL or of perplexity on plain text.

    Args:
        measures: Measures costs.
        texts: The calibration half.
    """

    def __init__(self, measures: Measures, texts: Sequence[Tokens]) -> None:
        self._measures, self._texts = measures, texts
        self.of = f"{len(texts)} texts"

    def search(self, start: float, *, fine: bool) -> BudgetSearch:
        largest = self._measures.settings.largest
        return BudgetSearch(self._measures.nats, largest, start, _FINE if fine else _ROUGH)

    def costs(
        self, changed: Sequence[Changed], reference: Changed, *, fine: bool
    ) -> Sequence[float]:
        texts = self._texts if fine else self._texts[:PILOT]
        found = self._measures.costs(texts, changed, reference)
        return [self._measures.spent(one).value for one in found]


class TaskBudget(Budget):
    """A budget of the accuracy that a task may lose.

    Sites are chosen on other questions than the strengths of what is then reported: a bound on what
    is lost holds for a change that is fixed beforehand, and not for the luckiest of several.

    Args:
        settings: The budget, and the largest strength.
        questions: The task's questions.
    """

    def __init__(self, settings: CalibrationSettings, questions: TaskQuestions) -> None:
        self._settings, self._questions = settings, questions
        self.of = f"{len(questions.strengths)} questions of {settings.task}"

    def search(self, start: float, *, fine: bool) -> StepSearch:
        allowed = allowed_loss(len(self._asked(fine)), self._settings.budget)
        return StepSearch(allowed, self._settings.largest, start, _FINE if fine else _ROUGH)

    def costs(
        self, changed: Sequence[Changed], reference: Changed, *, fine: bool
    ) -> Sequence[float]:
        hits = self._questions.hits(self._asked(fine), [reference, *changed])
        known, *found = map(statistics.fmean, hits)
        return [known - one for one in found]

    def _asked(self, fine: bool) -> Sequence[Question]:
        return self._questions.strengths if fine else self._questions.sites
