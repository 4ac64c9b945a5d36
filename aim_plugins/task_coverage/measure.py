"""Measures tasks and random suites from kept neurons, so that a kill only interrupts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from aim_plugins.core.files import safe_name
from aim_plugins.core.identity import seed_of
from aim_plugins.coverage.criteria.combinations import IDC
from aim_plugins.coverage.gaps import Gap, find_gaps
from aim_plugins.coverage.growth import growth_steps
from aim_plugins.coverage.profile import ALL, Profile, ProfileMetadata
from aim_plugins.coverage.registry import idc_label
from aim_plugins.coverage.results import NOISE, TRAINING, Result, collect, training_values
from aim_plugins.sweep.store import SweepStore
from aim_plugins.task_coverage.kept import KeptNeurons, keep_neurons
from aim_plugins.task_coverage.settings import TaskCoverageSettings
from aim_plugins.task_coverage.subject import Subject, Tokens
from aim_plugins.task_coverage.suite import Suite
from aim_plugins.task_coverage.views import View
from aim_plugins.task_documents import fingerprint_of

_GAPS = 12
"""Gaps that are shown of each set of important neurons."""

Values = dict[str, float]
"""Coverage by label."""


@dataclass
class Measured:
    """What is measured of one view.

    Attributes:
        view: What is covered.
        profile: What all documents have exercised.
        results: Its criteria.
        tasks: The criteria of each task.
        growth: Coverage by the first documents, in random order.
        gaps: Combinations that reference documents reach and the suite does not.
    """

    view: View
    profile: Profile
    results: list[Result]
    tasks: dict[str, list[Result]]
    growth: list[Values]
    gaps: list[Gap] = field(default_factory=list)


class Measurement:
    """A suite, measured into a study's folder.

    Args:
        subject: The model.
        suite: The documents.
        kept: Their neurons.
        settings: The criteria.
        store: The folder.
    """

    def __init__(
        self,
        subject: Subject,
        suite: Suite,
        kept: KeptNeurons,
        settings: TaskCoverageSettings,
        store: SweepStore,
    ) -> None:
        self.subject, self.suite, self.kept = subject, suite, kept
        self.settings, self.store = settings, store

    def measure(self, views: Sequence[View]) -> list[Measured]:
        """Measures everything of all views."""
        noise = self.noise(views)
        return [self._measure(view, noise[view.name]) for view in views]

    def _measure(self, view: View, noise: Mapping[str, list[Values]]) -> Measured:
        suite, tasks = self.suite, {}
        for task, positions in suite.tasks.items():
            profile = self.profile(view, task, positions, {})[0]
            random = {TRAINING: self._random(view, task, len(positions)), NOISE: noise[task]}
            tasks[task] = collect(profile, random, {})
        order = self._shuffled(suite.positions, "order")
        profile, growth = self.profile(view, ALL, order, suite.reported_classes())
        results = collect(profile, {NOISE: noise[ALL]}, training_values(view.reference))
        return Measured(view, profile, results, tasks, growth, self._gaps(view, profile))

    def profile(
        self, view: View, name: str, positions: Sequence[int], classes: Mapping[int, str]
    ) -> tuple[Profile, list[Values]]:
        """What documents have exercised, measured once.

        Args:
            view: What is covered.
            name: Of the task, or `ALL`.
            positions: The documents, in the order of measuring.
            classes: Names by index of the classes that are measured apart.

        Returns:
            The profile, and coverage at rising numbers of documents.
        """
        folder = self.store.folder / "profile" / view.name / safe_name(name)
        metadata, key = self._metadata(view, name, positions), f"growth,{view.name},{name}"
        held = self.store.read_batch(key)
        if held is not None and (folder / "profile.json").exists():
            return Profile.load(folder, view.make, metadata).with_classes(classes), held
        profile, growth, done = Profile(view.make, metadata, classes), [], 0
        for step in growth_steps(len(positions)) if name == ALL else [len(positions)]:
            for _, batch in view.batches(self.kept, positions[done:step], self.suite.classes):
                profile.update(batch)
            values = {label: one.value for label, one in profile.criteria.items()}
            growth.append({"inputs": float(profile.inputs), **values})
            done = step
        profile.save(folder, position=len(positions))
        self.store.write_batch(key, growth)
        return profile, growth

    def _metadata(self, view: View, name: str, positions: Sequence[int]) -> ProfileMetadata:
        reference = view.reference
        documents = self.suite.at(sorted(positions))
        sha256 = fingerprint_of(documents)
        return ProfileMetadata(
            method="coverage",
            sites=list(reference.layers.names),
            base_model=self.settings.model,
            model_signature=reference.metadata.model_signature,
            versions=reference.metadata.versions,
            data_sha256=sha256,
            reference=reference.identity,
            settings=self.settings.constants,
            parts=[sha256],
            data=list(self.suite.tasks) if name == ALL else [name],
        )

    def _random(self, view: View, task: str, size: int) -> list[Values]:
        """Coverage by as many documents drawn from all tasks; none of a task that is all."""
        if len(self.suite.tasks) < 2:
            return []
        found = []
        for draw in range(self.settings.baselines):
            key = f"random,{view.name},{task},{draw}"
            if (held := self.store.read_batch(key)) is None:
                chosen = self._shuffled(self.suite.positions, f"{task},{draw}")[:size]
                held = view.values(self.kept, chosen, self.suite.classes)
                self.store.write_batch(key, held)
            found.append(held)
        return found

    def noise(self, views: Sequence[View]) -> dict[str, dict[str, list[Values]]]:
        """Coverage by texts of random tokens, one as long as each document.

        Returns:
            Values of each draw, by task and of all, by view.
        """
        scopes = {**self.suite.tasks, ALL: self.suite.positions}
        found: dict[str, dict[str, list[Values]]] = {
            view.name: {scope: [] for scope in scopes} for view in views
        }
        for draw in range(self.settings.baselines):
            if (held := self.store.read_batch(f"noise,{draw}")) is None:
                held = self._draw_noise(views, scopes, draw)
                self.store.write_batch(f"noise,{draw}", held)
            for name, by_scope in held.items():
                for scope, values in by_scope.items():
                    found[name][scope].append(values)
        return found

    def _draw_noise(
        self, views: Sequence[View], scopes: Mapping[str, Sequence[int]], draw: int
    ) -> dict[str, dict[str, Values]]:
        positions = self.suite.positions
        generator = torch.Generator().manual_seed(seed_of(self.settings.seed, "noise", draw))
        lengths = [len(self.suite.tokens[one].ids) for one in positions]
        tokens = random_tokens(self.subject, lengths, generator)
        kept = keep_neurons(
            *(self.subject, tokens, self.store, f"noise-{draw}.f32"),
            f"random tokens {draw + 1}",
        )
        place = {position: index for index, position in enumerate(positions)}
        classes = self.suite.classes[positions]
        found = {
            view.name: {
                scope: view.values(kept, [place[one] for one in chosen], classes)
                for scope, chosen in scopes.items()
            }
            for view in views
        }
        kept.path.unlink()
        return found

    def _gaps(self, view: View, profile: Profile) -> list[Gap]:
        """What reference documents reach and the suite does not, with the nearest documents."""
        gaps: list[Gap] = []
        positions = torch.tensor(self.suite.positions)
        for place, one in enumerate(view.reference.important):
            idc = profile.criteria[idc_label(place, one.neurons.label)]
            assert isinstance(idc, IDC)
            batches = view.batches(self.kept, self.suite.positions, self.suite.classes)
            columns = list(one.neurons.columns)
            values = torch.cat([batch.neurons[:, columns] for _, batch in batches])
            own = torch.ones(len(positions), dtype=torch.bool)
            if one.class_index is not None:
                own = self.suite.classes[positions] == one.class_index
            gaps += find_gaps(idc, one, values[own], positions[own], _GAPS)
        return gaps

    def _shuffled(self, positions: Sequence[int], purpose: str) -> list[int]:
        generator = torch.Generator().manual_seed(seed_of(self.settings.seed, purpose))
        order = torch.randperm(len(positions), generator=generator)
        return [positions[one] for one in order.tolist()]


def random_tokens(
    subject: Subject, lengths: Sequence[int], generator: torch.Generator
) -> list[Tokens]:
    """Texts of tokens that are drawn evenly from the vocabulary, without special ones.

    Args:
        subject: Whose vocabulary it is.
        lengths: Tokens of each text.
        generator: Draws them.
    """
    size = min(len(subject.tokenizer), subject.model.get_input_embeddings().num_embeddings)
    special = set(subject.tokenizer.all_special_ids)
    usual = torch.tensor([one for one in range(size) if one not in special])
    drawn = (usual[torch.randint(len(usual), (one,), generator=generator)] for one in lengths)
    return [Tokens(tuple(one.tolist()), 0) for one in drawn]
