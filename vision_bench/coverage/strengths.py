"""Measures a suite at every strength of a change, in passes that a kill only interrupts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aim_plugins.core.commands import say
from aim_plugins.coverage.profile import Profile
from aim_plugins.coverage.reference import Reference
from aim_plugins.coverage.registry import make_criteria
from aim_plugins.sweep.cells import Cell
from aim_plugins.sweep.store import SweepStore
from vision_bench.coverage.learn import judged
from vision_bench.coverage.measure import growth_steps, profile_metadata
from vision_bench.coverage.modulated import Modulated
from vision_bench.coverage.subject import Seen, Subject
from vision_bench.coverage.sweep_settings import SweepSettings
from vision_bench.data.classification import ClassificationData

PROFILES = "profiles"
"""Folder of what the suite exercises at each strength and draw."""
_SAVED_EVERY = 30.0
"""Seconds between two savings of profiles in the making."""


@dataclass(frozen=True)
class Measured:
    """Coverage at one strength and draw.

    Attributes:
        inputs: Number of images.
        correct: How many of them the classifier gets right.
        values: Coverage by label.
        ceilings: The most that as many images can reach, by label; None where nothing bounds it.
    """

    inputs: int
    correct: int
    values: Mapping[str, float]
    ceilings: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """What `Measured(**...)` is made of again."""
        return {
            name: dict(one) if isinstance(one, Mapping) else one for name, one in vars(self).items()
        }


class _Cell:
    """One strength and draw in the making."""

    def __init__(self, name: str, profile: Profile, done: int, correct: int) -> None:
        self.name, self.profile, self.done, self.correct = name, profile, done, correct

    def take(self, seen: Seen, data: ClassificationData, settings: SweepSettings) -> None:
        self.profile.update(judged(seen, data, settings))
        answers = seen.logits.argmax(1)
        self.correct += int((answers == data.labels[seen.positions]).sum())

    def measured(self) -> Measured:
        criteria = self.profile.criteria
        return Measured(
            self.profile.inputs,
            self.correct,
            {label: one.value for label, one in criteria.items()},
            {label: one.ceiling(one.inputs) for label, one in criteria.items()},
        )


class StrengthMeasurement:
    """A suite at every strength, measured into a folder.

    Args:
        modulated: The classifier under its change.
        subject: The classifier.
        reference: What the criteria know of the training set; of the unchanged classifier.
        settings: The criteria.
        store: The study's folder.
    """

    def __init__(
        self,
        modulated: Modulated,
        subject: Subject,
        reference: Reference,
        settings: SweepSettings,
        store: SweepStore,
    ) -> None:
        self.modulated, self.subject, self.reference = modulated, subject, reference
        self.settings, self.store = settings, store

    def measure(self, data: ClassificationData, positions: Sequence[int]) -> dict[Cell, Measured]:
        """Coverage of a suite by strength and draw, going on where a killed run was.

        Args:
            data: The suite.
            positions: Its images, in the order of measuring.
        """
        cells = self.modulated.cells
        held: dict[Cell, Any] = {cell: self.store.read_batch(self._key(cell)) for cell in cells}
        missing = [cell for cell in cells if held[cell] is None]
        if self.store.resumed and len(missing) < len(cells):
            say(f"{self.store.folder}: {len(cells) - len(missing)} of {len(cells)} are finished")
        if missing:
            for cell, one in self._pass(data, positions, missing).items():
                held[cell] = one.measured().to_json()
                self.store.write_batch(self._key(cell), held[cell])
        return {cell: Measured(**held[cell]) for cell in cells}

    def _pass(
        self, data: ClassificationData, positions: Sequence[int], cells: Sequence[Cell]
    ) -> dict[Cell, _Cell]:
        from tqdm import tqdm

        running = {cell: self._begun(cell, data, positions) for cell in cells}
        done = min(one.done for one in running.values())
        steps = [step for step in growth_steps(len(positions)) if step > done]
        saved = time.monotonic()
        title = f"suite at {len(cells)} strengths"
        with tqdm(desc=title, total=len(positions), initial=done, unit="image") as bar:
            # In the steps of `coverage run`, whose sums round alike.
            for step in steps:
                behind = [cell for cell in cells if running[cell].done < step]
                for images in self.subject.images(data, positions[done:step]):
                    for cell, seen in zip(behind, self.modulated.see(images, behind), strict=True):
                        running[cell].take(seen, data, self.settings)
                    bar.update(len(images.positions))
                done = step
                for cell in behind:
                    running[cell].done = step
                if time.monotonic() - saved > _SAVED_EVERY or step == len(positions):
                    self._save([running[cell] for cell in behind])
                    saved = time.monotonic()
        return running

    def _save(self, cells: Sequence[_Cell]) -> None:
        for one in cells:
            # Before the profile, without which it is not read.
            self.store.write_batch(f"correct,{one.name},{one.done}", one.correct)
            one.profile.save(self.store.folder / PROFILES / one.name, position=one.done)

    def _begun(self, cell: Cell, data: ClassificationData, positions: Sequence[int]) -> _Cell:
        name = cell.name(self.store.axes)
        metadata = profile_metadata(self.subject, self.reference, data, positions, self.settings)
        if cell.strength:
            # So that it is not combined with profiles of the unchanged classifier.
            changed = {self.modulated.axis.name: cell.strength, "draw": cell.draw}
            metadata = replace(metadata, settings={**metadata.settings, **changed})
        folder = self.store.folder / PROFILES / name
        # Of a run that was killed while it saved, two files may not belong together.
        with contextlib.suppress(ValueError):
            profile = Profile.load(folder, self._make, metadata)
            done = profile.metadata.position
            correct = self.store.read_batch(f"correct,{name},{done}")
            if correct is not None:
                return _Cell(name, profile, done, correct)
        return _Cell(name, Profile(self._make, metadata), 0, 0)

    def _key(self, cell: Cell) -> str:
        return f"coverage,{cell.name(self.store.axes)}"

    def _make(self) -> dict:
        return make_criteria(self.reference, self.settings)
