"""Learns a reference from a classifier's training images, or reads one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from aim_plugins.core.commands import say
from aim_plugins.core.files import sha256_of
from aim_plugins.coverage.criteria.covariance import check_covariances
from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.learning import (
    Chosen,
    Values,
    choose_neurons,
    cluster_sets,
    subject_layer,
)
from aim_plugins.coverage.reference import (
    ImportantSet,
    Reference,
    ReferenceBuilder,
    ReferenceMetadata,
    surprise_layer,
)
from aim_plugins.coverage.relevance.relevance import Relevance
from aim_plugins.coverage.relevance.scores_file import read_scores
from aim_plugins.coverage.settings import (
    WISDOM,
    CriteriaSettings,
    ImportanceSettings,
    VoteSettings,
)
from aim_plugins.sweep.store import SweepStore
from vision_bench.coverage.scoring import relevance_of, vote
from vision_bench.coverage.settings import CoverageSettings, TrainedSettings
from vision_bench.coverage.subject import Seen, Subject
from vision_bench.data.classification import ClassificationData

REFERENCE = "reference"
"""Folder of the reference in that of a study."""


def judged(seen: Seen, data: ClassificationData, settings: CriteriaSettings) -> Batch:
    """Neurons with the class by which surprise compares: the predicted one, or what compat takes.

    Args:
        seen: What a pass says of images.
        data: Where they are from.
        settings: Whose `compat` says which.
    """
    if settings.compat == "none":
        return seen.batch
    return Batch(seen.batch.neurons, data.labels[seen.positions])


def learn_reference(
    subject: Subject, training: ClassificationData, settings: CoverageSettings
) -> Reference:
    """Learns what the criteria need of the training images.

    Args:
        subject: The classifier.
        training: Its training images.
        settings: Which criteria, and which neurons matter.

    Raises:
        ValueError: If a setting does not fit the model, or the images are too few.
    """
    builder = ReferenceBuilder(subject.layers, settings, len(training))
    for seen in subject.pass_over(training, title="training set: ranges"):
        builder.update(judged(seen, training, settings))
    important: list[ImportantSet] = []
    if "IDC" in settings.criteria:
        chosen = find_important(subject, training, settings)
        values = Values.read(chosen, _positioned(subject, training))
        important = cluster_sets(subject.layers, chosen, values, settings.clusters)
    metadata = ReferenceMetadata.of_model(
        subject.module,
        sites=subject.layers.names,
        method=settings.attr if settings.importance_file is None else "file",
        sizes=list(subject.layers.sizes),
        inputs=builder.inputs,
        data=training.title,
        classes=list(training.classes),
        data_sha256=training.fingerprint,
        settings=learned_with(settings),
        surprise_layer=builder.surprise_layer,
        important=[
            {"label": one.neurons.label, "class_index": one.class_index} for one in important
        ],
    )
    return builder.finish(important, replace(metadata, base_model=subject.model.name))


def check_fit(subject: Subject, training: ClassificationData, settings: CoverageSettings) -> None:
    """Refuses, before anything is measured, what a reference could not be learned with.

    Raises:
        ValueError: If a layer or a neuron of the file of scores does not exist, the training images
            are fewer than clusters, or covariances of NLC would take too much memory.
    """
    layers = subject.layers
    surprise_layer(layers, settings)
    if "NLC" in settings.criteria:
        check_covariances(layers)
    if "IDC" not in settings.criteria:
        return
    subject_layer(layers, settings.layer_index)
    if settings.importance_file is not None:
        read_scores(settings.importance_file, layers)
    least = 2 if settings.use_silhouette else settings.n_clusters
    if len(training) < least:
        raise ValueError(
            f"n_clusters={least}: {len(training)} training images cannot make that many clusters; "
            "give more (train_limit), or fewer clusters"
        )


def find_important(
    subject: Subject, training: ClassificationData, settings: CoverageSettings
) -> list[Chosen]:
    """The sets of neurons that matter, by an attributor, the vote of several, or a file of scores.

    Raises:
        ValueError: If a setting or file does not fit the model.
    """
    scores: Shaped[Tensor, " neurons"] | Relevance
    if settings.importance_file is not None:
        scores = read_scores(settings.importance_file, subject.layers)
    elif settings.attr == WISDOM:
        scores = vote(subject, training, VoteSettings())[0].points.double()
    else:
        scores = relevance_of(subject, training, settings.attr)
    return choose_neurons(subject.layers, scores, settings, training.classes)


def learned_with(settings: CoverageSettings) -> dict[str, Any]:
    """The settings that a reference depends on, as JSON."""
    importance = {name: getattr(settings, name) for name in asdict(ImportanceSettings())}
    if settings.importance_file is not None:
        # The same file may hold other scores another day.
        importance["importance_sha256"] = sha256_of(settings.importance_file)
    chosen = {"criteria": sorted(settings.criteria), "compat": settings.compat}
    names = ("surprise_layer", "surprise_inputs", "train_limit")
    surprise = {name: getattr(settings, name) for name in names}
    return importance | chosen | surprise | {"modules": list(settings.modules)}


def measured_with(settings: CoverageSettings) -> dict[str, object]:
    """The settings that coverage of a suite depends on, as JSON."""
    names = ("dataset", "split", "limit", "num_samples", "idc_test_all", "seed", "train_split")
    own = {name: getattr(settings, name) for name in (*names, *_CONSTANTS)}
    return {"model": settings.model_name, **own, **learned_with(settings)}


_CONSTANTS = (
    "nc_threshold", "kmnc_buckets", "top_k", "cc_threshold", "lsc_width", "dsc_width",
    "mdsc_width",
)  # fmt: skip
"""Settings of the criteria that a reference does not depend on."""


def keep_reference(
    store: SweepStore,
    subject: Subject,
    training: ClassificationData | None,
    given: Reference | None,
    settings: CoverageSettings,
) -> Reference:
    """The reference of a study, kept in its folder: the given one, or one that is learned once.

    Args:
        store: The study's folder.
        subject: The classifier.
        training: Its training images; None where a reference is given.
        given: The reference that a setting names.
        settings: Which criteria, and which neurons matter.

    Raises:
        SweepMismatchError: If the folder holds results with another reference.
        ValueError: If that was given before, and is not of these training images.
    """
    folder = store.folder / REFERENCE
    if given is not None:
        store.pin_manifest(reference=given.fingerprint)
        given.save(folder)
        return given
    assert training is not None  # `load_subject` loads one of the two
    store.pin_manifest(training_fingerprint=training.fingerprint)
    if (folder / f"{REFERENCE}.json").exists():
        held = Reference.load(folder)
        if held.metadata.data_sha256 != training.fingerprint:
            raise ValueError(
                f"{folder} was learned from {held.metadata.data}, not from these training images: "
                "give the reference that this run began with, or choose another output"
            )
        say(f"{folder} is finished and kept")
        return held
    reference = learn_reference(subject, training, settings)
    store.pin_manifest(reference=reference.fingerprint)
    reference.save(folder)
    return reference


def _positioned(
    subject: Subject, training: ClassificationData
) -> Iterator[tuple[Int[Tensor, " images"], Batch]]:
    for seen in subject.pass_over(training, title="training set: clusters"):
        yield seen.positions, seen.batch


def open_reference(settings: CoverageSettings, subject: Subject) -> Reference:
    """Reads the reference that a setting names.

    Raises:
        ValueError: If it belongs to another model, or lacks what a criterion needs.
    """
    assert settings.reference is not None  # asked by the caller
    reference = Reference.load(settings.reference)
    reference.check_model(subject.module)
    if reference.layers != subject.layers:
        raise ValueError(
            f"reference={settings.reference!r} holds {len(reference.layers.names)} layers, where "
            f"modules choose {len(subject.layers.names)}: measure with the same modules"
        )
    held = reference.metadata.settings.get("criteria", ())
    if missing := [name for name in settings.criteria if name not in held]:
        raise ValueError(
            f"reference={settings.reference!r} was learned for {', '.join(held)}: it lacks what "
            f"{', '.join(missing)} needs; learn another, or leave them out of criteria"
        )
    reference.check_settings(learned_with(settings), settings.reference)
    say(f"reference: {settings.reference}, {reference.metadata.inputs} training inputs")
    return reference


def all_positions(data: ClassificationData, settings: TrainedSettings) -> list[int]:
    """The positions of a suite's images in the order of measuring: random, by the seed."""
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(len(data), generator=generator).tolist()
    few = settings.num_samples and not settings.idc_test_all
    return order[: settings.num_samples] if few else order
