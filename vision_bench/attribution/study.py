"""`vision-bench attribute evaluate` and `attribute run`: whether attributions can be trusted.

OUTPUT/evaluation/
  report.html
  correlations.csv  every method, cost and share of ablated components
  classes.csv       what each component adds, on average and to the images of each class
  curves/           pictures
  manifest.json
  outputs/          outputs under fresh masks, and baselines, from which a killed run goes on
  records/          the same of the rank test
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from aim_plugins.attribution import baselines
from aim_plugins.attribution.attributions import PUBLISHED, Attributions
from aim_plugins.attribution.evaluation import correlations, top_effects
from aim_plugins.core.commands import keeping_finished_work, say
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from vision_bench.attribution.budget import fits_by_budget, passes_of
from vision_bench.attribution.choices import EVALUATION
from vision_bench.attribution.findings import (
    COAR,
    LEAST_SQUARES,
    NAMES,
    OTHERS,
    RIDGE,
    Example,
    Findings,
    Method,
    RankTest,
)
from vision_bench.attribution.fresh import Fresh
from vision_bench.attribution.front import publish
from vision_bench.attribution.settings import AttributionSettings
from vision_bench.attribution.stages import (
    FitStage,
    build_dataset,
    open_attributions,
    open_dataset,
    tell_progress,
    tell_subject,
)
from vision_bench.attribution.subject import Loaded, load_subject
from vision_bench.attribution.truth import Truth
from vision_bench.data.dataset import evenly
from vision_bench.data.images import thumbnail

_OUTPUTS = "outputs"


class WholeStudy:
    """`vision-bench attribute run`: build, fit and evaluate in one go.

    Args:
        settings: Model, data, components, masks, and how to fit and evaluate.
        command: The words that repeat it, for the report.
    """

    def __init__(self, settings: AttributionSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command = settings, command

    def run(self) -> Path | None:
        """Does what is missing; returns the report's path."""
        settings = self.settings
        study = EvaluationStudy(settings, self.command)
        study.check()
        with keeping_finished_work():
            study.loaded = load_subject(settings)
            tell_subject(study.loaded)
            build_dataset(settings, study.loaded, settings.folder)
            FitStage(settings).run()
        return study.run()


class EvaluationStudy(FolderStudy):
    """Attributions, against fresh ablations and other methods.

    Args:
        settings: Where the attributions lie, and what they are held against.
        command: The words that repeat it, for the report.

    Attributes:
        loaded: The classifier with its components, and the images.
    """

    loaded: Loaded | None = None

    def __init__(self, settings: AttributionSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command = settings, command
        self.output = settings.folder / EVALUATION

    @property
    def arguments(self) -> dict[str, Any]:
        settings = self.settings
        names = (
            "dataset", "split", "limit", "train_split", "train_limit", "components", "output_fn",
            "examples_of", "examples", "seed",
        )  # fmt: skip
        return {
            "command": "attribute evaluate",
            "model": settings.model_name,
            **{name: getattr(settings, name) for name in names},
            "patterns": list(settings.patterns),
            "example_classes": [str(one) for one in settings.example_classes],
        }

    def load(self) -> None:
        settings = self.settings
        self.attributions = open_attributions(settings)
        published = self.attributions.metadata.method == PUBLISHED
        self.dataset = None if published else open_dataset(settings)
        if self.loaded is None:
            self.loaded = load_subject(settings)
            tell_subject(self.loaded)
        self.attributions.metadata.check_model(self.loaded.subject.model)
        if self.attributions.metadata.data_sha256 != self.loaded.fingerprint:
            raise ValueError(
                f"output={str(settings.folder)!r} holds attributions of other images or another "
                "preprocessing than these settings name: give those that `attribute build` had"
            )
        if self.attributions.metadata.components != self.loaded.components.to_json():
            raise ValueError(
                f"components={settings.components!r} with patterns={list(settings.patterns)}: "
                f"{settings.folder} holds attributions to others: give those that `attribute "
                "build` had"
            )

    def measure(self, store: SweepStore) -> None:
        settings, loaded, fitted = self.settings, self.loaded, self.attributions
        assert loaded is not None  # `load` loads it
        self._note(store, loaded, fitted)
        truth = Truth(loaded.subject, store.folder / _OUTPUTS, _tell)
        fresh = Fresh(truth, len(loaded.components), settings)
        others = [self._baseline(truth, fresh, name) for name in settings.compared]
        first = self._fitted(fresh, fitted)
        curves = self._curves(fresh, first)
        self.findings = Findings(
            title=loaded.data.title,
            output=settings.output_fn,
            alpha=settings.alpha,
            fresh=settings.eval_masks,
            components=loaded.components,
            weights=fitted.weights,
            labels=loaded.labels,
            classes=loaded.data.classes,
            methods=[
                first,
                *(curve[-1] for name, curve in curves.items() if name != first.name),
                *others,
            ],
            curves=curves,
            rank=self._rank(store, loaded, fitted),
            examples=self._examples(loaded, fitted, fresh),
            left_out=loaded.subject.examples - len(fresh.varied),
        )

    def _note(self, store: SweepStore, loaded: Loaded, fitted: Attributions) -> None:
        """Pins in the manifest what must not change, and notes what was measured."""
        store.pin_manifest(
            model_fingerprint=loaded.model.fingerprint, images_fingerprint=loaded.fingerprint
        )
        settings, metadata = self.settings, fitted.metadata
        names = ("alpha", "masks", "gradient_passes", "prior", "prior_factors", "penalty")
        store.update_manifest(
            model=loaded.model.title,
            weights=loaded.model.weights,
            images=loaded.subject.examples,
            number_of_components=len(loaded.components),
            fitted={name: getattr(metadata, name) for name in names},
            evaluated={name: _plain(getattr(settings, name)) for name in _EVALUATED},
            left_out=dict(loaded.data.unreadable),
        )

    def _fitted(self, fresh: Fresh, fitted: Attributions) -> Method:
        """The attributions that are evaluated, as they were fitted."""
        if self.dataset is None:
            return fresh.method(OTHERS, float(fitted.metadata.masks), fitted.weights)
        plan, name = self.dataset.plan, COAR
        if not fitted.metadata.prior:
            name = LEAST_SQUARES if fitted.metadata.penalty == 0 else RIDGE
        passes = passes_of(plan.masks, plan.gradient_passes) if name == COAR else float(plan.rows)
        return fresh.method(name, passes, fitted.weights)

    def _curves(self, fresh: Fresh, first: Method) -> dict[str, list[Method]]:
        """The same from parts of the dataset, by kind; nothing of what is published."""
        if self.dataset is None:
            return {}
        say("fits to parts of the dataset")
        curves: dict[str, list[Method]] = {}
        for name, passes, one in fits_by_budget(self.dataset, self.settings.prior):
            curves.setdefault(name, []).append(fresh.method(name, passes, one.weights))
        if first.name == COAR:
            curves.setdefault(COAR, []).append(first)
        return curves

    def _baseline(self, truth: Truth, fresh: Fresh, name: str) -> Method:
        """One of the baselines, computed once."""
        if name == "leave_one_out":
            weights, passes = truth.leave_one_out()
        else:
            say(NAMES[name])
            weights, passes = truth.kept(name, lambda: getattr(baselines, name)(truth.subject))
        return fresh.method(NAMES[name], passes, weights)

    def _rank(self, store: SweepStore, loaded: Loaded, fitted: Attributions) -> RankTest:
        """What ablating the highest components of each image does, found once."""
        count = min(self.settings.top, len(loaded.components))
        digest = hashlib.sha256(fitted.weights.contiguous().numpy().tobytes()).hexdigest()
        key = f"top,{count},{digest[:16]}"
        if (held := store.read_batch(key)) is None:
            seed = self.settings.seed
            found = top_effects(loaded.subject, fitted.weights, count, seed=seed)
            held = {
                "highest": list(found.top.values),
                "random": list(found.drawn.values),
                "p": found.p,
            }
            store.write_batch(key, held)
        return RankTest(count, held["highest"], held["random"], held["p"])

    def _examples(self, loaded: Loaded, fitted: Attributions, fresh: Fresh) -> list[Example]:
        """Images of as many classes as possible."""
        order = sorted(fresh.varied, key=lambda one: (int(loaded.labels[one]), one))
        chosen = [order[place] for place in evenly(len(order), self.settings.report_examples or 1)]
        whole = fresh.whole
        alpha = min(self.settings.eval_alphas, key=lambda one: abs(one - self.settings.alpha))
        ablated, outputs = fresh.masks[alpha], fresh.outputs[alpha]
        predicted = fitted.predict(torch.from_numpy(ablated))
        found = []
        for place in chosen[: self.settings.report_examples]:
            position = loaded.positions[place]
            own = correlations(fitted.weights[[place]], ablated, outputs[:, [place]])
            found.append(
                Example(
                    place,
                    loaded.names[place],
                    loaded.data.classes[int(loaded.labels[place])],
                    float(whole[place]),
                    thumbnail(loaded.data.images, position),
                    predicted[:, place].tolist(),
                    outputs[:, place].tolist(),
                    float(own[0]),
                )
            )
        return found

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        return publish(store.folder, self.findings, store.manifest)


_EVALUATED = ("eval_alphas", "eval_masks", "top", "baselines")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _tell(name: str) -> Any:
    return tell_progress("components left out" if name == "one" else name)
