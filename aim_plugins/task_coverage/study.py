"""`aim-plugins coverage`: every criterion of tasks' documents, from one pass of the model.

OUTPUT/
  coverage.json     every value with its ceiling and random suites, for programs
  coverage.csv      the same as a table, with layers and answers
  tasks.csv         the same of each task
  uncovered.csv     combinations that reference documents reach and the suite does not
  priority.csv      documents that add most to one task, where asked for
  curves/           pictures
  report.html
  manifest.json
  reference/        what the criteria know of the reference documents
  profile/          what all documents and each task have exercised
  neurons.f32       the neurons of every document, from which all of it is computed
  records/          finished steps, from which a killed run goes on
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aim_plugins.core.identity import model_fingerprint
from aim_plugins.coverage.criteria.covariance import check_covariances
from aim_plugins.engines.loading import load_engine
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from aim_plugins.task_coverage.additions import Additions, find_additions
from aim_plugins.task_coverage.directions import Directions, read_directions
from aim_plugins.task_coverage.files import Findings
from aim_plugins.task_coverage.front import publish
from aim_plugins.task_coverage.kept import KeptNeurons, keep_neurons
from aim_plugins.task_coverage.measure import Measured, Measurement
from aim_plugins.task_coverage.settings import TaskCoverageSettings
from aim_plugins.task_coverage.subject import Subject
from aim_plugins.task_coverage.suite import load_suite
from aim_plugins.task_coverage.views import View, learn_views
from aim_plugins.transport.artifact import LearnedTransport

REFERENCE = "reference"


class TaskCoverageStudy(FolderStudy):
    """The coverage of a causal model by tasks.

    Args:
        settings: Model, tasks, criteria.
        command: The words that repeat it, for the report.
    """

    packages = ("aim-plugins", "lm-eval", "transformers", "torch")

    def __init__(self, settings: TaskCoverageSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command, self.output = settings, command, settings.folder
        self.measured: list[Measured] = []
        self.additions: Additions | None = None
        self._transport: LearnedTransport | None = None
        if settings.directions is not None:
            self._transport = LearnedTransport.load(settings.directions)

    @property
    def arguments(self) -> dict[str, Any]:
        settings = self.settings
        names = ("limit", "seed", "dtype", "max_length", "baselines", "adds_to", "prioritize_by")
        return {
            "command": "coverage",
            "model": settings.model,
            "tasks": list(settings.tasks),
            "reference_tasks": list(settings.learned_from),
            "reference": settings.reference,
            "prioritize": settings.prioritize if settings.adds_to else None,
            "directions": self._transport.fingerprint if self._transport else None,
            **{name: getattr(settings, name) for name in names},
            **settings.constants,
            **settings.learned_with,
        }

    def load(self) -> None:
        settings = self.settings
        self.suite = load_suite(settings)
        directions = self._directions()
        engine = load_engine(settings.model, argument="model", **settings.loading)
        if self._transport is not None:
            self._transport.check_model(engine.model, engine.tokenizer)
        self.subject = Subject(
            engine.model,
            engine.tokenizer,
            settings.modules,
            directions=directions,
            batch_size=settings.batch_size,
            max_length=engine.max_length,
        )
        self._check_memory()
        self.suite.tokenize(self.subject)

    def _check_memory(self) -> None:
        """Refuses NLC where its covariances, of all documents and of each class, are too large."""
        if "NLC" in self.settings.criteria:
            check_covariances(self.subject.layers, 1 + len(self.suite.reported_classes()))

    def _directions(self) -> Directions | None:
        if self._transport is None:
            return None
        return read_directions(self._transport, str(self.settings.directions))

    def measure(self, store: SweepStore) -> None:
        settings, subject, suite = self.settings, self.subject, self.suite
        layers = subject.layers
        store.pin_manifest(
            model_fingerprint=model_fingerprint(subject.model),
            documents_fingerprint=suite.fingerprint,
        )
        store.update_manifest(
            layers=len(layers.names),
            neurons=layers.neurons,
            documents={name: len(positions) for name, positions in suite.tasks.items()},
        )
        kept = keep_neurons(subject, suite.tokens, store, "neurons.f32", "documents")
        views = learn_views(subject, suite, kept, settings, store.folder / REFERENCE)
        measurement = Measurement(subject, suite, kept, settings, store)
        self.measured = measurement.measure(views)
        if settings.adds_to is not None:
            self.additions = self._find_additions(store, measurement, views[0], kept)

    def _find_additions(
        self, store: SweepStore, measurement: Measurement, view: View, kept: KeptNeurons
    ) -> Additions:
        settings, suite = self.settings, self.suite
        if (held := store.read_batch("additions")) is None:
            assert settings.adds_to is not None  # asked by the caller
            positions = suite.tasks[settings.adds_to]
            profile, _ = measurement.profile(view, settings.adds_to, positions, {})
            held = find_additions(view, profile, suite, kept, settings).to_json()
            store.write_batch("additions", held)
        return Additions.from_json(held)

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        found = Findings(self.settings, self.suite, self.measured, self.additions)
        return publish(store.folder, found, store.manifest)
