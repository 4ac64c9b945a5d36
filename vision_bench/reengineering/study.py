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

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aim_plugins.core.commands import say
from aim_plugins.modulation.channels import ChannelMasks
from aim_plugins.modulation.masks import own_parameters
from aim_plugins.modulation.retained import LearnedMasks, MaskMetadata, MaskPoint
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from vision_bench.reengineering.baselines import Accuracy, baselines
from vision_bench.reengineering.choices import MASK, TRAINING
from vision_bench.reengineering.controls import CONTROLS, control
from vision_bench.reengineering.costs import size_of
from vision_bench.reengineering.evaluation import with_head
from vision_bench.reengineering.findings import (
    BASELINES,
    NEW_HEAD,
    RESTRICTED,
    WHOLE,
    Findings,
    Held,
)
from vision_bench.reengineering.front import publish
from vision_bench.reengineering.importance import channel_importance
from vision_bench.reengineering.learn import Learner, Recipe
from vision_bench.reengineering.module import Module, make_head
from vision_bench.reengineering.networks import OfNetworks
from vision_bench.reengineering.onnx_file import require_runtimes
from vision_bench.reengineering.path import Choice
from vision_bench.reengineering.settings import ReengineerSettings
from vision_bench.reengineering.training import Course, Training, train

_HEAD_EPOCHS = 50
"""Epochs that a head behind fixed outputs is trained for at most."""


class ReengineerStudy(OfNetworks, FolderStudy):
    """A classifier that is re-engineered to the classes of a problem.

    Args:
        settings: Model, data, problem, and how to learn.
        command: The words that repeat it, for the report.
    """

    settings: ReengineerSettings

    def __init__(self, settings: ReengineerSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command, self.output = settings, command, settings.folder

    @property
    def arguments(self) -> dict[str, Any]:
        settings = self.settings
        names = (
            "dataset", "split", "limit", "train_split", "train_limit", "seed", "superclass_type",
            "n_classes", "granularity", "lr_head", "n_epochs", "early_stop", "train_batch_size",
            "augment", "validation_share", "baseline", "tolerance", "target_share", "round_to",
            "fine_tune", "lr_fine_tune", "points",
        )  # fmt: skip
        chosen = {
            name: None if (one := getattr(settings, name)) is None else str(one)
            for name in ("target_class", "target_superclass_idx")
        }
        return {
            "command": "reengineer run",
            "model": settings.model_name,
            **{name: getattr(settings, name) for name in names},
            "stages": [list(one) for one in settings.stages],
            "classes": [str(one) for one in settings.classes],
            **chosen,
        }

    def load(self) -> None:
        settings = self.settings
        if settings.runtimes:
            require_runtimes()
        data = self.load_classifier(settings)
        self.problem = settings.problem(data.classes)
        self.load_images(settings, data, settings.seed, settings.augment)
        self.masks = self.make_masks(settings.granularity)

    def measure(self, store: SweepStore) -> None:
        self.note_problem(store)
        held = self._baselines(store)
        validation = held["validation"][self.settings.baseline]
        least = validation.value - self.settings.tolerance
        say(
            f"to be reached on {len(validation.right)} validation images: {least:.4f} "
            f"({BASELINES[self.settings.baseline]})"
        )
        choice = Choice(least, self.settings.target_share)
        training = self._train(store, choice)
        learned = self._save(store, training, choice)
        place = learned.metadata.selected
        modules = [self._module(store, one.point, one.epoch.number) for one in training.path]
        controls = {kind: self._controls(store, kind, training) for kind in CONTROLS}
        tuned, smaller = self.networks(store, learned, training.path[place].epoch.share)
        self.findings = Findings(
            problem=self.problem,
            title=self.title,
            granularity=self.settings.granularity,
            epochs=training.epochs,
            path=[one.epoch for one in training.path],
            selected=place,
            choice=choice,
            validation_images=len(validation.right),
            baselines=held["test"],
            modules=modules,
            controls=controls,
            macs=sum(self.macs.values()),
            weights=sum(
                one.numel()
                for layer in self.subject.named.modules()
                for one in own_parameters(layer).values()
            ),
            kept=self._kept(training.path[place].point),
            tuned=tuned,
            smaller=smaller,
            stopped=training.stopped,
        )
        self.tell_left_out()

    def _baselines(self, store: SweepStore) -> dict[str, dict[str, Accuracy]]:
        """By split, the whole model: over all classes, restricted, and with a head of its own."""
        key = self._key("baselines")
        if (held := store.read_batch(key)) is None:
            say("the whole model on validation and test images")
            head, held = self.whole_head, {}
            for split, images in (("validation", self.validation), ("test", self.test)):
                logits, labels = self.subject.logits(images, {})
                own = baselines(logits, labels, self.problem)
                named = {WHOLE: own.whole, RESTRICTED: own.restricted}
                named[NEW_HEAD] = with_head(head, logits, labels)
                held[split] = {name: one.to_json() for name, one in named.items()}
            store.write_batch(key, held)
        return {
            split: {name: Accuracy.from_json(one) for name, one in found.items()}
            for split, found in held.items()
        }

    def _train(self, store: SweepStore, choice: Choice) -> Training:
        settings, device = self.settings, self.subject.device
        inputs = self.subject.logits_count(self.example)
        head = make_head(inputs, len(self.problem), settings.seed).to(device)
        module = Module(self.subject.module, head)
        recipe = Recipe(settings.lr_head, settings.stages, settings.n_epochs, settings.seed)
        return train(
            Learner(module, self.subject.named, self.masks, recipe),
            lambda number: self.on_device(self.train.epoch(number, settings.train_batch_size)),
            lambda: self.on_device(self.validation.in_order(settings.batch_size)),
            Course(choice, settings.points, settings.early_stop),
            store.folder / TRAINING,
            lambda: self._prepare(module),
        )

    def _prepare(self, module: Module) -> None:
        """Lets gates on channels start from a head that fits, in the order of importance."""
        masks = self.masks
        if not isinstance(masks, ChannelMasks):
            return
        module.head.load_state_dict(dict(self.whole_head.head))
        batches = self.on_device(self.train.in_order(self.settings.batch_size))
        importance = channel_importance(module.eval(), self.subject.named, masks.groups, batches)
        # A gate that saves no MACs is the last to close.
        masks.start_in_order(importance / masks.macs_by_gate().cpu().clamp(min=1e-12))

    def _save(self, store: SweepStore, training: Training, choice: Choice) -> LearnedMasks:
        """Writes the masks along the path."""
        path, first = training.path, training.path[0].point.masks
        metadata = MaskMetadata.of_model(
            self.subject.named,
            method=self.settings.granularity,
            sites=list(first),
            shapes=[list(mask.shape) for mask in first.values()],
            classes=list(self.problem.names),
            class_indices=[list(group) for group in self.problem.groups],
            ratios=[one.epoch.ratio for one in path],
            selected=choice.of(path),
            notes=[vars(one.epoch) for one in path],
            settings=self.arguments,
            data_sha256=self.train.data.fingerprint,
            seed=self.settings.seed,
        )
        learned = LearnedMasks([one.point for one in path], metadata)
        learned.save(store.folder / MASK)
        return learned

    def _kept(self, point: MaskPoint) -> dict[str, float]:
        """Share of each layer's weights, or of each group's channels, that is retained."""
        if point.channels:
            return {name: float(one.double().mean()) for name, one in point.channels.items()}
        return {
            name.removesuffix(".weight"): float(mask.double().mean())
            for name, mask in point.masks.items()
            if not name.endswith("bias")
        }

    def _module(self, store: SweepStore, point: MaskPoint, epoch: int) -> Held:
        key = self._key("module", epoch)
        if (held := store.read_batch(key)) is None:
            size = size_of(self.subject.named, self.masks, point, self.macs)
            held = Held(self.right(point), size.ratio, size.macs).to_json()
            store.write_batch(key, held)
        return Held.from_json(held)

    def _controls(self, store: SweepStore, kind: str, training: Training) -> list[Held]:
        """What is held against each module: as much of the model, with a head of its own."""
        found = []
        for one in training.path:
            key = self._key(kind, one.epoch.number)
            if (held := store.read_batch(key)) is None:
                point, _ = control(
                    kind, self.subject.named, self.masks, one.epoch.share, self.settings.seed
                )
                size = size_of(self.subject.named, self.masks, point, self.macs)
                answers = self.right(self.new_head(point, relu=False), relu=False)
                held = Held(answers, size.ratio, size.macs).to_json()
                store.write_batch(key, held)
            found.append(Held.from_json(held))
        return found

    def new_head(self, point: MaskPoint, relu: bool = True) -> MaskPoint:
        settings = self.settings
        epochs = min(_HEAD_EPOCHS, settings.n_epochs * len(settings.stages))
        return self.with_new_head(point, settings, epochs, relu)

    def _key(self, *words: object) -> str:
        return ",".join(map(str, (*words, f"test={self.test.data.fingerprint[:16]}")))

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        return publish(store.folder, self.findings, store.manifest)
