"""The stages of an attribution: a component dataset is built, and attributions are fitted to it.

OUTPUT/
  dataset/        outputs under masks: blocks/ while it is built, then one file
  attributions/   what each component adds to each image's output
  evaluation/     how far they can be trusted, see `study`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from aim_plugins.attribution.attributions import (
    PUBLISHED,
    AttributionMetadata,
    Attributions,
    read_published,
)
from aim_plugins.attribution.dataset import ComponentDataset, build, merge, missing_blocks
from aim_plugins.attribution.fit import fit_attributions
from aim_plugins.attribution.plan import DatasetPlan
from aim_plugins.core.commands import keeping_finished_work, say
from aim_plugins.core.errors import first_few
from vision_bench.attribution.choices import ATTRIBUTIONS, DATASET
from vision_bench.attribution.settings import (
    AttributionSettings,
    BuildSettings,
    ImportSettings,
    MergeSettings,
)
from vision_bench.attribution.subject import Loaded, load_subject
from vision_bench.data.dataset import list_left_out

_SECONDS = 10.0
"""Between two words on how far a build is."""


class BuildStage:
    """`vision-bench attribute build`: outputs under masks, block by block.

    Args:
        settings: Model, data, components and masks.
        command: The words that repeat it.
    """

    def __init__(self, settings: BuildSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command = settings, command

    def run(self) -> bool:
        """Builds what is missing of the shard; returns whether the dataset is whole."""
        settings = self.settings
        with keeping_finished_work():
            loaded = load_subject(settings)
            tell_subject(loaded)
            whole = build_dataset(settings, loaded, settings.folder, settings.part)
        folder = settings.folder / DATASET
        if whole:
            print(f"{folder} is whole: fit it by `vision-bench attribute fit`")
        else:
            lacking = missing_blocks(plan_dataset(settings, loaded), folder)
            print(
                f"{folder} lacks {len(lacking)} blocks of other shards, such as "
                f"{first_few([one.words for one in lacking], 1)}: build these too"
            )
        return whole


class MergeStage:
    """`vision-bench attribute merge`: shards that were built in several folders.

    Args:
        settings: The folders.
        command: The words that repeat it.
    """

    def __init__(self, settings: MergeSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command = settings, command

    def run(self) -> Path:
        """Puts them together; returns the dataset's folder."""
        folders = [Path(one, DATASET) for one in self.settings.folders]
        folder = merge(folders, self.settings.output / DATASET)
        print(f"{folder} is whole: give --output {self.settings.output} to `attribute fit`")
        return folder


class FitStage:
    """`vision-bench attribute fit`: attributions from a dataset that is whole, without the model.

    Args:
        settings: The dataset's folder, and how to fit.
        command: The words that repeat it.
    """

    def __init__(self, settings: AttributionSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command = settings, command

    def run(self) -> Attributions:
        """Fits and writes them; returns them."""
        settings = self.settings
        dataset = open_dataset(settings)
        start = time.monotonic()
        found = fit_attributions(dataset, prior=settings.prior, penalty=settings.penalty)
        folder = found.save(settings.folder / ATTRIBUTIONS)
        examples, components = found.weights.shape
        print(
            f"{folder}: {components} components of {examples} images, from {dataset.plan.masks} "
            f"masks and {dataset.plan.gradient_passes} gradients, in "
            f"{time.monotonic() - start:.1f} s"
        )
        return found


class ImportStage:
    """`vision-bench attribute import`: attributions that others published, for these images.

    Args:
        settings: The file, and of which model, components and images it is.
        command: The words that repeat it.
    """

    def __init__(self, settings: ImportSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command = settings, command

    def run(self) -> Attributions:
        """Reads and writes them; returns them."""
        settings = self.settings
        if (settings.folder / DATASET).exists():
            raise ValueError(
                f"output={str(settings.folder)!r} holds a component dataset, of which attributions "
                "are fitted: name another folder for those that are published"
            )
        loaded = load_subject(settings)
        tell_subject(loaded)
        held = read_published(
            settings.published, loaded.components, settings.alpha, output=settings.output_fn
        )
        rows = self._rows(loaded, len(held.weights))
        metadata = AttributionMetadata.of_model(
            loaded.subject.model,
            sites=held.metadata.sites,
            method=held.metadata.method,
            components=held.metadata.components,
            examples=loaded.names,
            output=settings.output_fn,
            alpha=settings.alpha,
            masks=settings.masks,
            data_sha256=loaded.fingerprint,
        )
        found = Attributions(held.weights[rows], held.intercepts[rows], metadata)
        folder = found.save(settings.folder / ATTRIBUTIONS)
        print(
            f"{folder}: {len(loaded.components)} components of {len(rows)} of the "
            f"{len(held.weights)} images of {settings.published.name}; check them by "
            "`vision-bench attribute evaluate`"
        )
        return found

    def _rows(self, loaded: Loaded, count: int) -> list[int]:
        """Which of the file's images are those that are named here."""
        settings, images = self.settings, len(loaded.data)
        if count == images and settings.limit is None:
            return list(loaded.positions)
        if count == len(loaded.positions):
            return list(range(count))
        raise ValueError(
            f"published={str(settings.published)!r} has attributions of {count} images: they are "
            f"neither all {images} of {loaded.data.title} nor the {len(loaded.positions)} that "
            "examples and limit leave; give the split that its authors attributed, whole"
        )


def plan_dataset(settings: AttributionSettings, loaded: Loaded) -> DatasetPlan:
    """What is measured of a subject.

    Raises:
        ValueError: If there are too few masks.
    """
    return DatasetPlan.of(
        loaded.subject,
        output=settings.output_fn,
        masks=settings.num_ablations,
        alpha=settings.alpha,
        gradient_passes=settings.gradient_passes,
        seed=settings.seed,
        examples=loaded.names,
        data_sha256=loaded.fingerprint,
    )


def build_dataset(
    settings: AttributionSettings, loaded: Loaded, folder: Path, shard: tuple[int, int] = (1, 1)
) -> bool:
    """Builds what is missing of a shard, and says how far it is.

    Args:
        settings: Which masks.
        loaded: The model, and the images.
        folder: Folder of results.
        shard: Which shard, from 1, of how many.

    Returns:
        Whether all shards are there.

    Raises:
        ValueError: If the folder holds another dataset.
        OSError: If a file cannot be written.
    """
    plan = plan_dataset(settings, loaded)
    return build(plan, loaded.subject, folder / DATASET, shard=shard, after=tell_progress())


def tell_progress(what: str = "blocks of masks") -> Callable[[int, int], None]:
    """Says now and then how many of how many are there; the last one always."""
    last = time.monotonic()

    def tell(done: int, count: int) -> None:
        nonlocal last
        if done == count or time.monotonic() - last > _SECONDS:
            last = time.monotonic()
            say(f"{what}: {done} of {count}")

    return tell


def tell_subject(loaded: Loaded) -> None:
    """Says what is attributed to what, and which images were left out."""
    layers = len(loaded.components.sites)
    say(
        f"{len(loaded.components)} components of {layers} layers, "
        f"{loaded.subject.examples} images of {loaded.data.title}"
    )
    if loaded.data.unreadable:
        say(list_left_out(loaded.data.unreadable))


def open_dataset(settings: AttributionSettings) -> ComponentDataset:
    """The dataset that was built by the same settings.

    Raises:
        ValueError: If there is none, it is unfinished, or it was built by others.
    """
    folder = settings.folder / DATASET
    dataset = ComponentDataset.load(folder)
    asked = {
        "output_fn": (settings.output_fn, dataset.plan.output),
        "alpha": (settings.alpha, dataset.plan.alpha),
        "num_ablations": (settings.num_ablations, dataset.plan.masks),
        "gradient_passes": (settings.gradient_passes, dataset.plan.gradient_passes),
        "seed": (settings.seed, dataset.plan.seed),
    }
    for name, (mine, theirs) in asked.items():
        if mine != theirs:
            raise ValueError(
                f"{name}={mine!r}, but {folder} was built with {theirs!r}: give that, or another "
                "output"
            )
    return dataset


def open_attributions(settings: AttributionSettings) -> Attributions:
    """The attributions that were fitted by the same settings, or imported by them.

    Raises:
        ValueError: If there are none, or they were made by others.
    """
    folder = settings.folder / ATTRIBUTIONS
    found = Attributions.load(folder)
    metadata = found.metadata
    asked: dict[str, tuple[object, object]]
    if metadata.method == PUBLISHED:
        again = "run `attribute import` again"
        asked = {
            "output_fn": (settings.output_fn, metadata.output),
            "alpha": (settings.alpha, metadata.alpha),
        }
    else:
        again = "run `attribute fit` again"
        asked = {
            "prior": (settings.prior, metadata.prior or None),
            "penalty": (settings.penalty, metadata.asked_penalty),
        }
    for name, (mine, theirs) in asked.items():
        if mine != theirs:
            raise ValueError(f"{name}={mine!r}, but {folder} was made with {theirs!r}: {again}")
    return found
