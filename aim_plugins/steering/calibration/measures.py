"""Effect and cost of changed models: texts that are written and scored, and plain text read."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation.columns import Column
from aim_plugins.steering.calibration.costs import (
    UNCHANGED,
    Changed,
    TextCosts,
    Tokens,
    measure_costs,
)
from aim_plugins.steering.calibration.search import BudgetSearch, Spent
from aim_plugins.steering.concepts import Lexicon
from aim_plugins.steering.scores import score_effects
from aim_plugins.steering.settings.calibration import CalibrationSettings
from aim_plugins.steering.texts import generate_texts
from aim_plugins.sweep.estimates import Estimate
from aim_plugins.sweep.store import SweepStore

_DECODED = 4
"""Texts that are decoded together, for each that is read at once: a step reads a single token."""

Strengthened = Callable[[float], Changed]
"""A changed model by its strength."""


class Measures:
    """What a calibration measures, with one engine and into one folder.

    Args:
        engine: Runs the model.
        settings: Measure of the effect, budget, decoding.
        store: Keeps finished batches.

    Attributes:
        metric: Name of the effect's measure.
    """

    def __init__(
        self, engine: HuggingFaceEngine, settings: CalibrationSettings, store: SweepStore
    ) -> None:
        self.engine, self.settings, self._store = engine, settings, store
        self._lexicon = None if settings.lexicon is None else Lexicon.read(settings.lexicon)
        self.metric = metric_of(settings)

    def effects(
        self,
        prompts: Sequence[str],
        columns: Sequence[Column],
        prefix: str = "",
        *,
        samples: int | None = None,
    ) -> list[tuple[float, ...]]:
        """The effect on each prompt under each column, averaged over its texts.

        Args:
            prompts: The prompts.
            columns: What is changed of the model.
            prefix: Text before every prompt.
            samples: Texts for each prompt; by default as many as settings say.
        """
        settings, count = self.settings, samples or self.settings.samples
        asked = [f"{prefix}{prompt}" for prompt in prompts for _ in range(count)]
        rows = max(1, _DECODED * settings.batch_size // len(columns))
        written = generate_texts(
            self.engine, asked, columns, settings, batch_size=rows, progress=False
        )
        texts = [one.text for one in written]
        scores = score_effects(settings, self._lexicon, texts, self.engine, self._store)
        values = [float(value or 0.0) for value in scores[self.metric]]
        means = [
            statistics.fmean(values[start : start + count])
            for start in range(0, len(values), count)
        ]
        return [
            tuple(means[start : start + len(prompts)])
            for start in range(0, len(means), len(prompts))
        ]

    def costs(
        self, texts: Sequence[Tokens], changed: Sequence[Changed], reference: Changed = UNCHANGED
    ) -> list[TextCosts]:
        """Costs of changed models on plain texts."""
        return measure_costs(
            self.engine, texts, changed, reference=reference, batch_size=self.settings.batch_size
        )

    @property
    def budget(self) -> float:
        """The budget in nats per token: of KL, or of loss."""
        ratio = self.settings.budget_perplexity
        return self.settings.budget if ratio is None else math.log(ratio)

    def spent(self, costs: TextCosts) -> Estimate:
        """The cost that the budget is of, in nats per token."""
        return costs.divergence if self.settings.budget_perplexity is None else costs.growth

    def spend(
        self,
        texts: Sequence[Tokens],
        changes: Sequence[Strengthened],
        starts: Sequence[float],
        *,
        tolerance: float,
        reference: Changed = UNCHANGED,
    ) -> list[Spent]:
        """Finds for each change the strength that spends the budget on some texts.

        All are measured together, a strength of each in a round, so that the reference is run once
        for all.

        Args:
            texts: Plain texts.
            changes: The changes.
            starts: The first strength of each to measure.
            tolerance: Share of the budget by which a cost may miss it.
            reference: What costs are held against.
        """
        searches = [
            BudgetSearch(self.budget, self.settings.largest, start, tolerance) for start in starts
        ]
        while asked := {
            place: strength
            for place, search in enumerate(searches)
            if (strength := search.next) is not None
        }:
            changed = [changes[place](strength) for place, strength in asked.items()]
            found = self.costs(texts, changed, reference)
            for (place, strength), costs in zip(asked.items(), found, strict=True):
                searches[place].record(strength, self.spent(costs).value)
        return [search.found for search in searches]


def metric_of(settings: CalibrationSettings) -> str:
    """Name of the metric that measures the effect."""
    names = {
        "lexicon": "concept_presence",
        "judge": "judged_presence",
        "sentiment": "sentiment",
        "classifier": f"{settings.label}_probability",
    }
    return names[settings.scorers[0]]
