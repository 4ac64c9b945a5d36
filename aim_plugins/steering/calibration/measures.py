"""Effect and cost of changed models: texts that are written and scored, and plain text read."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation.columns import Column
from aim_plugins.steering.calibration.costs import (
    UNCHANGED,
    Changed,
    TextCosts,
    Tokens,
    measure_costs,
)
from aim_plugins.steering.calibration.halves import Halves
from aim_plugins.steering.calibration.questions import TaskQuestions
from aim_plugins.steering.concepts import Lexicon
from aim_plugins.steering.scores import score_effects
from aim_plugins.steering.settings.calibration import DEFAULT_BUDGET, CalibrationSettings
from aim_plugins.steering.texts import generate_texts
from aim_plugins.sweep.estimates import Estimate
from aim_plugins.sweep.store import SweepStore

_DECODED = 4
"""Texts that are decoded together, for each that is read at once: a step reads a single token."""


@dataclass(frozen=True)
class Material:
    """What is measured on, in parts: to choose on, and to report on.

    Attributes:
        prompts: Texts to continue.
        texts: Token ids of plain texts.
        questions: Those of the task that the budget is of, if it is of one.
    """

    prompts: Halves[str]
    texts: Halves[Tokens]
    questions: TaskQuestions | None


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
        self.engine, self.settings, self.store = engine, settings, store
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
        scores = score_effects(settings, self._lexicon, texts, self.engine, self.store)
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
    def nats(self) -> float:
        """The budget in nats per token, of KL or of loss; for the screen if it is of a task."""
        settings = self.settings
        if settings.task:
            return DEFAULT_BUDGET
        ratio = settings.budget_perplexity
        return settings.budget if ratio is None else math.log(ratio)

    def spent(self, costs: TextCosts) -> Estimate:
        """The cost that a budget on plain text is of, in nats per token."""
        return costs.divergence if self.settings.budget_perplexity is None else costs.growth


def metric_of(settings: CalibrationSettings) -> str:
    """Name of the metric that measures the effect."""
    names = {
        "lexicon": "concept_presence",
        "judge": "judged_presence",
        "sentiment": "sentiment",
        "classifier": f"{settings.label}_probability",
    }
    return names[settings.scorers[0]]
