"""A classifier's sweep: of a model on a data set, or of logits that another program cached.

    OUTPUT/
      sweep.csv         accuracy, top-k accuracy, entropy and calibration by strength and draw
      classes.csv       recall and precision of every class
      differences.csv   of an edit: the accuracy at each strength, beside the model as it is
      curves/           pictures
      report.html
      manifest.json
      records/          the exact law and every finished draw, from which a killed run goes on

Under `accelerate launch` all processes share the pass of the model, and the first one samples,
writes and prints.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from aim_plugins.core.commands import say
from aim_plugins.core.devices import best_device, pass_device
from aim_plugins.core.files import safe_name
from aim_plugins.core.identity import fingerprint
from aim_plugins.core.strengths import Axis
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.noise import NOISE_VERSION
from aim_plugins.sweep.documents import DocumentScores
from aim_plugins.sweep.front import Front
from aim_plugins.sweep.heat_maps import draw_heat_map
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.panels import Parts
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import Study
from aim_plugins.sweep.table import Row, format_table, pool_draws
from vision_bench.changes.along import Along, by_metric
from vision_bench.changes.beside import differences_csv, show_beside
from vision_bench.changes.checks import check_columns, pinned_changes
from vision_bench.classification.beside import HOW, set_beside
from vision_bench.classification.curve import AccuracyCurve, ExactLaw, exact_law
from vision_bench.classification.published import published_accuracy
from vision_bench.classification.sampled_runs import SampledRun, sample_run
from vision_bench.classification.settings import ClassifySettings, LogitsSettings, NoiseSettings
from vision_bench.classifiers.load import load
from vision_bench.data.classes import FEW_CLASSES, chosen_classes, unique_names
from vision_bench.focus import class_costs, describe_focus, focus_axis
from vision_bench.logits.cache import cache_changed_logits
from vision_bench.logits.classes import CachedLogits, load_logits
from vision_bench.published import PublishedCurve


class AccuracyStudy(Study):
    """Accuracy, calibration and entropy against strengths, whatever made the logits.

    Attributes:
        noise: Strengths and draws of the noise.
        columns: What else is changed of the model; a single column of nothing where nothing is.
        cached: Of each column, logits and labels without noise.
        whole: Logits and labels of the model as it is.
        task: Name of the data in tables and pictures.
        class_names: Names of its classes.
        targets: Target classes and signs of focus modulation.
        chosen: Names by index of the classes with curves of their own.
        subject: What the report names at its top beside the data.
        published: What others report of the accuracy.
        plot: Whether to draw pictures.
        device: Where to compute.
        data_mark: Tells the data from others, whatever the model.
        pinned: What must not change between two runs in one folder.
        noted: Further fields of the manifest.
    """

    noise: NoiseSettings
    columns: Sequence[Column] = (Column(),)
    cached: Sequence[CachedLogits]
    whole: CachedLogits
    task: str
    class_names: Sequence[str]
    targets: Mapping[int, int] | None
    chosen: Mapping[int, str]
    subject = ""
    published: PublishedCurve | None = None
    plot = True
    device: str | None = None
    data_mark: str
    pinned: Mapping[str, Any]
    noted: Mapping[str, Any]

    @functools.cached_property
    def along(self) -> Along:
        """Where results stand."""
        axis = focus_axis(self.targets, self.class_names)
        return Along(axis, self.noise.stds, self.columns)

    @property
    def axes(self) -> tuple[Axis, ...]:  # type: ignore[override]
        return self.along.axes

    def measure(self, store: SweepStore) -> None:
        store.pin_manifest(**self.pinned)
        store.update_manifest(
            **self.noted, documents=len(self.whole.labels), classes=len(self.class_names)
        )
        if self.published is not None:
            store.update_manifest(published=self.published.source)
        self.curves = self._measure(store)

    def front(self, store: SweepStore) -> Front:
        task, along = self.task, self.along
        rows = self._rows(lambda curve: curve.rows(task))
        if self.published is not None:
            rows += self.published.rows(task, "acc")
        chosen = self._rows(lambda curve: curve.class_rows(task, self.chosen))
        names = dict(enumerate(unique_names(self.class_names)))
        every = self._rows(lambda curve: curve.class_rows(task, names))
        points = pool_draws(rows)
        files = {"classes.csv": format_table(every)}
        overview = self._costs()
        if along.kind is not None:
            strengths = [along.strength(column) for column in self.columns]
            found = set_beside(strengths, self.cached, self.whole)
            files["differences.csv"] = differences_csv(found)
            overview = show_beside(found, along.kind.axis, "accuracy", HOW)
        return Front(
            rows + chosen,
            self.axes,
            subject="; ".join(filter(None, [self.subject, along.describe()])),
            change=describe_focus(self.targets, self.class_names),
            overview=overview,
            chance=self._chance(),
            parts=Parts("class", {row.task: task for row in chosen}),
            files=files,
            pictures=self._heat_map(every) if self.plot and not along.is_grid else {},
            drawn=[] if not self.plot else None if self.targets else points,
            printed=pool_draws(rows + chosen) if self.targets else points,
            documents=self._documents(),
        )

    def _rows(self, of: Callable[[AccuracyCurve], list[Row]]) -> list[Row]:
        """Rows of the curve of every column where they belong, those of each metric together."""
        pairs = zip(self.columns, self.curves, strict=True)
        rows = [row for column, curve in pairs for row in self.along.place(of(curve), column)]
        return by_metric(rows)

    def _documents(self) -> list[DocumentScores]:
        """Which documents are answered rightly; without noise all draws are one."""
        indices = self.whole.indices
        numbers = range(len(self.whole.labels)) if indices is None else indices.tolist()
        names = [f"{self.data_mark[:8]}-{number}" for number in numbers]
        return [
            DocumentScores(self.task, "acc", self.along.strengths(std, column), draw, names, right)
            for column, curve in zip(self.columns, self.curves, strict=True)
            for draw, run in enumerate(curve.runs[:1] if self.along.is_quiet else curve.runs)
            for std, right in zip(curve.stds, run.right.astype(np.uint8), strict=True)
        ]

    def _measure(self, store: SweepStore) -> list[AccuracyCurve]:
        """Computes the exact laws and the draws that a former run left, and keeps each."""
        from tqdm import tqdm

        noise = self.noise
        parts = ["exact", *(f"draw={draw}" for draw in range(noise.draws))]
        wanted = {
            f"{part},logits={cached.sha256[:16]}": (cached, number)
            for cached in self.cached
            for number, part in enumerate(parts)
        }
        records: dict[str, Any] = {key: store.read_batch(key) for key in wanted}
        missing = [key for key, record in records.items() if record is None]
        if store.resumed and len(missing) < len(wanted):
            kept = f"{len(wanted) - len(missing)} of {len(wanted)} parts (exact laws and draws)"
            say(f"{store.folder}: {kept} are finished and kept")
        with tqdm(
            desc=f"{len(noise.stds) * len(self.columns)} strengths",
            total=len(missing) * len(self.whole.labels),
            unit="document",
            disable=not missing,
        ) as bar:
            for key in missing:
                records[key] = self._compute(*wanted[key], bar.update).to_json()
                store.write_batch(key, records[key])
        found = []
        for cached in self.cached:
            law, *runs = (records[f"{part},logits={cached.sha256[:16]}"] for part in parts)
            sampled = tuple(SampledRun.from_json(run) for run in runs)
            found.append(AccuracyCurve(noise.stds, ExactLaw.from_json(law), sampled))
        return found

    def _compute(
        self, cached: CachedLogits, number: int, advance: Callable[[int], object]
    ) -> ExactLaw | SampledRun:
        """The exact law where the number is 0, or else the draw before it."""
        noise, logits = self.noise, cached.logits.to(best_device(self.device))
        common: dict[str, Any] = {"targets": self.targets, "advance": advance}
        if number == 0:
            return exact_law(logits, cached.labels, noise.stds, **common)
        return sample_run(
            logits,
            cached.labels,
            noise.stds,
            seed=noise.seed + number - 1,
            indices=cached.indices,
            top_k=noise.top_k,
            **common,
        )

    def _costs(self) -> Overview | None:
        """What focus does to every class."""
        if not self.targets:
            return None
        (curve,) = self.curves[:1]
        runs = curve.runs
        return class_costs(
            curve.stds,
            torch.stack([run.correct for run in runs]).double(),
            curve.law.documents.double(),
            torch.stack([run.predicted for run in runs]).double(),
            self.class_names,
            self.targets,
        )

    def _chance(self) -> dict[tuple[str, str], float]:
        """What guessing reaches."""
        if self.targets:  # guessing is not what strong noise on a few classes leads to
            return {}
        classes, top_k = len(self.class_names), self.noise.top_k
        return {(self.task, "acc"): 1 / classes, (self.task, f"acc_top{top_k}"): top_k / classes}

    def _heat_map(self, rows: Sequence[Row]) -> dict[str, bytes]:
        """The law of every class, or its answers where there is no noise."""
        metric = "recall" if self.along.is_quiet else "recall_expected"
        laws = [point for point in pool_draws(rows) if point.metric == metric]
        focus = describe_focus(self.targets, self.class_names)
        expected = "" if self.along.is_quiet else "expected "
        title = f"{self.task}: {expected}recall by class" + (f", {focus}" if focus else "")
        drawn = draw_heat_map(laws, axis=self.axes[0], title=title)
        return {safe_name(f"{self.task}-classes") + f".{kind}": drawn[kind] for kind in drawn}


class ClassificationStudy(AccuracyStudy):
    """A sweep of a model on a data set.

    Args:
        settings: Names them.
        command: The words that repeat the sweep, for the report.
    """

    def __init__(self, settings: ClassifySettings, command: Sequence[str] = ()) -> None:
        self.noise = self.settings = settings
        self.command, self.output = command, settings.folder
        self.plot, self.device = settings.plot, settings.device

    @property
    def arguments(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "command": "classify",
            "dataset": settings.dataset.lower(),
            "split": settings.split,
            "limit": settings.limit,
            "model": settings.model_name,
            **_noise_arguments(settings),
            **settings.change_strengths,
        }

    def load(self) -> None:
        settings = self.settings
        model, data = load(settings)
        self.task, self.class_names = data.title, data.classes
        self.targets = settings.targets(data.classes)
        self.columns = settings.columns()
        check_columns(self.columns, model)
        # On a grid each class would have a heat map of its own.
        few = 0 if self.along.is_grid else FEW_CLASSES
        self.chosen = chosen_classes(settings.report_classes, data.classes, self.targets, few=few)
        if self.along.kind is None:
            self.published = published_accuracy(settings, model, data, self.targets)
        self.subject = model.describe_weights()
        device = pass_device(settings.device)
        model.tell()
        self.whole, *self.cached = cache_changed_logits(
            model,
            data,
            settings.logits_folder,
            [(), *(column.forward for column in self.columns)],
            batch_size=settings.batch_size,
            device=device,
            workers=settings.workers,
        )
        self.data_mark = data.fingerprint
        self.pinned = {
            "model_fingerprint": model.fingerprint,
            "data_fingerprint": data.fingerprint,
            "preprocessing": data.identity()["preprocessing"],
            **pinned_changes(self.columns),
        }
        self.noted = {
            "model": model.title,
            "weights": model.weights,
            "preprocessing_source": model.preprocessing_source,
            "left_out": dict(self.whole.unreadable),
            **settings.described_change,
        }


class LogitsStudy(AccuracyStudy):
    """A sweep on logits that another program cached.

    Args:
        settings: Names the file.
        command: The words that repeat the sweep, for the report.
    """

    def __init__(self, settings: LogitsSettings, command: Sequence[str] = ()) -> None:
        self.noise = self.settings = settings
        self.command, self.output = command, settings.output
        self.task = settings.task or settings.file.stem

    @property
    def arguments(self) -> dict[str, Any]:
        return {"command": "classify-logits", "task": self.task, **_noise_arguments(self.settings)}

    def load(self) -> None:
        self.whole = load_logits(self.settings.file)
        self.cached = [self.whole]
        self.class_names = [str(index) for index in range(self.whole.logits.shape[1])]
        self.targets = self.settings.targets(self.class_names)
        self.chosen = chosen_classes((), self.class_names, self.targets)
        self.data_mark = fingerprint(self.whole.labels.tolist())
        self.pinned = {"file_sha256": self.whole.sha256}
        self.noted = {"model": self.task}


def _noise_arguments(noise: NoiseSettings) -> dict[str, Any]:
    """What determines the results of sampling, for the manifest."""
    arguments: dict[str, Any] = {
        "noise_std": noise.stds,
        "draws": noise.draws,
        "seed": noise.seed,
        "noise_version": NOISE_VERSION,
        "top_k": noise.top_k,
    }
    if noise.focus_target:
        arguments["focus"] = {t: "-" if noise.focus_negative else "+" for t in noise.focus_target}
    return arguments
