"""A segmentation sweep from one pass of the model.

    OUTPUT/
      sweep.csv         means over classes, and the chosen classes, by strength and draw
      classes.csv       every class by strength and draw
      differences.csv   of an edit: the mean IoU at each strength, beside the model as it is
      confusion.npz     pixels by draw, strength, ground truth and prediction; and their expectation
      curves/           pictures
      report.html       curves, and overlays beside a slider
      manifest.json
      records/          the counts so far, from which a killed run goes on

Under `accelerate launch` all processes share the pass of the model, and the first one counts.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from aim_plugins.core.commands import say
from aim_plugins.core.devices import best_device, pass_device
from aim_plugins.core.strengths import Axis, format_strength
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.noise import NOISE_VERSION
from aim_plugins.sweep.front import Front
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.panels import Parts
from aim_plugins.sweep.report import ImageSample
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import Study
from aim_plugins.sweep.table import Row, metric_family
from vision_bench.changes.along import Along
from vision_bench.changes.beside import differences_csv, show_beside
from vision_bench.changes.checks import check_columns, pinned_changes
from vision_bench.data.classes import chosen_classes
from vision_bench.data.segmentation import load_segmentation_dataset
from vision_bench.data.segmentation_layouts import classes_of
from vision_bench.focus import class_costs, describe_focus, focus_axis
from vision_bench.logits.cache import cache_changed_logits
from vision_bench.logits.pixels import CachedSegmentationLogits
from vision_bench.models.names import plain_name
from vision_bench.published import published_curve
from vision_bench.segmentation.beside import HOW, set_beside
from vision_bench.segmentation.curve import Item, SegmentationCurve, segmentation_curve
from vision_bench.segmentation.load import load_segmentation_model
from vision_bench.segmentation.records import CurveRecord
from vision_bench.segmentation.results import (
    View,
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
        self.columns: Sequence[Column] = (Column(),)

    @functools.cached_property
    def along(self) -> Along:
        """Where results stand; known once what is changed of the model is read."""
        return Along(focus_axis(self.focus, self.class_names), self.stds, self.columns)

    @property
    def axes(self) -> tuple[Axis, ...]:  # type: ignore[override]
        return self.along.axes

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
            **settings.change_strengths,
        }

    def load(self) -> None:
        settings = self.settings
        self.model = load_segmentation_model(settings)
        self.columns = settings.columns()
        check_columns(self.columns, self.model)
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
        self.whole, *self.cached = cache_changed_logits(
            self.model,
            self.data,
            settings.logits_folder,
            [(), *(column.forward for column in self.columns)],
            batch_size=settings.batch_size,
            device=device,
            dtype=getattr(torch, settings.cache_dtype),
            workers=settings.workers,
        )

    def measure(self, store: SweepStore) -> None:
        """Counts the images that a former run left, a few at a time."""
        whole = self.whole
        store.pin_manifest(logits_key=whole.key, **pinned_changes(self.columns))
        store.update_manifest(
            model=self.model.title,
            weights=self.model.weights,
            model_fingerprint=self.model.fingerprint,
            data_fingerprint=self.data.fingerprint,
            preprocessing=self.model.describe_preprocessing(self.data.resize),
            images=len(whole),
            left_out=dict(whole.unreadable),
            rules={**self.data.rules, "mean_over": self.settings.mean_over},
            **self.settings.described_change,
        )
        say(f"{self.data.title}: {self._rules()}")
        counted = {cached.key: cached for cached in (*self.cached, whole)}
        curves = {key: self._count(store, cached) for key, cached in counted.items()}
        self.curves = [curves[cached.key] for cached in self.cached]
        curve = self.whole_curve = curves[whole.key]
        if lone := lone_class(curve, self.class_names):
            say(f"{self.data.title}: {lone}")
        # Published data count as they say.
        own = self.settings.dataset == "folder"
        if own and (shifted := shifted_classes(curve, self.data)):
            say(f"{self.data.title}: {shifted}")

    def _count(self, store: SweepStore, cached: CachedSegmentationLogits) -> SegmentationCurve:
        """The counts of all images under one change."""
        from tqdm import tqdm

        own = "" if self.along.kind is None else f"-{cached.key[:16]}"
        record = CurveRecord(store.folder / "records" / f"counts{own}.safetensors", cached.key)
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
        assert curve is not None  # a data set without images is refused
        return curve

    def front(self, store: SweepStore) -> Front:
        task, settings = self.data.title, self.settings
        published = self._published(task)
        if published:
            store.update_manifest(published=published[0][0])
        along, named = self.along, self._named_curves()
        rows = [
            row
            for column, curve in zip(self.columns, self.curves, strict=True)
            for row in along.place(
                curve.rows(task, self.chosen, mean_over=settings.mean_over), column
            )
        ]
        rows += [row for _, part in published for row in part]
        files: dict[str, str | bytes] = {
            "classes.csv": class_table(named, self.class_names, settings.mean_over),
            "confusion.npz": confusion_arrays(named, self.class_names),
        }
        overview = self._costs()
        if along.kind is not None:
            strengths = [along.strength(column) for column in self.columns]
            found = set_beside(strengths, self.curves, self.whole_curve, settings.mean_over)
            files["differences.csv"] = differences_csv(found)
            overview = show_beside(found, along.kind.axis, "mean IoU", HOW, std=min(self.stds))
        about = [self.model.describe_weights(), self._rules(), along.describe()]
        return Front(
            sorted(rows, key=self._place),
            self.axes,
            subject="; ".join(filter(None, about)),
            change=describe_focus(self.focus, self.class_names),
            overview=overview,
            images=self._images(task),
            parts=Parts("class", {f"{task}.{name}": task for name in self.chosen.values()}),
            files=files,
        )

    def _named_curves(self) -> list[tuple[Mapping[str, float], SegmentationCurve]]:
        """Curves with the strength of the change by its name, where there is one."""
        kind = self.along.kind
        return [
            ({} if kind is None else {kind.axis.name: self.along.strength(column)}, curve)
            for column, curve in zip(self.columns, self.curves, strict=True)
        ]

    def _images(self, task: str) -> dict[str, list[ImageSample]]:
        """Overlays along the strength that varies; of a grid, along the noise at both ends."""
        settings, along = self.settings, self.along
        places = list(zip(self.columns, self.cached, strict=True))
        shown: dict[str, list[View]] = {}
        if along.kind is not None and along.axes == (along.kind.axis,):
            std = min(self.stds)
            shown[task] = [View(along.strength(one), cached, std) for one, cached in places]
        elif along.kind is not None and along.is_grid:
            axis = along.kind.axis
            for column, cached in (places[0], places[-1]):
                title = f"{task}, {axis.symbol} = {format_strength(along.strength(column))}"
                shown[title] = [View(std, cached, std) for std in self.stds]
        else:
            shown[task] = [View(std, self.cached[0], std) for std in self.stds]
        return {
            title: report_images(
                views,
                self.perturbator,
                targets=list(self.focus),
                count=settings.overlays,
                width=settings.overlay_width,
                device=best_device(settings.device),
            )
            for title, views in shown.items()
        }

    def _rules(self) -> str:
        """How images are judged, for the terminal and the report."""
        counted = {
            "present": "a class that is predicted but never labelled counts as 0 in means",
            "labelled": "means are over labelled classes",
        }[self.settings.mean_over]
        return f"{self.data.describe_rules()}; {counted}"

    def _costs(self) -> Overview | None:
        """What focus does to every class."""
        (curve,) = self.curves[:1]
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
            exact=self.settings.exact and not self.along.is_quiet,
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
        whole = settings.limit is None and not self.data.unreadable and self.along.kind is None
        rules = (self.data.resize, self.data.score_at, settings.mean_over)
        if (
            not whole
            or self.along.kind is not None
            or settings.weights != "hub"
            or rules != PUBLISHED_RULES
        ):
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
