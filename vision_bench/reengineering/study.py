"""`vision-bench reengineer run`: a module for some classes of a classifier, and what it is worth.

OUTPUT/
  modules.csv       every module along the path, and what it is held against
  mask/             the modules' masks and heads; `reengineer compose` reads them
  module/           the selected one as a network of its own: safetensors, JSON and ONNX
  training/         state of the last epoch and the best so far, from which a killed run goes on
  curves/           pictures
  report.html
  manifest.json
  records/          answers to test images
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aim_plugins.core.commands import say
from aim_plugins.core.devices import best_device
from aim_plugins.core.files import safe_name
from aim_plugins.modulation.channels import ChannelMasks, layer_macs
from aim_plugins.modulation.masks import Masks, WeightMasks
from aim_plugins.modulation.retained import LearnedMasks, MaskMetadata, MaskPoint
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from vision_bench.classifiers.load import load, load_training
from vision_bench.data.dataset import list_left_out
from vision_bench.models.model import LogitsOnly
from vision_bench.reengineering.baselines import Accuracy, baselines
from vision_bench.reengineering.batches import TrainingImages
from vision_bench.reengineering.controls import CONTROLS, control_masks, fit_head
from vision_bench.reengineering.costs import costs
from vision_bench.reengineering.evaluation import Subject, with_head
from vision_bench.reengineering.findings import BASELINES, NEW_HEAD, RESTRICTED, WHOLE, Findings
from vision_bench.reengineering.front import publish
from vision_bench.reengineering.importance import channel_importance
from vision_bench.reengineering.learn import Batches, Learner, Recipe
from vision_bench.reengineering.module import Module, make_head
from vision_bench.reengineering.path import Choice
from vision_bench.reengineering.problem import split_off, sub_dataset
from vision_bench.reengineering.settings import ReengineerSettings
from vision_bench.reengineering.smaller import (
    MASKED,
    Smaller,
    module_networks,
    with_head_of,
    write_smaller,
)
from vision_bench.reengineering.target import Target
from vision_bench.reengineering.training import Course, Training, train
from vision_bench.reengineering.tuning import TUNED_MODULE, TUNED_WHOLE, accuracy_of, tuned

MASK, MODULE, TRAINING = "mask", "module", "training"
"""Folders of the results."""

_HEAD_EPOCHS = 50


class ReengineerStudy(FolderStudy):
    """A classifier that is re-engineered to the classes of a problem.

    Args:
        settings: Model, data, problem, and how to learn.
        command: The words that repeat it, for the report.
    """

    def __init__(self, settings: ReengineerSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command, self.output = settings, command, settings.folder

    @property
    def arguments(self) -> dict[str, Any]:
        settings = self.settings
        names = (
            "dataset", "split", "limit", "train_split", "train_limit", "seed", "superclass_type",
            "n_classes", "granularity", "lr_head", "lr_mask", "n_epochs", "early_stop",
            "train_batch_size", "augment", "validation_share", "baseline", "tolerance",
            "target_share", "round_to", "fine_tune", "lr_fine_tune", "points",
        )  # fmt: skip
        found = {name: getattr(settings, name) for name in names}
        return {
            "command": "reengineer run",
            "model": settings.model_name,
            **found,
            "alpha": settings.alphas,
            "classes": [str(one) for one in settings.classes],
            "target_class": settings.target_class and str(settings.target_class),
            "target_superclass_idx": settings.target_superclass_idx
            and str(settings.target_superclass_idx),
        }

    def load(self) -> None:
        settings = self.settings
        self.model, data = load(settings)
        self.model.tell()
        training = load_training(settings, self.model, data)
        self.problem = settings.problem(data.classes)
        self.title = data.title
        self.test_data = sub_dataset(data, self.problem, seed=settings.seed)
        kept, held = split_off(
            sub_dataset(training, self.problem, seed=settings.seed),
            settings.validation_share,
            settings.seed,
        )
        workers, seed = settings.workers, settings.seed
        self.train = TrainingImages(kept, augment=settings.augment, seed=seed, workers=workers)
        self.validation = TrainingImages(held, workers=workers)
        self.test = TrainingImages(self.test_data, workers=workers)
        device = torch.device(best_device(settings.device))
        module = self.model.module.to(device)
        named = module.model if isinstance(module, LogitsOnly) else module
        self.subject = Subject(module, named, settings.batch_size, device)
        self.example = next(self.validation.in_order(2))[0].to(device)
        self.macs = layer_macs(named, self.example)
        self.masks = self._make_masks()

    def _make_masks(self) -> Masks:
        named = self.subject.named
        if self.settings.granularity == "weight":
            return WeightMasks(named)
        from vision_bench.reengineering.channels import find_channel_groups

        groups = find_channel_groups(named, self.example)
        return ChannelMasks(named, groups, self.macs)

    def measure(self, store: SweepStore) -> None:
        store.pin_manifest(
            model_fingerprint=self.model.fingerprint,
            data_fingerprint=self.test_data.fingerprint,
            training_fingerprint=self.train.data.fingerprint,
            preprocessing=self.test_data.identity()["preprocessing"],
        )
        store.update_manifest(
            model=self.model.title,
            weights=self.model.weights,
            classes=list(self.problem.names),
            training_images=len(self.train.data),
            validation_images=len(self.validation.data),
            test_images=len(self.test.data),
        )
        held = self._baselines(store)
        validation = held["validation"][self.settings.baseline]
        least = validation.value - self.settings.tolerance
        say(
            f"to be reached on {len(validation.right)} validation images: {least:.4f} "
            f"({BASELINES[self.settings.baseline]})"
        )
        training = self._train(store, least)
        learned = self._save(store, training, least)
        tuned, smaller = self._networks(store, learned)
        self.findings = Findings(
            problem=self.problem,
            title=self.title,
            granularity=self.settings.granularity,
            epochs=training.epochs,
            path=[one.epoch for one in training.path],
            selected=learned.metadata.selected,
            least=least,
            by_share=self.settings.target_share is not None,
            baselines=held["test"],
            modules=[
                self._answers(store, "module", one.point, one.epoch.number) for one in training.path
            ],
            controls={kind: self._controls(store, kind, training) for kind in CONTROLS},
            macs=sum(self.macs.values()),
            module_macs=[self._macs(one.point) for one in training.path],
            parameters=sum(one.numel() for one in self.subject.named.parameters()),
            kept=self._kept(training.path[learned.metadata.selected].point),
            tuned=tuned,
            smaller=smaller,
            stopped=training.stopped,
        )
        for images in (self.train, self.validation, self.test):
            if images.data.unreadable:
                say(f"{images.data.title}: {list_left_out(images.data.unreadable)}")

    def _baselines(self, store: SweepStore) -> dict[str, dict[str, Accuracy]]:
        """By split, the whole model: over all classes, restricted, and with a head of its own."""
        key = f"baselines,test={self.test_data.fingerprint[:16]}"
        if (held := store.read_batch(key)) is None:
            say("the whole model on validation and test images")
            of_split = {
                "validation": self.subject.logits(self.validation, {}),
                "test": self.subject.logits(self.test, {}),
            }
            head, held = self._fit_head(MaskPoint({}), of_split["validation"]), {}
            for split, (logits, labels) in of_split.items():
                own = baselines(logits, labels, self.problem)
                named = {WHOLE: own.whole, RESTRICTED: own.restricted}
                named[NEW_HEAD] = with_head(head, logits, labels)
                held[split] = {name: one.to_json() for name, one in named.items()}
            store.write_batch(key, held)
        return {
            split: {name: Accuracy.from_json(one) for name, one in found.items()}
            for split, found in held.items()
        }

    def _macs(self, point: MaskPoint) -> float:
        """Multiply-accumulates of a module for one image."""
        if isinstance(self.masks, ChannelMasks):
            opened = copy.deepcopy(self.masks)
            opened.set_open(point.channels)
            return opened.retained_share().item() * sum(self.macs.values())
        return costs(self.subject.named, point.masks, self.example).retained_macs

    def _train(self, store: SweepStore, least: float) -> Training:
        settings = self.settings
        inputs = self.subject.logits_count(self.example)
        head = make_head(inputs, len(self.problem), settings.seed).to(self.subject.device)
        recipe = Recipe(
            settings.lr_head, settings.lr_mask, settings.alphas, settings.n_epochs, settings.seed
        )
        module = Module(self.subject.module, head)
        learner = Learner(module, self.subject.named, self.masks, recipe)
        course = Course(self._choice(least), settings.points, settings.early_stop)
        return train(
            learner,
            lambda number: self._on_device(self.train.epoch(number, settings.train_batch_size)),
            lambda: self._on_device(self.validation.in_order(settings.batch_size)),
            course,
            store.folder / TRAINING,
            lambda: self._prepare(module),
        )

    def _prepare(self, module: Module) -> None:
        """Lets gates on channels start from a head that fits, in the order of importance."""
        masks = self.masks
        if not isinstance(masks, ChannelMasks):
            return
        point = self._fit_head(MaskPoint({}), self.subject.logits(self.validation, {}))
        module.head.load_state_dict(dict(point.head))
        batches = self._on_device(self.train.in_order(self.settings.batch_size))
        importance = channel_importance(module.eval(), self.subject.named, masks.groups, batches)
        masks.start_in_order(importance / masks.macs_by_gate().cpu())

    def _choice(self, least: float) -> Choice:
        return Choice(least, self.settings.target_share)

    def _on_device(self, batches: Batches) -> Batches:
        device = self.subject.device
        return ((images.to(device), labels.to(device)) for images, labels in batches)

    def _save(self, store: SweepStore, training: Training, least: float) -> LearnedMasks:
        """Writes the masks along the path."""
        settings, path = self.settings, training.path
        if not path:
            raise ValueError(f"no module was learned: {training.stopped}")
        first = path[0].point.masks
        metadata = MaskMetadata.of_model(
            self.subject.named,
            method=settings.granularity,
            sites=list(first),
            shapes=[list(mask.shape) for mask in first.values()],
            classes=list(self.problem.names),
            class_indices=[list(group) for group in self.problem.groups],
            ratios=[one.epoch.ratio for one in path],
            selected=self._choice(least).of(path),
            notes=[vars(one.epoch) for one in path],
            settings=self.arguments,
            data_sha256=self.train.data.fingerprint,
            seed=settings.seed,
        )
        learned = LearnedMasks([one.point for one in path], metadata)
        learned.save(store.folder / MASK)
        return learned

    def _kept(self, point: MaskPoint) -> dict[str, float]:
        """Share of each layer's weights, or of each group's channels, that is retained."""
        if point.channels:
            return {name: float(one.double().mean()) for name, one in point.channels.items()}
        suffix = ".weight"
        return {
            name.removesuffix(suffix): float(mask.double().mean())
            for name, mask in point.masks.items()
            if name.endswith(suffix)
        }

    def _networks(
        self, store: SweepStore, learned: LearnedMasks
    ) -> tuple[dict[str, Accuracy], Smaller | None]:
        """The selected module as a network of its own: fine-tuned, written and measured once."""
        settings, point = self.settings, learned.selected
        key = f"networks,{learned.fingerprint[:16]}"
        held = store.read_batch(key)
        if held is None or not (store.folder / MODULE).is_dir() and settings.runtimes:
            whole, modules = module_networks(
                self.model, self.masks, point, self.example, settings.round_to
            )
            tuned = self._tune(store, whole, modules, point) if settings.fine_tune else {}
            held = {"tuned": {name: one.to_json() for name, one in tuned.items()}, "smaller": None}
            if settings.runtimes:
                say("writing the module, and measuring it in three runtimes")
                names, folder = self.problem.names, store.folder / MODULE
                smaller = write_smaller(folder, self.model, whole, modules, names, self.example)
                held["smaller"] = smaller.to_json()
            store.write_batch(key, held)
        tuned = {name: Accuracy.from_json(one) for name, one in held["tuned"].items()}
        return tuned, held["smaller"] and Smaller.from_json(held["smaller"])

    def _tune(
        self, store: SweepStore, whole: nn.Module, modules: dict[str, Module], point: MaskPoint
    ) -> dict[str, Accuracy]:
        """Fine-tunes the module, which takes its place among the modules, and the whole model."""
        settings, last = self.settings, list(modules)[-1]
        target = Target(
            self.train,
            self.validation,
            len(self.problem),
            settings.train_batch_size,
            self.subject.device,
        )
        head = self._fit_head(MaskPoint({}), self.subject.logits(self.validation, {}))
        begun = {TUNED_MODULE: modules[last], TUNED_WHOLE: with_head_of(head, whole)}
        found = {}
        for name, network in begun.items():
            file = store.folder / TRAINING / f"{safe_name(name)}.safetensors"
            masks = point.masks if name == TUNED_MODULE and last == MASKED else None
            network = tuned(
                network, target, lr=settings.lr_fine_tune, epochs=settings.fine_tune,
                seed=settings.seed, file=file, title=name, masks=masks,
            )  # fmt: skip
            found[name] = accuracy_of(network, self.test, settings.batch_size)
            if name == TUNED_MODULE:
                modules[last] = network
        return found

    def _controls(self, store: SweepStore, kind: str, training: Training) -> list[Accuracy]:
        found = []
        for one in training.path:
            masks = control_masks(
                kind, self.subject.named, self.masks, one.epoch.share, self.settings.seed
            )
            found.append(self._answers(store, kind, MaskPoint(masks), one.epoch.number))
        return found

    def _answers(self, store: SweepStore, kind: str, point: MaskPoint, epoch: int) -> Accuracy:
        """Which test images a module tells right; one without a head is given one first."""
        key = f"{kind},epoch={epoch},test={self.test_data.fingerprint[:16]}"
        if (held := store.read_batch(key)) is None:
            if not point.head:
                point = self._fit_head(point, self.subject.logits(self.validation, point.masks))
            logits, labels = self.subject.logits(self.test, point.masks)
            held = with_head(point, logits, labels).to_json()
            store.write_batch(key, held)
        return Accuracy.from_json(held)

    def _fit_head(self, point: MaskPoint, validation: tuple[Tensor, Tensor]) -> MaskPoint:
        settings = self.settings
        return fit_head(
            point,
            self.subject.logits(self.train, point.masks),
            validation,
            len(self.problem),
            lr=settings.lr_head,
            batch_size=settings.train_batch_size,
            epochs=min(_HEAD_EPOCHS, settings.n_epochs * len(settings.alphas)),
            seed=settings.seed,
        )

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        return publish(store.folder, self.findings, store.manifest)
