"""What every question does: load the classifier, learn a reference, ask, and show the answer.

OUTPUT/
  QUESTION.json     every number, for programs
  QUESTION.csv      the same as a table
  curves/           pictures
  report.html
  manifest.json
  reference/        what the criteria know of the training set
  attacked/         activations of attacked images, where there are any
  records/          finished suites, from which a killed run goes on
"""

from __future__ import annotations

import abc
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from vision_bench.coverage.learn import (
    learned_with,
)
from vision_bench.coverage.questions.front import Answer, publish
from vision_bench.coverage.questions.gauge import Gauge, Pool
from vision_bench.coverage.questions.settings import QuestionSettings
from vision_bench.coverage.suite_study import OfReference

_OF_THE_MACHINE = {
    "model", "data_root", "train_root", "labels", "on_error", "weights", "preprocessing",
    "batch_size", "workers", "device", "reference", "output",
}  # fmt: skip
"""Settings that results do not depend on, or whose effect the manifest's fingerprints hold."""

S = TypeVar("S", bound=QuestionSettings)


class Question(OfReference, FolderStudy, Generic[S]):
    """A study of what coverage says.

    Args:
        settings: Model, data, criteria, and what is asked.
        command: The words that repeat it, for the report.
    """

    def __init__(self, settings: S, command: Sequence[str] = ()) -> None:
        self.settings, self.command, self.output = settings, command, settings.folder

    @property
    def arguments(self) -> dict[str, Any]:
        settings = self.settings
        own = {
            one.name: getattr(settings, one.name)
            for one in fields(settings)
            if one.name not in _OF_THE_MACHINE
        }
        names = {"command": f"coverage {settings.QUESTION}", "model": settings.model_name}
        return json.loads(json.dumps(names | own | learned_with(settings)))

    def load(self) -> None:
        settings = self.settings
        self.load_with_reference(settings)
        self.check_suite(len(self.positions))

    def check_suite(self, images: int) -> None:  # noqa: B027
        """Refuses a suite that is too small for the question.

        Raises:
            ValueError: If so.
        """

    def measure(self, store: SweepStore) -> None:
        self.note_suite(store)
        self.answer = self.ask(store)
        self.tell_left_out(store)

    @abc.abstractmethod
    def ask(self, store: SweepStore) -> Answer:
        """Measures what the store lacks, and says what follows."""

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        return publish(store.folder, self.answer, store.manifest)

    def gauge(self, store: SweepStore) -> Gauge:
        """The criteria."""
        return Gauge(self.learned(store, self.settings), self.settings)

    def pool(self) -> Pool:
        """Every image of the suite, as the criteria see it; all their neurons are held at once."""
        seen = self.subject.pass_over(self.suite, self.positions, "suite")
        return Pool.read(seen, self.suite.labels, self.settings)
