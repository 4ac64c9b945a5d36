"""`vision-bench coverage run`: every criterion of a suite, from one pass of the model.

OUTPUT/
  coverage.json     every value with its ceiling and random suites, for programs
  coverage.csv      the same as a table, with layers and classes
  uncovered.csv     combinations that training inputs reach and the suite does not
  priority.csv      inputs worth labelling first, where asked for
  curves/           pictures
  report.html
  manifest.json
  reference/        what the criteria know of the training set
  profile/          what the suite has exercised; `coverage combine` joins those of parts
  records/          finished steps, from which a killed run goes on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aim_plugins.core.commands import say
from aim_plugins.coverage.gains import choose_criterion
from aim_plugins.coverage.registry import make_criteria
from aim_plugins.coverage.results import NOISE, TRAINING, Result, collect, missed, training_values
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from vision_bench.coverage.candidates import load_candidates, look_at
from vision_bench.coverage.exhibits import Gallery
from vision_bench.coverage.front import Findings, publish
from vision_bench.coverage.learn import (
    measured_with,
)
from vision_bench.coverage.left_out import find_left_out
from vision_bench.coverage.measure import Measurement, Values
from vision_bench.coverage.priority import GINI, Orders, Priority
from vision_bench.coverage.settings import RunSettings
from vision_bench.coverage.subject import first_image
from vision_bench.coverage.suite_study import OfReference
from vision_bench.data.classes import chosen_classes
from vision_bench.data.dataset import VisionData


class CoverageStudy(OfReference, FolderStudy):
    """A suite's coverage.

    Args:
        settings: Model, data, criteria.
        command: The words that repeat it, for the report.

    Attributes:
        results: What was measured; known after `run`.
    """

    def __init__(self, settings: RunSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command, self.output = settings, command, settings.folder
        self.results: list[Result] = []

    @property
    def arguments(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "command": "coverage run",
            **measured_with(settings),
            "part": settings.part,
            "report_classes": [str(one) for one in settings.report_classes],
        }

    def load(self) -> None:
        settings = self.settings
        self.load_with_reference(settings)
        self.classes = chosen_classes(settings.report_classes, self.suite.classes, None)
        part, parts = settings.share
        self.positions = self.positions[part::parts]
        if not self.positions:
            raise ValueError(f"part={settings.part!r} of {len(self.suite)} images holds none")
        self.candidates: VisionData | None = None
        if settings.prioritize:
            self.candidates, self.labels = load_candidates(settings, self.suite)

    def measure(self, store: SweepStore) -> None:
        settings, subject = self.settings, self.subject
        self.note_suite(store)
        reference = self.learned(store, settings)
        measurement = Measurement(subject, reference, settings, store)
        self.profile = measurement.profile(self.suite, self.positions, self.classes)
        self.growth = measurement.growth(len(self.positions))
        self.answers = measurement.answers(len(self.positions), self.suite)
        of_training = training_values(reference)
        self.results = collect(self.profile, self._random(measurement), of_training)
        self.gaps, self.stretches = find_left_out(
            subject, reference, self.profile, self.suite, self.positions
        )
        self.priority = self._priority(store) if settings.prioritize else None
        self.tell_left_out(store, [self.candidates])

    def _random(self, measurement: Measurement) -> Mapping[str, list[Values]]:
        """Values of random suites of as many images."""
        size, draws = self.profile.inputs, range(self.settings.baselines)
        found: dict[str, list[Values]] = {TRAINING: [], NOISE: []}
        training = self.training
        if training is not None and len(training) >= size:
            found[TRAINING] = [measurement.training_suite(training, size, one) for one in draws]
        elif draws:
            why = "a reference stands for them" if training is None else f"only {len(training)}"
            say(f"no random suites of training images of this size: {why}")
        like = first_image(self.suite)
        found[NOISE] = [measurement.noise_suite(size, one, like) for one in draws]
        return found

    def _priority(self, store: SweepStore) -> Priority:
        """The candidates' order, found once."""
        settings = self.settings
        assert self.candidates is not None  # `load` loads them
        by = settings.prioritize_by or ""
        # The suite itself is ranked from nothing, candidates with its images from what it covers.
        what = "suite" if settings.candidates is None else self.candidates.fingerprint[:16]
        key = f"priority,{what},{by},{settings.prioritize}"
        if (held := store.read_batch(key)) is None:
            held = self._find_priority().to_json()
            store.write_batch(key, held)
        return Priority.from_json(held)

    def _find_priority(self) -> Priority:
        settings, suite, candidates = self.settings, self.suite, self.candidates
        assert self.reference is not None and candidates is not None
        nothing = make_criteria(self.reference, settings)
        criteria = nothing if settings.candidates is None else self.profile.criteria
        wanted = None if settings.prioritize_by == GINI else settings.prioritize_by
        criterion = choose_criterion(criteria, wanted)
        orders = Orders(criterion, look_at(self.subject, candidates, criterion))
        if self.labels is not None:
            judgement = orders.judge(self.labels, candidates.title)
        else:
            fresh = choose_criterion(nothing, wanted)
            judgement = Orders(fresh, look_at(self.subject, suite, fresh)).judge(
                suite.labels, suite.title
            )
        # Unless one is asked for, the order that finds mistakes.
        by = GINI if (settings.prioritize_by or judgement.best) == GINI else criterion.name
        return Priority(
            criterion.name,
            by,
            len(orders.by_gain),
            orders.ranked(candidates, settings.prioritize, by),
            orders.coverage(settings.seed),
            judgement,
        )

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        gallery = Gallery(self.suite, self.training, self.candidates)
        found = Findings(
            self.results,
            self.profile,
            self.answers,
            self.growth,
            self.gaps,
            self.stretches,
            self.priority,
        )
        return publish(store.folder, found, gallery, store.manifest, self.suite.title)

    @property
    def missed(self) -> dict[str, tuple[float, float]]:
        """By criterion, the coverage and the least that was asked for, where it is below."""
        return missed(self.results, self.settings.least)
