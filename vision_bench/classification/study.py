"""`vision-bench classify`: a classification sweep from one pass of the model.

    OUTPUT/
      sweep.csv         accuracy, top-k accuracy, entropy and calibration by strength and draw
      classes.csv       accuracy on the documents of every class
      curves/           pictures
      report.html
      manifest.json
      records/          the exact law and every finished draw, from which a killed run goes on

Under `accelerate launch` all processes share the pass of the model, and the first one samples,
writes and prints.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from aim_plugins.core.devices import best_device, is_main_process, pass_device, speaks_for_machine
from aim_plugins.core.files import sha256_of
from aim_plugins.modulation.noise import NOISE_VERSION
from aim_plugins.sweep.plots import plot_curves, plot_heat_map
from aim_plugins.sweep.printed import format_points
from aim_plugins.sweep.report import write_report
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.table import Row, pool_draws, write_table
from vision_bench.classification.curve import AccuracyCurve, ExactLaw, exact_law
from vision_bench.classification.load import load
from vision_bench.classification.sampled_runs import SampledRun, sample_run
from vision_bench.classification.settings import ClassifySettings, LogitsSettings, NoiseSettings
from vision_bench.data.classes import chosen_classes, unique_names
from vision_bench.data.classification import ClassificationData
from vision_bench.logits.cache import cache_logits
from vision_bench.logits.classes import CachedLogits, load_logits
from vision_bench.models.architectures.cifar import CIFAR_MODELS
from vision_bench.models.model import VisionModel
from vision_bench.published import PublishedCurve, published_curve

_PATIENCE = 60.0
"""Seconds that a process waits for the one beside it to report an error that all of them find."""


@dataclass(frozen=True)
class Subject:
    """What is measured, as the results name it.

    Attributes:
        task: Name of the data in tables and pictures.
        class_names: Names of its classes.
        chosen: Names by index of the classes with curves of their own.
        targets: Target classes and signs of focus modulation.
        published: What others report of the accuracy.
        plot: Whether to draw pictures.
    """

    task: str
    class_names: Sequence[str]
    chosen: Mapping[int, str]
    targets: Mapping[int, int] | None = None
    published: PublishedCurve | None = None
    plot: bool = True


@dataclass(frozen=True)
class _Loaded:
    model: VisionModel
    data: ClassificationData
    subject: Subject
    arguments: dict[str, Any]


def classify(settings: ClassifySettings, command: Sequence[str] = ()) -> int:
    """Runs a classification sweep, or what is missing of it.

    Args:
        settings: The settings.
        command: The words that repeat the sweep, for the report.

    Returns:
        The exit status 0.

    Raises:
        ValueError: If a setting or file is not usable, or the folder holds another sweep.
        FileNotFoundError: If a file is not there.
        ImportError: If a package is missing.
    """
    try:
        loaded = _load(settings)
        device = best_device(settings.device) if is_main_process() else None
    except (ValueError, OSError, ImportError):
        if not speaks_for_machine():
            # The launcher ends all processes once one has failed; that one says why.
            time.sleep(_PATIENCE)
        raise
    cached = cache_logits(
        loaded.model,
        loaded.data,
        settings.logits_cache,
        batch_size=settings.batch_size,
        device=pass_device(settings.device),
        workers=settings.workers,
    )
    if not is_main_process():
        return 0
    with SweepStore.open(settings.folder, loaded.arguments, versions=_versions()) as store:
        store.pin_manifest(
            model_fingerprint=loaded.model.fingerprint, data_fingerprint=loaded.data.fingerprint
        )
        store.update_manifest(
            command=list(command),
            model=loaded.model.name,
            documents=len(cached.labels),
            classes=loaded.model.classes,
            left_out=dict(cached.unreadable),
        )
        curve = measure(store, cached, settings, loaded.subject.targets, device)
        finish(store, curve, loaded.subject)
    return 0


def classify_file(settings: LogitsSettings, command: Sequence[str] = ()) -> int:
    """Runs a sweep on logits that another program cached.

    Args:
        settings: The settings.
        command: The words that repeat the sweep, for the report.

    Returns:
        The exit status 0.

    Raises:
        ValueError: If the file is not usable, or the folder holds another sweep.
        FileNotFoundError: If there is no such file.
    """
    cached = load_logits(settings.file)
    names = [str(index) for index in range(cached.logits.shape[1])]
    targets = settings.targets(names)
    subject = Subject(
        task=settings.task or settings.file.stem,
        class_names=names,
        chosen=chosen_classes((), names, targets),
        targets=targets,
    )
    arguments = {
        "command": "classify-logits",
        "task": subject.task,
        "file_sha256": cached.sha256,
        **_noise_arguments(settings, targets),
    }
    with SweepStore.open(settings.output, arguments, versions=_versions()) as store:
        curve = measure(store, cached, settings, targets, best_device())
        store.update_manifest(
            command=list(command), model=subject.task, documents=curve.n, classes=len(names)
        )
        finish(store, curve, subject)
    return 0


def measure(
    store: SweepStore,
    cached: CachedLogits,
    noise: NoiseSettings,
    targets: Mapping[int, int] | None,
    device: torch.device | None = None,
) -> AccuracyCurve:
    """Computes the exact law and the draws that a former run left, and keeps each.

    Args:
        store: The sweep's folder.
        cached: Clean logits and labels.
        noise: Strengths and draws.
        targets: Target classes and signs of focus modulation.
        device: Where to compute; by default where the logits are.

    Returns:
        The curve.
    """
    from tqdm import tqdm

    logits = cached.logits.to(device)
    parts = ["exact", *(f"draw={draw}" for draw in range(noise.draws))]
    keys = [f"{part},logits={cached.sha256[:16]}" for part in parts]
    records: dict[str, Any] = {key: store.read_batch(key) for key in keys}
    missing = [key for key, record in records.items() if record is None]
    if store.resumed and len(missing) < len(keys):
        kept = f"{len(keys) - len(missing)} of {len(keys)} parts (the exact law and each draw)"
        print(f"{store.folder}: {kept} are finished and kept", file=sys.stderr)
    with tqdm(
        desc=f"{len(noise.stds)} strengths",
        total=len(missing) * len(logits),
        unit="document",
        disable=not missing,
    ) as bar:
        for key in missing:
            part = keys.index(key)
            common = {"targets": targets, "advance": bar.update}
            result: ExactLaw | SampledRun = (
                exact_law(logits, cached.labels, noise.stds, **common)
                if part == 0
                else sample_run(
                    logits,
                    cached.labels,
                    noise.stds,
                    seed=noise.seed + part - 1,
                    indices=cached.indices,
                    top_k=noise.top_k,
                    **common,
                )
            )
            records[key] = result.to_json()
            store.write_batch(key, records[key])
    law, *runs = (records[key] for key in keys)
    return AccuracyCurve(
        noise.stds, ExactLaw.from_json(law), tuple(SampledRun.from_json(run) for run in runs)
    )


def finish(store: SweepStore, curve: AccuracyCurve, subject: Subject) -> Path:
    """Writes tables, pictures and the report, and prints the table.

    Args:
        store: The sweep's folder.
        curve: The measurements.
        subject: Names.

    Returns:
        The report's path.
    """
    rows = curve.rows(subject.task)
    if subject.published is not None:
        rows += subject.published.rows(subject.task, "acc")
    main, chosen = pool_draws(rows), curve.class_rows(subject.task, subject.chosen)
    points = main + pool_draws(chosen)
    names = unique_names(subject.class_names)
    every = curve.class_rows(subject.task, dict(enumerate(names)))
    table = write_table(store.folder / "sweep.csv", rows + chosen)
    classes = write_table(store.folder / "classes.csv", every)
    chance = _chance(subject, curve)
    if subject.published is not None:
        store.update_manifest(published=subject.published.source)
    pictures = _draw(store.folder / "curves", points, every, subject, chance)
    report = write_report(store.folder, points, store.manifest, chance=chance)
    print(format_points(main))
    print("", f"table:    {table}", f"classes:  {classes}", sep="\n")
    if pictures:
        print(f"pictures: {pictures[0].parent}")
    print(f"report:   {report}")
    return report


def _load(settings: ClassifySettings) -> _Loaded:
    """Loads model and data, and checks all that can be checked before the pass."""
    model, data = load(settings)
    names = data.classes
    targets = settings.targets(names)
    subject = Subject(
        task=data.name,
        class_names=names,
        chosen=chosen_classes(settings.report_classes, names, targets),
        targets=targets,
        published=_published(settings, model, data, targets),
        plot=settings.plot,
    )
    arguments = {
        "command": "classify",
        "dataset": data.name,
        "limit": settings.limit,
        "model": model.name,
        "preprocessing": data.identity()["preprocessing"],
        **_noise_arguments(settings, targets),
    }
    SweepStore.check(settings.folder, arguments)
    return _Loaded(model, data, subject, arguments)


def _published(
    settings: ClassifySettings,
    model: VisionModel,
    data: ClassificationData,
    targets: Mapping[int, int] | None,
) -> PublishedCurve | None:
    """What others report, if weights, data and preprocessing are those of the source."""
    found = published_curve(model.name, data.name, "acc", focus=targets)
    if found is None or settings.preprocessing or len(data) != found.documents:
        return None
    return found if _has_published_weights(model.name, settings.weights_source) else None


def _has_published_weights(name: str, weights: str | None) -> bool:
    """Whether weights are those of the published file, whose name carries its checksum."""
    from vision_bench.models.architectures.cifar import checkpoint_url

    if weights == "hub":
        return True
    if name not in CIFAR_MODELS or weights is None or not Path(weights).is_file():
        return False
    checksum = checkpoint_url(name).rpartition("-")[2].removesuffix(".pt")
    return sha256_of(weights).startswith(checksum)


def _noise_arguments(noise: NoiseSettings, targets: Mapping[int, int] | None) -> dict[str, Any]:
    """What determines the results of sampling, for the manifest."""
    arguments: dict[str, Any] = {
        "noise_std": noise.stds,
        "draws": noise.draws,
        "seed": noise.seed,
        "noise_version": NOISE_VERSION,
        "top_k": noise.top_k,
    }
    if targets:
        arguments["focus"] = {str(t): "+" if sign > 0 else "-" for t, sign in targets.items()}
    return arguments


def _chance(subject: Subject, curve: AccuracyCurve) -> dict[tuple[str, str], float]:
    """What guessing reaches."""
    classes = len(subject.class_names)
    if subject.targets:  # guessing is not what strong noise on a few classes leads to
        return {}
    chance = {(subject.task, "acc"): 1 / classes}
    if curve.runs:
        top_k = curve.runs[0].top_k
        chance[subject.task, f"acc_top{top_k}"] = top_k / classes
    return chance


def _draw(
    folder: Path,
    points: Sequence[Any],
    every: Sequence[Row],
    subject: Subject,
    chance: Mapping[tuple[str, str], float],
) -> list[Path]:
    if not subject.plot:
        return []
    pictures = plot_curves(
        [point for point in points if point.task == subject.task or subject.targets],
        folder,
        chance=chance,
    )
    laws = [point for point in pool_draws(every) if point.metric == "acc_expected"]
    return pictures + plot_heat_map(
        laws,
        folder,
        stem=f"{subject.task}-classes",
        title=f"{subject.task}: expected accuracy by class",
    )


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("aim-plugins", "torch")}
