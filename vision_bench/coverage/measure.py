"""Measures a suite, and random suites of its size, in passes that a kill only interrupts."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.core.commands import say
from aim_plugins.core.identity import fingerprint, seed_of
from aim_plugins.coverage.growth import growth_steps
from aim_plugins.coverage.profile import Profile, ProfileMetadata
from aim_plugins.coverage.reference import Reference
from aim_plugins.coverage.registry import make_criteria
from aim_plugins.coverage.settings import CriteriaSettings
from aim_plugins.sweep.store import SweepStore
from vision_bench.coverage.learn import judged
from vision_bench.coverage.settings import CoverageSettings
from vision_bench.coverage.subject import Images, Subject
from vision_bench.data.classification import ClassificationData

_SAVED_EVERY = 30.0
"""Seconds between two savings of a profile in the making."""

Values = dict[str, float]
"""Coverage by label."""


def part_of(data: ClassificationData, positions: Sequence[int]) -> str:
    """Names a part of a suite by its contents."""
    chosen = sorted(data.names[position] for position in positions)
    return fingerprint([data.fingerprint, hashlib.sha256("\n".join(chosen).encode()).hexdigest()])


def profile_metadata(
    subject: Subject,
    reference: Reference,
    data: ClassificationData,
    positions: Sequence[int],
    settings: CriteriaSettings,
) -> ProfileMetadata:
    """What a profile of a part of a suite is measured with."""
    own = {name: getattr(settings, name) for name in asdict(CriteriaSettings())}
    own |= {"criteria": list(settings.criteria), "modules": list(settings.modules)}
    return ProfileMetadata(
        method="coverage",
        sites=list(reference.layers.names),
        base_model=subject.model.name,
        model_signature=reference.metadata.model_signature,
        versions=reference.metadata.versions,
        data_sha256=data.fingerprint,
        reference=reference.identity,
        settings=own,
        parts=[part_of(data, positions)],
        data=[data.title],
    )


@dataclass(frozen=True)
class Answers:
    """What a classifier answered to a suite.

    Attributes:
        right: Number of right answers.
        never: Classes of the suite that it never predicted.
    """

    right: int
    never: tuple[str, ...]


class Measurement:
    """A suite, measured into a folder.

    Args:
        subject: The classifier.
        reference: What the criteria know of the training set.
        settings: The criteria.
        store: The study's folder.
    """

    def __init__(
        self,
        subject: Subject,
        reference: Reference,
        settings: CoverageSettings,
        store: SweepStore,
    ) -> None:
        self.subject, self.reference = subject, reference
        self.settings, self.store = settings, store

    def profile(
        self,
        data: ClassificationData,
        positions: Sequence[int],
        classes: Mapping[int, str],
    ) -> Profile:
        """Measures a suite, going on where a killed run was.

        Args:
            data: The suite.
            positions: Its images, in the order of measuring.
            classes: Names by index of the classes that are measured apart.
        """
        from tqdm import tqdm

        folder = self.store.folder / "profile"
        metadata = profile_metadata(self.subject, self.reference, data, positions, self.settings)
        profile, done = self._begun(folder, metadata, classes)
        steps = [step for step in growth_steps(len(positions)) if step > done]
        answers = self.store.read_batch(f"answers,{done}") or [[0, 0, 0] for _ in data.classes]
        saved = time.monotonic()
        with tqdm(desc="suite", total=len(positions), initial=done, unit="image") as bar:
            for step in steps:
                for seen in self.subject.pass_over(data, positions[done:step]):
                    profile.update(judged(seen, data, self.settings))
                    bar.update(len(seen.batch))
                    _count_answers(answers, seen.batch.classes, data.labels[seen.positions])
                done = step
                self.store.write_batch(f"answers,{step}", answers)
                values = {label: one.value for label, one in profile.criteria.items()}
                self.store.write_batch(
                    f"growth,{step}", {"inputs": float(profile.inputs), **values}
                )
                if time.monotonic() - saved > _SAVED_EVERY and step < steps[-1]:
                    profile.save(folder, position=step)
                    saved = time.monotonic()
        if steps:
            profile.save(folder, position=len(positions))
        return profile

    def _begun(
        self, folder: Path, metadata: ProfileMetadata, classes: Mapping[int, str]
    ) -> tuple[Profile, int]:
        if (folder / "profile.json").exists():
            try:
                profile = Profile.load(folder, self._make, metadata).with_classes(classes)
                return profile, profile.metadata.position
            except ValueError as error:
                # The manifest holds the settings and the reference: it is a file that was cut short
                # when a run was killed while it saved.
                say(f"measuring again from the first image: {error}")
        return Profile(self._make, metadata, classes), 0

    def answers(self, count: int, data: ClassificationData) -> Answers:
        """What the model answered to a suite that was measured."""
        found = self.store.read_batch(f"answers,{count}") or []
        never = [
            name
            for name, (labelled, predicted, _) in zip(data.classes, found, strict=True)
            if labelled and not predicted
        ]
        return Answers(sum(right for _, _, right in found), tuple(never))

    def growth(self, count: int) -> list[Values]:
        """Coverage by the first images of the suite, at rising numbers of them."""
        found = (self.store.read_batch(f"growth,{step}") for step in growth_steps(count))
        return [one for one in found if one is not None]

    def training_suite(self, training: ClassificationData, size: int, draw: int) -> Values:
        """Coverage by training images drawn at random."""
        key = f"random,training,{size},{draw}"
        if (found := self.store.read_batch(key)) is None:
            generator = torch.Generator().manual_seed(seed_of(self.settings.seed, draw))
            positions = torch.randperm(len(training), generator=generator)[:size].tolist()
            criteria = self._make()
            title = f"random training images {draw + 1}"
            for seen in self.subject.pass_over(training, positions, title):
                for one in criteria.values():
                    one.update(judged(seen, training, self.settings))
            found = {label: one.value for label, one in criteria.items()}
            self.store.write_batch(key, found)
        return found

    def noise_suite(self, size: int, draw: int, like: Float[Tensor, "1 3 height width"]) -> Values:
        """Coverage by images of uniform noise, whose class is what the model predicts.

        Args:
            size: Number of images.
            draw: Index of the draw.
            like: An image of the suite; of a grey one, noise is grey too.
        """
        key = f"random,noise,{size},{draw}"
        if (found := self.store.read_batch(key)) is None:
            seed = seed_of(self.settings.seed, draw)
            criteria = self._make()
            for seen in self.subject.see(self._noise(size, seed, like)):
                for one in criteria.values():
                    one.update(seen.batch)
            found = {label: one.value for label, one in criteria.items()}
            self.store.write_batch(key, found)
        return found

    def _noise(
        self, size: int, seed: int, like: Float[Tensor, "1 3 height width"]
    ) -> Iterator[Images]:
        generator = torch.Generator().manual_seed(seed)
        preprocessing = self.subject.model.preprocessing
        mean, std = (
            torch.tensor(list(one))[:, None, None]
            for one in (preprocessing.mean, preprocessing.std)
        )
        pixels = like * std + mean
        # Independent channels would be paler noise to a model that takes their mean.
        channels = 1 if bool((pixels - pixels[:, :1]).abs().max() < 1e-4) else 3
        height, width = like.shape[-2:]
        for start in range(0, size, self.subject.batch_size):
            positions = torch.arange(start, min(size, start + self.subject.batch_size))
            drawn = torch.rand(len(positions), channels, height, width, generator=generator)
            noise = (drawn.expand(-1, 3, -1, -1) - mean) / std
            yield Images(positions, noise.to(self.subject.device))

    def _make(self) -> dict:
        return make_criteria(self.reference, self.settings)


def _count_answers(
    answers: list[list[int]], predicted: Int[Tensor, " images"], labels: Int[Tensor, " images"]
) -> None:
    """Adds to the numbers of labels, of predictions and of right ones of each class."""
    for one, label in zip(predicted.tolist(), labels.tolist(), strict=True):
        answers[label][0] += 1
        answers[one][1] += 1
        answers[one][2] += one == label
