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
from aim_plugins.coverage.reference import Reference
from aim_plugins.coverage.registry import idc_label, make_criteria
from aim_plugins.coverage.results import NOISE, TRAINING, Result, collect
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from vision_bench.coverage.exhibits import Gallery
from vision_bench.coverage.front import Findings, publish
from vision_bench.coverage.learn import (
    all_positions,
    check_fit,
    learn_reference,
    learned_with,
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

REFERENCE = "reference"
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
        names = ("dataset", "split", "limit", "num_samples", "seed", "part", "train_split")
        own = {name: getattr(settings, name) for name in names}
        criteria = {name: getattr(settings, name) for name in _CONSTANTS}
        classes = [str(one) for one in settings.report_classes]
        return {
            "command": "coverage run",
            "model": settings.model_name,
            **own,
            **criteria,
            **learned_with(settings),
            "report_classes": classes,
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
        elif self.training is not None:
            check_fit(self.subject, self.training, settings)
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
        self.reference = self._reference(store)
        measurement = Measurement(subject, self.reference, settings, store)
        self.profile = measurement.profile(self.suite, self.positions, self.classes)
        self.growth = measurement.growth(len(self.positions))
        self.results = collect(self.profile, self._random(measurement), self._training_values())
        self.gaps = self._gaps()
        self.priority = self._priority(store) if settings.prioritize else None
        store.update_manifest(left_out=dict(self.suite.unreadable))

    def _reference(self, store: SweepStore) -> Reference:
        """The reference, kept beside the profile so that parts can be combined."""
        folder = store.folder / REFERENCE
        if self.reference is not None:
            self.reference.save(folder)
            return self.reference
        assert self.training is not None  # `load_subject` loads one of the two
        store.pin_manifest(training_fingerprint=self.training.fingerprint)
        if (folder / f"{REFERENCE}.json").exists():
            say(f"{folder} is finished and kept")
            return Reference.load(folder)
        reference = learn_reference(self.subject, self.training, self.settings)
        reference.save(folder)
        return reference

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

    def _training_values(self) -> dict[str, float]:
        """What the training set itself reaches of IDC."""
        assert self.reference is not None
        found = {}
        for place, one in enumerate(self.reference.important):
            label = idc_label(place, one.neurons.label)
            found[label] = len(one.reached.codes) / one.neurons.combinations
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


_CONSTANTS = (
    "nc_threshold", "kmnc_buckets", "top_k", "cc_threshold", "lsc_width", "dsc_width",
    "mdsc_width", "surprise_layer",
)  # fmt: skip
"""Settings of the criteria that a reference does not depend on, and the layer of surprise."""
