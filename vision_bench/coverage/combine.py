"""`vision-bench coverage combine`: what parts of a suite exercise together.

OUTPUT/
  coverage.json     every value with its ceiling, for programs
  coverage.csv      the same as a table, with layers and classes
  curves/           pictures
  report.html
  manifest.json
  reference/        what the criteria know of the training set
  profile/          what all parts have exercised; it may be combined further
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

from aim_plugins.core.commands import say
from aim_plugins.core.errors import first_few
from aim_plugins.coverage.criteria.criterion import Criterion
from aim_plugins.coverage.profile import Profile, check_alike
from aim_plugins.coverage.registry import make_criteria
from aim_plugins.coverage.results import Result, collect, missed, training_values
from aim_plugins.coverage.settings import CriteriaSettings
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from vision_bench.coverage.combine_settings import CombineSettings
from vision_bench.coverage.front import Findings, publish
from vision_bench.coverage.parts import (
    PROFILE,
    REFERENCE,
    Part,
    missing_shares,
    refuse_overlap,
)
from vision_bench.coverage.settings import read_least


class CombineStudy(FolderStudy):
    """Profiles of parts, combined.

    Args:
        settings: The parts.
        command: The words that repeat it, for the report.

    Attributes:
        results: Coverage by all parts together; known after `run`.
    """

    goes_on = False

    def __init__(self, settings: CombineSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command, self.output = settings, command, settings.output
        self.results: list[Result] = []

    @cached_property
    def parts(self) -> list[Part]:
        """What is combined."""
        return [Part.read(folder) for folder in self.settings.folders]

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "command": "coverage combine",
            "reference": self.parts[0].metadata.reference,
            "parts": sorted(name for part in self.parts for name in part.metadata.parts),
        }

    def load(self) -> None:
        first, *others = self.parts
        for part in others:
            check_alike(first.metadata, part.metadata)
        refuse_overlap(self.parts)
        self.reference = first.load_reference()
        names = {one.name for one in fields(CriteriaSettings)}
        held = {name: one for name, one in first.metadata.settings.items() if name in names}
        criteria = CriteriaSettings(**held)
        self.least = read_least(self.settings.fail_under, criteria.criteria)

        def make() -> dict[str, Criterion]:
            return make_criteria(self.reference, criteria)

        profiles = [Profile.load(part.folder / PROFILE, make, part.metadata) for part in self.parts]
        self.profile = profiles[0]
        for profile in profiles[1:]:
            self.profile.combine(profile)

    def measure(self, store: SweepStore) -> None:
        self.results = collect(self.profile, {}, training_values(self.reference))
        first = self.parts[0]
        missing = missing_shares(self.parts)
        if missing:
            say(f"parts {first_few(missing, 8)} are not among the folders")
        store.update_manifest(
            model=first.title,
            weights=first.manifest.get("weights"),
            folders=[str(part.folder) for part in self.parts],
            images=self.profile.inputs,
            members=[member for part in self.parts for member in part.members],
            missing_parts=missing,
        )
        self.reference.save(store.folder / REFERENCE)
        self.profile.save(store.folder / PROFILE, position=self.profile.inputs)

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        data = ", ".join(self.profile.metadata.data)
        return publish(
            store.folder, Findings(self.results, self.profile), None, store.manifest, data
        )

    @property
    def missed(self) -> dict[str, tuple[float, float]]:
        """By criterion, the coverage and the least that was asked for, where it is below."""
        return missed(self.results, self.least)
