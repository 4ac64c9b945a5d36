"""`vision-bench segment evaluate`: a segmentation sweep from one pass of the model.

    OUTPUT/
      sweep.csv         means over classes, and the chosen classes, by strength and draw
      classes.csv       every class by strength and draw
      confusion.npz     pixels by draw, strength, ground truth and prediction; and their expectation
      curves/           pictures
      report.html       curves, and overlays beside a slider
      manifest.json
      records/          the counts so far, from which a killed run goes on

Under `accelerate launch` all processes share the pass of the model, and the first one counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from aim_plugins.core.devices import best_device, is_main_process, pass_device
from aim_plugins.modulation.noise import NOISE_VERSION
from aim_plugins.sweep.plots import plot_curves
from aim_plugins.sweep.printed import format_points
from aim_plugins.sweep.report import write_report
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.table import Row, metric_family, pool_draws, write_table
from vision_bench.data.classes import chosen_classes
from vision_bench.data.segmentation import SegmentationData, load_segmentation_dataset
from vision_bench.data.segmentation_layouts import classes_of
from vision_bench.logits.cache import cache_logits
from vision_bench.logits.pixels import CachedSegmentationLogits
from vision_bench.models.architectures.segformer import SEGFORMER_MODELS
from vision_bench.models.load import load_model
from vision_bench.models.model import VisionModel
from vision_bench.perturbators import MultiClassPerturbator, Perturbator, SingleClassPerturbator
from vision_bench.published import published_curve
from vision_bench.segmentation.curve import Item, SegmentationCurve, segmentation_curve
from vision_bench.segmentation.records import CurveRecord
from vision_bench.segmentation.results import report_images, write_class_table, write_confusion
from vision_bench.segmentation.settings import SegmentSettings

CHECKPOINT_IMAGES = 16
"""Images that are counted together: a shard of the cache."""

RECORD_SECONDS = 30.0
"""Between two records of the counts; of 150 classes and many strengths they take 100s of MB."""

METRICS = ("miou", "acc", "mrecall", "mprecision", "mf1", "iou", "recall", "precision", "f1")
"""In the order of tables and pictures: the headlines of the field first."""

PUBLISHED_RESIZE = "short512"
"""How the authors of AIM resize images."""


class SegmentationSweep:
    """One sweep of a segmentation model.

    Args:
        settings: The config.
        command: The words that repeat the sweep, for the report.

    Raises:
        ValueError: If a setting is not usable, or the folder holds another sweep.
        FileNotFoundError: If the data set is not there.
    """

    def __init__(self, settings: SegmentSettings, command: Sequence[str] = ()) -> None:
        self.settings = settings
        self.command = list(command)
        self.output = Path(settings.output)
        self.levels = settings.PERTURBATION.levels(settings.seed)
        SweepStore.check(self.output, self.arguments)
        # Names of classes cost little; a wrong target is then told before a model is loaded.
        self.class_names = classes_of(settings.dataset, Path(settings.data_root))
        self.perturbator = self.levels[0]
        self.perturbator.directions(len(self.class_names))
        self.chosen = chosen_classes(
            settings.report_classes, self.class_names, targets_of(self.perturbator), few=0
        )
        self.model = load_segmentation_model(settings)
        self.data = self._load_data()

    @property
    def stds(self) -> tuple[float, ...]:
        """Strengths, rising."""
        return tuple(level.std for level in self.levels)

    @property
    def arguments(self) -> dict[str, Any]:
        """What determines the results, for the manifest; paths and places do not."""
        settings = self.settings
        return {
            "command": "segment evaluate",
            "dataset": settings.dataset,
            "split": settings.split,
            "resize": settings.resize,
            "limit": settings.limit,
            "model": Path(settings.model).name if Path(settings.model).exists() else settings.model,
            "modulation": describe_modulation(self.levels[0]),
            "noise_std": self.stds,
            "draws": settings.draws,
            "seed": settings.seed,
            "noise_version": NOISE_VERSION,
            "noise_key": "file name",
            "exact": settings.exact,
            "exact_pixels": settings.exact_pixels if settings.exact else None,
            "cache_dtype": settings.cache_dtype,
        }

    def run(self) -> Path | None:
        """Computes what is missing and writes tables, pictures and the report.

        Returns:
            The report's path; None in processes other than the first.
        """
        settings = self.settings
        cached = cache_logits(
            self.model,
            self.data,
            settings.logits_cache,
            batch_size=settings.batch_size,
            device=pass_device(settings.device),
            dtype=getattr(torch, settings.cache_dtype),
            workers=settings.workers,
        )
        if not is_main_process():
            return None
        packages = ("aim-plugins", "torch", "transformers")
        versions = {name: version(name) for name in packages}
        with SweepStore.open(self.output, self.arguments, versions=versions) as store:
            store.pin_manifest(logits_key=cached.key)
            store.update_manifest(
                command=self.command,
                model=self.arguments["model"],
                model_fingerprint=self.model.fingerprint,
                data_fingerprint=self.data.fingerprint,
                images=len(cached),
                left_out=dict(cached.unreadable),
            )
            return self._finish(store, cached, self._count(store, cached))

    def _load_data(self) -> SegmentationData:
        settings = self.settings
        data = load_segmentation_dataset(
            settings.dataset,
            settings.data_root,
            split=settings.split,
            resize=settings.resize,
            preprocessing=self.model.preprocessing,
            limit=settings.limit,
            on_error=settings.on_error,
        )
        if self.model.classes != len(data.classes):
            raise ValueError(
                f"{self.model.name} has {self.model.classes} classes, but {data.name} has "
                f"{len(data.classes)}: choose the data set it was trained for"
            )
        return data

    # Counting -----------------------------------------------------------------------------------

    def _count(self, store: SweepStore, cached: CachedSegmentationLogits) -> SegmentationCurve:
        """Counts the images that a former run left, a few at a time."""
        from tqdm import tqdm

        record = CurveRecord(store.folder / "records" / "counts.safetensors", cached.key)
        curve = record.read(self.stds)
        recorded, since = curve, monotonic()
        done = 0 if curve is None else curve.images
        bar = tqdm(desc="counting pixels", total=len(cached), initial=done, unit="image")
        try:
            for start in range(done, len(cached), CHECKPOINT_IMAGES):
                positions = range(start, min(start + CHECKPOINT_IMAGES, len(cached)))
                part = self._measure(self._items(cached, positions, bar))
                curve = part if curve is None else curve.joined(part)
                if monotonic() - since >= RECORD_SECONDS:
                    record.write(curve)
                    recorded, since = curve, monotonic()
        finally:
            bar.close()
            # At the end, and also where a run is interrupted or an image stops it.
            if curve is not None and curve is not recorded:
                record.write(curve)
        if curve is None:
            raise ValueError(f"{self.data.name} holds no image")
        return curve

    def _items(
        self, cached: CachedSegmentationLogits, positions: range, bar: Any
    ) -> Iterator[Item]:
        device = best_device(self.settings.device)
        for position in positions:
            image = cached[position]
            yield image.logits.to(device), cached.read_labels(position), image.key
            bar.update()

    def _measure(self, items: Iterator[Item]) -> SegmentationCurve:
        return segmentation_curve(
            items,
            self.perturbator,
            self.stds,
            draws=self.settings.draws,
            exact=self.settings.exact,
            exact_pixels=self.settings.exact_pixels,
        )

    # The folder's front -------------------------------------------------------------------------

    def _finish(
        self, store: SweepStore, cached: CachedSegmentationLogits, curve: SegmentationCurve
    ) -> Path:
        task = self.data.name
        published = self._published(task)
        if published:
            store.update_manifest(published=published[0][0])
        rows = [*curve.rows(task, self.chosen), *(row for _, part in published for row in part)]
        rows.sort(key=self._place)
        points = pool_draws(rows)
        table = write_table(self.output / "sweep.csv", rows)
        classes = write_class_table(self.output / "classes.csv", curve, self.class_names)
        confusion = write_confusion(self.output / "confusion.npz", curve, self.class_names)
        pictures = plot_curves(points, self.output / "curves")
        images = report_images(
            cached,
            self.perturbator,
            self.stds,
            targets=targets_of(self.perturbator),
            count=self.settings.overlays,
            width=self.settings.overlay_width,
            device=best_device(self.settings.device),
        )
        report = write_report(self.output, points, store.manifest, images={task: images})
        print(format_points(points))
        print("", f"table:     {table}", f"classes:   {classes}", sep="\n")
        print(f"confusion: {confusion}", f"pictures:  {pictures[0].parent}", sep="\n")
        print(f"report:    {report}")
        return report

    def _place(self, row: Row) -> tuple[int, int, bool]:
        """Where a row stands in the table: by task, metric, and the law after its samples."""
        tasks = [self.data.name, *(f"{self.data.name}.{name}" for name in self.chosen.values())]
        family = metric_family(row.metric)
        return tasks.index(row.task), METRICS.index(family), row.metric != family

    def _published(self, task: str) -> list[tuple[str, list[Row]]]:
        """Sources and figures of the paper, where model, weights and data are the same.

        A local file may hold any weights, so only the published ones count, as the hub gives them.
        """
        settings = self.settings
        whole = settings.limit is None and not self.data.unreadable
        if not whole or settings.weights != "hub" or self.data.resize != PUBLISHED_RESIZE:
            return []
        focus = self.perturbator.directions(len(self.class_names))
        tasks = [(task, "miou")]
        if focus is not None and len(focus) == 1:
            tasks += [(f"{task}.{self.chosen[next(iter(focus))]}", m) for m in ("recall", "iou")]
        found = []
        for name, metric in tasks:
            curve = published_curve(settings.model, self.data.name, metric, focus=focus)
            if curve is not None and curve.documents == len(self.data):
                rows = curve.rows(name, metric)
                # A figure beyond the sweep would squeeze its curves.
                inside = [row for row in rows if row.strength <= self.stds[-1]]
                found.append((curve.source, inside))
        return found


def load_segmentation_model(settings: SegmentSettings) -> VisionModel:
    """Loads a config's model.

    Raises:
        ValueError: If it is unknown, or no segmentation model.
    """
    # By name and without a file, only the data set tells the number of classes.
    by_data = settings.model in SEGFORMER_MODELS and settings.weights in ("hub", "random")
    classes = len(classes_of(settings.dataset, Path(settings.data_root))) if by_data else None
    # Untrained weights too are the same in every process and every run.
    model = load_model(settings.model, weights=settings.weights, classes=classes, seed=0)
    if model.task != "segmentation":
        raise ValueError(
            f"model={settings.model!r} is a classifier: name a segmentation model, such as "
            "'segformer-b2'"
        )
    return model


def targets_of(perturbator: Perturbator) -> list[int]:
    """Target classes of a focus; none of a utility modulation."""
    if isinstance(perturbator, SingleClassPerturbator):
        return [perturbator.target]
    return list(perturbator.targets) if isinstance(perturbator, MultiClassPerturbator) else []


def describe_modulation(perturbator: Perturbator) -> dict[str, Any]:
    """The modulation without its strength, as JSON."""
    targets = targets_of(perturbator)
    if not targets:
        return {"method": "utility"}
    signs = perturbator.directions(max(targets) + 1) or {}
    return {"method": "focus", "targets": {str(t): "+" if s > 0 else "-" for t, s in signs.items()}}
