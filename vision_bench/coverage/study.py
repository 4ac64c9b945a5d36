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

import torch

from aim_plugins.core.commands import say
from aim_plugins.coverage.criteria.combinations import IDC
from aim_plugins.coverage.gaps import Gap, find_gaps
from aim_plugins.coverage.registry import idc_label, make_criteria
from aim_plugins.coverage.results import NOISE, TRAINING, Result, collect, training_values
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from vision_bench.coverage.exhibits import Gallery
from vision_bench.coverage.front import Findings, publish
from vision_bench.coverage.learn import (
    all_positions,
    keep_reference,
    measured_with,
    open_reference,
)
from vision_bench.coverage.measure import Measurement, Values
from vision_bench.coverage.priority import (
    Priority,
    choose_criterion,
    load_candidates,
    look_at,
    rank,
)
from vision_bench.coverage.settings import RunSettings
from vision_bench.coverage.subject import first_image, load_subject
from vision_bench.data.classes import chosen_classes

_GAPS = 12
"""Gaps that are shown of each set of important neurons."""


class CoverageStudy(FolderStudy):
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
        self.subject, self.suite, self.training = load_subject(settings)
        self.classes = chosen_classes(settings.report_classes, self.suite.classes, None)
        part, parts = settings.share
        self.positions = all_positions(self.suite, settings)[part::parts]
        if not self.positions:
            raise ValueError(f"part={settings.part!r} of {len(self.suite)} images holds none")
        self.reference = None
        if settings.reference is not None:
            self.reference = open_reference(settings, self.subject)
        if settings.prioritize:
            self.candidates, self.labels = load_candidates(settings, self.suite)

    def measure(self, store: SweepStore) -> None:
        settings, subject = self.settings, self.subject
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
        self.reference = keep_reference(store, subject, self.training, self.reference, settings)
        measurement = Measurement(subject, self.reference, settings, store)
        self.profile = measurement.profile(self.suite, self.positions, self.classes)
        self.growth = measurement.growth(len(self.positions))
        of_training = training_values(self.reference)
        self.results = collect(self.profile, self._random(measurement), of_training)
        self.gaps = self._gaps()
        self.priority = self._priority(store) if settings.prioritize else None
        store.update_manifest(left_out=dict(self.suite.unreadable))

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
        height, width = first_image(self.suite).shape[-2:]
        found[NOISE] = [measurement.noise_suite(size, one, (height, width)) for one in draws]
        return found

    def _gaps(self) -> list[Gap]:
        """What training reaches and the suite does not, with the nearest images."""
        reference, criteria = self.reference, self.profile.criteria
        assert reference is not None
        if "IDC" not in criteria:
            return []
        columns = sorted({one for each in reference.important for one in each.neurons.columns})
        rows, classes, positions = [], [], []
        for seen in self.subject.pass_over(self.suite, self.positions, "suite: gaps"):
            rows.append(seen.batch.neurons[:, columns])
            classes.append(seen.batch.classes)
            positions.append(seen.positions)
        values, predicted, places = torch.cat(rows), torch.cat(classes), torch.cat(positions)
        gaps: list[Gap] = []
        for place, one in enumerate(reference.important):
            idc = criteria[idc_label(place, one.neurons.label)]
            assert isinstance(idc, IDC)
            chosen = [columns.index(column) for column in one.neurons.columns]
            own = torch.ones(len(places), dtype=torch.bool)
            if one.class_index is not None:
                own = predicted == one.class_index
            gaps += find_gaps(idc, one, values[own][:, chosen], places[own], _GAPS)
        return gaps

    def _priority(self, store: SweepStore) -> Priority:
        """The candidates' order, found once."""
        settings = self.settings
        assert self.reference is not None
        own = settings.candidates is None
        criteria = make_criteria(self.reference, settings) if own else self.profile.criteria
        criterion = choose_criterion(settings, criteria)
        key = f"priority,{self.candidates.fingerprint[:16]},{criterion.name},{settings.prioritize}"
        if (held := store.read_batch(key)) is None:
            found = look_at(self.subject, self.candidates, criterion)
            held = rank(
                criterion, found, self.candidates, self.labels, settings.prioritize, settings.seed
            ).to_json()
            store.write_batch(key, held)
        return Priority.from_json(held)

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        candidates = self.candidates if self.priority is not None else None
        gallery = Gallery(self.suite, self.training, candidates)
        found = Findings(self.results, self.profile, self.growth, self.gaps, self.priority)
        return publish(store.folder, found, gallery, store.manifest, self.suite.title)

    @property
    def missed(self) -> dict[str, tuple[float, float]]:
        """By criterion, the coverage and the least that was asked for, where it is below."""
        found = {one.label: one.value for one in self.results}
        least = self.settings.least
        return {name: (found[name], end) for name, end in least.items() if found[name] < end}
