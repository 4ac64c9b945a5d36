"""What is covered: neurons, or scores along directions, each with its reference and criteria.

Everything behind the pass of the model treats both alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.core.commands import say
from aim_plugins.core.errors import first_few
from aim_plugins.coverage.criteria.criterion import Batch, Criterion
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.learning import Values, choose_neurons, cluster_sets
from aim_plugins.coverage.reference import (
    ImportantSet,
    Reference,
    ReferenceBuilder,
    ReferenceMetadata,
)
from aim_plugins.coverage.registry import make_criteria
from aim_plugins.coverage.relevance.relevance import Relevance
from aim_plugins.coverage.relevance.scores_file import read_scores
from aim_plugins.coverage.settings import CriteriaSettings
from aim_plugins.task_coverage.directions import DIRECTIONS, OF_DIRECTIONS, direction_criteria
from aim_plugins.task_coverage.kept import KeptNeurons
from aim_plugins.task_coverage.relevance import answer_relevance
from aim_plugins.task_coverage.settings import TaskCoverageSettings
from aim_plugins.task_coverage.subject import Subject
from aim_plugins.task_coverage.suite import Suite
from aim_plugins.task_documents import answer_names, fingerprint_of

NEURONS = "neurons"


@dataclass(frozen=True, eq=False)
class View:
    """What is covered.

    Attributes:
        name: "neurons" or "directions".
        reference: What is known of the reference documents.
        settings: The criteria.
    """

    name: str
    reference: Reference
    settings: TaskCoverageSettings

    def make(self) -> dict[str, Criterion]:
        """Criteria that have seen nothing, by label."""
        if self.name == DIRECTIONS:
            return direction_criteria(self.reference, self.settings)
        return make_criteria(self.reference, self.settings)

    def batches(
        self, kept: KeptNeurons, positions: Sequence[int], classes: Int[Tensor, " documents"]
    ) -> Iterator[tuple[Int[Tensor, " inputs"], Batch]]:
        """What the criteria see of documents; see `KeptNeurons.batches`."""
        return kept.batches(positions, classes, directions=self.name == DIRECTIONS)

    def values(
        self, kept: KeptNeurons, positions: Sequence[int], classes: Int[Tensor, " documents"]
    ) -> dict[str, float]:
        """Coverage by documents, by label."""
        criteria = self.make()
        for _, batch in self.batches(kept, positions, classes):
            for one in criteria.values():
                one.update(batch)
        return {label: one.value for label, one in criteria.items()}


def learn_views(
    subject: Subject, suite: Suite, kept: KeptNeurons, settings: TaskCoverageSettings, folder: Path
) -> list[View]:
    """The views, whose references are learned from documents unless they lie in a folder.

    Args:
        subject: The model.
        suite: The documents.
        kept: Their neurons.
        settings: The criteria.
        folder: Where the references are kept.

    Raises:
        ValueError: If a setting does not fit the model, or the documents are too few.
    """
    views = []
    for name in (NEURONS, DIRECTIONS) if subject.directions else (NEURONS,):
        own = folder if name == NEURONS else folder / name
        if (own / "reference.json").exists():
            reference = Reference.load(own)
        elif settings.reference is not None:
            given = Path(settings.reference)
            reference = open_reference(
                subject, settings, given if name == NEURONS else given / name
            )
            reference.save(own)
        else:
            reference = _learn(name, subject, suite, kept, settings)
            reference.save(own)
        views.append(View(name, reference, settings))
    return views


def layers_of(name: str, subject: Subject) -> Layers:
    """The columns of a view."""
    if name == DIRECTIONS:
        assert subject.directions is not None  # there is no such view without
        return subject.directions.columns
    return subject.layers


def open_reference(subject: Subject, settings: TaskCoverageSettings, folder: Path) -> Reference:
    """Reads the reference that a setting names.

    Raises:
        ValueError: If it belongs to another model or layers, lacks what a criterion needs, or was
            learned with other settings.
    """
    reference = Reference.load(folder)
    reference.check_model(subject.model)
    name = reference.metadata.method
    view = DIRECTIONS if name == DIRECTIONS else NEURONS
    if reference.layers != layers_of(view, subject):
        raise ValueError(
            f"reference={str(folder)!r} holds {first_few(reference.layers.names)}, where this run "
            f"looks at {first_few(layers_of(view, subject).names)}: measure with the same modules "
            "and directions"
        )
    held = reference.metadata.settings.get("criteria", ())
    wanted = [one for one in settings.criteria if view == NEURONS or one in OF_DIRECTIONS]
    if missing := [one for one in wanted if one not in held]:
        raise ValueError(
            f"reference={str(folder)!r} was learned for {', '.join(held)}: it lacks what "
            f"{', '.join(missing)} needs; learn another, or leave them out of criteria"
        )
    if view == NEURONS:
        reference.check_settings(settings.learned_with, str(folder))
    say(f"reference: {folder}, {reference.metadata.inputs} documents")
    return reference


def _learn(
    name: str, subject: Subject, suite: Suite, kept: KeptNeurons, settings: TaskCoverageSettings
) -> Reference:
    layers, positions = layers_of(name, subject), suite.reference_positions
    how: CriteriaSettings = settings
    if name == DIRECTIONS:
        # Of a few scores that nobody shares between classes, ranges are all there is to learn.
        chosen = [one for one in settings.criteria if one in OF_DIRECTIONS]
        how = CriteriaSettings(criteria=chosen or ["KMNC"])
    builder = ReferenceBuilder(layers, how, len(positions))
    in_view = View(name, _EMPTY, settings)
    for _, batch in in_view.batches(kept, positions, suite.classes):
        builder.update(batch)
    important: list[ImportantSet] = []
    if name == NEURONS and "IDC" in settings.criteria:
        important = _important(subject, suite, kept, settings)
    documents = suite.at(positions)
    metadata = ReferenceMetadata.of_model(
        subject.model,
        sites=layers.names,
        method=DIRECTIONS if name == DIRECTIONS else settings.attr,
        sizes=list(layers.sizes),
        inputs=builder.inputs,
        data=", ".join(settings.learned_from),
        classes=answer_names(documents),
        data_sha256=fingerprint_of(documents),
        settings=settings.learned_with,
        surprise_layer=builder.surprise_layer,
        important=[
            {"label": one.neurons.label, "class_index": one.class_index} for one in important
        ],
    )
    return builder.finish(important, replace(metadata, base_model=settings.model))


def _important(
    subject: Subject, suite: Suite, kept: KeptNeurons, settings: TaskCoverageSettings
) -> list[ImportantSet]:
    """The sets of important neurons, clustered on the reference documents."""
    positions = suite.reference_positions
    names = answer_names(suite.at(positions))
    classes = suite.classes[positions]
    scores: Float[Tensor, " neurons"] | Relevance
    if settings.importance_file is not None:
        scores = read_scores(settings.importance_file, subject.layers)
    else:
        from tqdm import tqdm

        with tqdm(desc="reference: relevance", total=len(positions), unit="document") as bar:
            tokens = [suite.tokens[place] for place in positions]
            scores = answer_relevance(subject, tokens, classes, len(names), bar.update)
    chosen = choose_neurons(subject.layers, scores, settings, names)
    batches = ((places, batch) for places, batch in kept.batches(positions, suite.classes))
    values = Values.read(chosen, batches)
    return cluster_sets(subject.layers, chosen, values, settings.clusters)


_EMPTY = Reference(
    Layers((), ()), torch.empty(0), torch.empty(0), None, None, (), ReferenceMetadata("", ())
)
"""Stands for a reference that is being learned."""
