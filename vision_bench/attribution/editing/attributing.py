"""Attributions of the images that an edit is made of: the targets, then the references."""

from __future__ import annotations

from pathlib import Path

import torch

from aim_plugins.attribution.attributions import Attributions
from aim_plugins.attribution.dataset import ComponentDataset, build
from aim_plugins.attribution.fit import fit_attributions
from aim_plugins.attribution.plan import DatasetPlan
from aim_plugins.core.commands import say
from aim_plugins.core.identity import fingerprint
from aim_plugins.modulation.components import Components
from vision_bench.attribution.choices import ATTRIBUTIONS, DATASET
from vision_bench.attribution.editing.problem import Problem
from vision_bench.attribution.editing.settings import EditSettings
from vision_bench.attribution.stages import tell_progress
from vision_bench.attribution.subject import ClassifierSubject, read_images
from vision_bench.models.model import VisionModel


def attribute(
    settings: EditSettings,
    model: VisionModel,
    components: Components,
    problem: Problem,
    folder: Path,
) -> Attributions:
    """Attributes targets and references to components; what was computed before is kept.

    Args:
        settings: How.
        model: The classifier, on its device.
        components: The components.
        problem: Whose images they are.
        folder: Where outputs under masks, and attributions, are written.

    Raises:
        ValueError: If an image cannot be read.
    """
    names: list[str] = []
    images, labels = [], []
    for data in (problem.targets, problem.references):
        places, read = read_images(data, range(len(data)), settings.workers)
        if len(places) < len(data):
            name, reason = next(iter(data.unreadable.items()))
            raise ValueError(
                f"{name} was to be attributed and cannot be read ({reason}): take it out of the "
                "data, or give another seed"
            )
        images.append(read)
        labels.append(data.labels)
        names += data.names
    subject = ClassifierSubject(
        model,
        components,
        torch.cat(images),
        torch.cat(labels),
        settings.output_fn,
        settings.batch_size,
    )
    plan = DatasetPlan.of(
        subject,
        output=settings.output_fn,
        masks=settings.num_ablations,
        alpha=settings.alpha,
        gradient_passes=settings.gradient_passes,
        seed=settings.seed,
        examples=names,
        data_sha256=fingerprint([problem.targets.identity(), problem.references.identity()]),
    )
    say(f"{len(names)} images are attributed to {len(components)} components")
    build(plan, subject, folder / DATASET, after=tell_progress())
    attributions = fit_attributions(
        ComponentDataset.load(folder / DATASET), prior=settings.prior, penalty=settings.penalty
    )
    attributions.save(folder / ATTRIBUTIONS)
    return attributions
