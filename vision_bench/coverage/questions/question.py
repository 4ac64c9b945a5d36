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

from aim_plugins.core.commands import say
from aim_plugins.coverage.reference import Reference
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from vision_bench.coverage.learn import (
    all_positions,
    check_fit,
    keep_reference,
    learned_with,
    open_reference,
)
from vision_bench.coverage.questions.front import Answer, publish
from vision_bench.coverage.questions.gauge import Gauge, Pool
from vision_bench.coverage.questions.settings import QuestionSettings
from vision_bench.coverage.subject import load_subject
from vision_bench.data.dataset import list_left_out

_OF_THE_MACHINE = {
    "model", "data_root", "train_root", "labels", "on_error", "weights", "preprocessing",
    "batch_size", "workers", "device", "reference", "output",
}  # fmt: skip
"""Settings that results do not depend on, or whose effect the manifest's fingerprints hold."""

S = TypeVar("S", bound=QuestionSettings)


class Question(FolderStudy, Generic[S]):
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
        self.subject, self.suite, self.training = load_subject(settings)
        self.positions = all_positions(self.suite, settings)
        self.reference: Reference | None = None
        if settings.reference is not None:
            self.reference = open_reference(settings, self.subject)
        elif self.training is not None:
            check_fit(self.subject, self.training, settings)
        self.check_suite(len(self.positions))

    def check_suite(self, images: int) -> None:  # noqa: B027
        """Refuses a suite that is too small for the question.

        Raises:
            ValueError: If so.
        """

    def measure(self, store: SweepStore) -> None:
        subject = self.subject
        store.pin_manifest(
            model_fingerprint=subject.model.fingerprint,
            data_fingerprint=self.suite.fingerprint,
            preprocessing=self.suite.identity()["preprocessing"],
        )
        store.update_manifest(
            model=subject.model.title,
            weights=subject.model.weights,
            layers=len(subject.layers.names),
            neurons=subject.layers.neurons,
            images=len(self.positions),
        )
        self.answer = self.ask(store)
        store.update_manifest(left_out=dict(self.suite.unreadable))
        for data in (self.suite, self.training):
            if data is not None and data.unreadable:
                say(f"{data.title}: {list_left_out(data.unreadable)}")

    @abc.abstractmethod
    def ask(self, store: SweepStore) -> Answer:
        """Measures what the store lacks, and says what follows."""

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        return publish(store.folder, self.answer, store.manifest)

    def learned(self, store: SweepStore) -> Reference:
        """The reference, learned once and kept in the folder."""
        self.reference = keep_reference(
            store, self.subject, self.training, self.reference, self.settings
        )
        store.pin_manifest(reference=self.reference.fingerprint)
        return self.reference

    def gauge(self, store: SweepStore) -> Gauge:
        """The criteria."""
        return Gauge(self.learned(store), self.settings)

    def pool(self) -> Pool:
        """Every image of the suite, as the criteria see it; all their neurons are held at once."""
        seen = self.subject.pass_over(self.suite, self.positions, "suite")
        return Pool.read(seen, self.suite.labels, self.settings)
