"""A segmentation sweep from one pass of the model.

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
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from aim_plugins.core.commands import say
from aim_plugins.core.devices import best_device, pass_device
from aim_plugins.modulation.noise import NOISE_VERSION
from aim_plugins.sweep.front import Front
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.panels import Parts
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import Study
from aim_plugins.sweep.table import Row, metric_family
from vision_bench.data.classes import chosen_classes
from vision_bench.data.segmentation import load_segmentation_dataset
from vision_bench.data.segmentation_layouts import classes_of
from vision_bench.focus import class_costs, describe_focus, focus_axis
from vision_bench.logits.cache import cache_logits
from vision_bench.models.names import plain_name
from vision_bench.published import published_curve
from vision_bench.segmentation.curve import Item, SegmentationCurve, segmentation_curve
from vision_bench.segmentation.load import load_segmentation_model
from vision_bench.segmentation.records import CurveRecord
from vision_bench.segmentation.results import (
    class_table,
    confusion_arrays,
    lone_class,
    report_images,
    shifted_classes,
)
from vision_bench.segmentation.settings import SegmentSettings

CHECKPOINT_IMAGES = 16
"""Images that are counted together: a shard of the cache."""

RECORD_SECONDS = 30.0
"""Between two records of the counts; of 150 classes and many strengths they take 100s of MB."""

METRICS = ("miou", "acc", "mrecall", "mprecision", "mf1", "iou", "recall", "precision", "f1")
"""In the order of tables and pictures: the headlines of the field first."""

PUBLISHED_RULES = ("short512", "input", "present")
"""How the authors of AIM resize images, where they judge them, and which classes they count."""


class SegmentationStudy(Study):
    """A sweep of a segmentation model.

    Args:
        settings: The config.
        command: The words that repeat the sweep, for the report.

    Raises:
        ValueError: If a class is none of the data set's.
        FileNotFoundError: If the data set's list of classes is missing.
    """

    packages = ("aim-plugins", "torch", "transformers")

    def __init__(self, settings: SegmentSettings, command: Sequence[str] = ()) -> None:
        self.settings = settings
        self.command, self.output = command, Path(settings.output)
        # Names of classes cost little; a wrong target is then told before a model is loaded.
        self.class_names = classes_of(settings.dataset, Path(settings.data_root))
        levels = settings.PERTURBATION.levels(self.class_names, settings.seed)
        self.perturbator, self.stds = levels[0], tuple(level.std for level in levels)
        self.focus = self.perturbator.directions(len(self.class_names)) or {}
        self.chosen = chosen_classes(settings.report_classes, self.class_names, self.focus, few=0)
        self.axes = (focus_axis(self.focus, self.class_names),)

    @property
    def arguments(self) -> dict[str, Any]:
        """What determines the results, for the manifest; paths and places do not."""
        settings = self.settings
        return {
            "command": "segment evaluate",
            "dataset": settings.dataset,
            "split": settings.split,
            "resize": settings.resize,
            "score_at": settings.score_at,
            "reduce_labels": settings.reduce_labels,
            "limit": settings.limit,
            "model": plain_name(settings.model),
            "focus": {str(t): "+" if sign > 0 else "-" for t, sign in self.focus.items()},
            "noise_std": self.stds,
            "draws": settings.draws,
            "seed": settings.seed,
            "noise_version": NOISE_VERSION,
            "noise_key": "file name",
            "exact": settings.exact,
            "exact_pixels": settings.exact_pixels if settings.exact else None,
            "cache_dtype": settings.cache_dtype,
        }

    def load(self) -> None:
        settings = self.settings
        self.model = load_segmentation_model(settings)
        self.data = load_segmentation_dataset(
            settings.dataset,
            settings.data_root,
            split=settings.split,
            resize=settings.resize,
            score_at=settings.score_at,
            reduce_labels=settings.reduce_labels,
            preprocessing=self.model.preprocessing,
            limit=settings.limit,
            on_error=settings.on_error,
        )
        device = pass_device(settings.device)
        self.model.tell(self.data.resize)
        self.cached = cache_logits(
            self.model,
            self.data,
            settings.logits_folder,
            batch_size=settings.batch_size,
            device=device,
            dtype=getattr(torch, settings.cache_dtype),
            workers=settings.workers,
        )

    def measure(self, store: SweepStore) -> None:
        """Counts the images that a former run left, a few at a time."""
        from tqdm import tqdm

        cached = self.cached
        store.pin_manifest(logits_key=cached.key)
        store.update_manifest(
            model=self.model.title,
            weights=self.model.weights,
            model_fingerprint=self.model.fingerprint,
            data_fingerprint=self.data.fingerprint,
            preprocessing=self.model.describe_preprocessing(self.data.resize),
            images=len(cached),
            left_out=dict(cached.unreadable),
            rules={**self.data.rules, "mean_over": self.settings.mean_over},
        )
        say(f"{self.data.title}: {self._rules()}")
        record = CurveRecord(store.folder / "records" / "counts.safetensors", cached.key)
        curve = record.read(self.stds)
        recorded, since = curve, monotonic()
        done = 0 if curve is None else curve.images
        bar = tqdm(desc="counting pixels", total=len(cached), initial=done, unit="image")
        try:
            for start in range(done, len(cached), CHECKPOINT_IMAGES):
                positions = range(start, min(start + CHECKPOINT_IMAGES, len(cached)))
                part = self._measure(self._items(positions, bar))
                curve = part if curve is None else curve.joined(part)
                if monotonic() - since >= RECORD_SECONDS:
                    record.write(curve)
                    recorded, since = curve, monotonic()
        finally:
            bar.close()
            # At the end, and also where a run is interrupted or an image stops it.
            if curve is not None and curve is not recorded:
                record.write(curve)
        assert curve is not None  # a data set without images is refused
        self.curve = curve
        if lone := lone_class(curve, self.class_names):
            say(f"{self.data.title}: {lone}")
        # Published data count as they say.
        own = self.settings.dataset == "folder"
        if own and (shifted := shifted_classes(curve, self.data)):
            say(f"{self.data.title}: {shifted}")

    def front(self, store: SweepStore) -> Front:
        task, settings = self.data.title, self.settings
        published = self._published(task)
        if published:
            store.update_manifest(published=published[0][0])
        rows = self.curve.rows(task, self.chosen, mean_over=settings.mean_over)
        rows += [row for _, part in published for row in part]
        images = report_images(
            self.cached,
            self.perturbator,
            self.stds,
            targets=list(self.focus),
            count=settings.overlays,
            width=settings.overlay_width,
            device=best_device(settings.device),
        )
        return Front(
            sorted(rows, key=self._place),
            self.axes,
            subject=f"{self.model.describe_weights()}; {self._rules()}",
            change=describe_focus(self.focus, self.class_names),
            overview=self._costs(),
            images={task: images},
            parts=Parts("class", {f"{task}.{name}": task for name in self.chosen.values()}),
            files={
                "classes.csv": class_table(self.curve, self.class_names, settings.mean_over),
                "confusion.npz": confusion_arrays(self.curve, self.class_names),
            },
        )

    def _rules(self) -> str:
        """How images are judged, for the terminal and the report."""
        counted = {
            "present": "a class that is predicted but never labelled counts as 0 in means",
            "labelled": "means are over labelled classes",
        }[self.settings.mean_over]
        return f"{self.data.describe_rules()}; {counted}"

    def _costs(self) -> Overview | None:
        """What focus does to every class."""
        curve = self.curve
        if not self.focus:
            return None
        counts = curve.confusion.double()
        if not len(counts):
            assert curve.expected is not None  # one of the two is computed
            counts = curve.expected[None]
        return class_costs(
            curve.stds,
            counts.diagonal(dim1=2, dim2=3),
            counts[0, 0].sum(1),
            counts.sum(2),
            self.class_names,
            self.focus,
        )

    def _items(self, positions: range, bar: Any) -> Iterator[Item]:
        device = best_device(self.settings.device)
        for position in positions:
            image = self.cached[position]
            yield image.logits.to(device), self.cached.read_labels(position), image.key
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

    def _place(self, row: Row) -> tuple[int, int, bool]:
        """Where a row stands in the table: by task, metric, and the law after its samples."""
        tasks = [self.data.title, *(f"{self.data.title}.{name}" for name in self.chosen.values())]
        family = metric_family(row.metric)
        return tasks.index(row.task), METRICS.index(family), row.metric != family

    def _published(self, task: str) -> list[tuple[str, list[Row]]]:
        """Sources and figures of the paper, where model, weights and data are the same.

        A local file may hold any weights, so only the published ones count, as the hub gives them.
        """
        settings = self.settings
        whole = settings.limit is None and not self.data.unreadable
        rules = (self.data.resize, self.data.score_at, settings.mean_over)
        if not whole or settings.weights != "hub" or rules != PUBLISHED_RULES:
            return []
        tasks = [(task, "miou")]
        if len(self.focus) == 1:
            (name,) = (self.chosen[target] for target in self.focus)
            tasks += [(f"{task}.{name}", metric) for metric in ("recall", "iou")]
        found = []
        for name, metric in tasks:
            curve = published_curve(settings.model, self.data.name, metric, focus=self.focus)
            if curve is not None and curve.documents == len(self.data):
                rows = curve.rows(name, metric)
                # A figure beyond the sweep would squeeze its curves.
                inside = [row for row in rows if row.strength <= self.stds[-1]]
                found.append((curve.source, inside))
        return found
