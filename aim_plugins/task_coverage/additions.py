"""Which documents of other tasks add what a task leaves uncovered, and how many are needed for it.

The order is greedy, see `aim_plugins.coverage.gains`: each document adds as many units as any that
is left, to what the task and the documents before it cover.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aim_plugins.coverage.gains import choose_criterion, fresh_units, prioritize
from aim_plugins.coverage.growth import growth_curves
from aim_plugins.coverage.moments import check_memory
from aim_plugins.coverage.profile import Profile
from aim_plugins.task_coverage.kept import KeptNeurons
from aim_plugins.task_coverage.settings import TaskCoverageSettings
from aim_plugins.task_coverage.suite import Suite
from aim_plugins.task_coverage.views import View


@dataclass(frozen=True)
class Added:
    """A document that adds to a task.

    Attributes:
        task: The task that it is from.
        number: Its place there.
        gain: Units that it adds to what the task and the documents before it cover.
        alone: Units that it would add were it the only one.
        text: What the model reads.
    """

    task: str
    number: int
    gain: int
    alone: int
    text: str


@dataclass(frozen=True)
class Additions:
    """What documents of other tasks add to one.

    Attributes:
        task: The task that is added to.
        criterion: What says what a document adds.
        candidates: Number of documents of the other tasks.
        useful: How many of them, in the best order, add something.
        before: The criterion's value by the task alone.
        after: Its value with all candidates.
        ranked: The first documents of the order.
        curves: Coverage against documents: "inputs", "coverage", "random", "low" and "high".
    """

    task: str
    criterion: str
    candidates: int
    useful: int
    before: float
    after: float
    ranked: tuple[Added, ...]
    curves: Mapping[str, Sequence[float]]

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Additions:
        """Reads what `to_json` wrote."""
        return cls(**{**content, "ranked": tuple(Added(**one) for one in content["ranked"])})

    @property
    def sentences(self) -> list[str]:
        """What it comes to, in sentences."""
        found = [
            f"{self.task} alone reaches {self.before:.4g} of {self.criterion}, and "
            f"{self.after:.4g} with all {self.candidates} documents of the other tasks; "
            f"{self.useful} of them, in the best order, add all of it."
        ]
        by_task: dict[str, int] = {}
        for one in self.ranked:
            by_task[one.task] = by_task.get(one.task, 0) + (one.gain > 0)
        parts = ", ".join(f"{count} of {task}" for task, count in by_task.items() if count)
        if parts:
            found.append(f"Of the first {len(self.ranked)}, what adds something is {parts}.")
        return found


def find_additions(
    view: View,
    profile: Profile,
    suite: Suite,
    kept: KeptNeurons,
    settings: TaskCoverageSettings,
) -> Additions:
    """Orders the documents of all other tasks by what they add to one.

    Args:
        view: What is covered.
        profile: What the task has exercised.
        suite: The documents.
        kept: Their neurons.
        settings: Name the task and the criterion.
    """
    task = settings.adds_to
    assert task is not None  # asked by the caller
    positions = [one for name, members in suite.tasks.items() if name != task for one in members]
    criterion = choose_criterion(profile.criteria, settings.prioritize_by)
    _, first = next(view.batches(kept, positions[:1], suite.classes))
    marks = criterion.units(first).shape[1]
    check_memory(
        f"adds_to={task!r} with {len(positions)} documents that each reach {marks} units",
        4 * marks * len(positions),
        "give a limit, fewer modules, or prioritize_by TKNC or IDC",
    )
    batches = view.batches(kept, positions, suite.classes)
    fresh = fresh_units(criterion, (criterion.units(batch) for _, batch in batches))
    ranking = prioritize(criterion, fresh)
    curves = growth_curves(criterion, fresh, {"coverage": ranking.order}, settings.seed)
    ranked = []
    pairs = zip(ranking.order.tolist(), ranking.gains.tolist(), strict=True)
    for place, gain in list(pairs)[: settings.prioritize]:
        document = suite.documents[positions[place]]
        alone = int(fresh.counts[place])
        ranked.append(Added(document.task, document.number, gain, alone, document.text))
    return Additions(
        task,
        criterion.name,
        len(positions),
        ranking.useful,
        float(criterion.value),
        float(curves["coverage"][-1]),
        tuple(ranked),
        curves,
    )


def additions_csv(found: Additions) -> str:
    """The documents to add first, as a table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "task", "document", "adds", "alone", "text"])
    for place, one in enumerate(found.ranked, start=1):
        writer.writerow([place, one.task, one.number, one.gain, one.alone, one.text])
    return text.getvalue()
