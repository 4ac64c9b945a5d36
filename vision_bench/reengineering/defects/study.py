"""`vision-bench reengineer defects`: which defects of a public model its descendants inherit.

OUTPUT/
  defects.json      every arm: retained, accuracy, DIR, difference to standard fine-tuning
  defects.csv       the same as a table
  curves/           pictures
  report.html
  manifest.json
  masks/            SeaM's masks, as an artifact of the house
  models/           the weights of each arm
  records/          finished arms and attacked batches, from which a killed run goes on
  unfinished/       the state of the arm that is being made, epoch by epoch
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor, nn

from aim_plugins.core.devices import best_device
from aim_plugins.core.files import sha256_of, write_atomic
from aim_plugins.core.identity import seed_of
from aim_plugins.modulation.retained import LearnedMasks, MaskMetadata, MaskPoint
from aim_plugins.sweep.page import Exhibit
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from vision_bench.attacks.features import FeatureAttack, objective
from vision_bench.data.classification import ClassificationData, load_dataset
from vision_bench.data.dataset import list_left_out
from vision_bench.data.samples import first_readable, read_samples
from vision_bench.models.load import load_model
from vision_bench.models.output_layer import find_output_layer
from vision_bench.reengineering.defects.arms import Reuse, random_network
from vision_bench.reengineering.defects.attacked import Attacker, answers_to
from vision_bench.reengineering.defects.findings import Finding, Findings
from vision_bench.reengineering.defects.front import publish
from vision_bench.reengineering.defects.inheritance import Answers, guessing_accuracy
from vision_bench.reengineering.defects.output_layer import (
    feature_extractor,
    replace_output_layer,
)
from vision_bench.reengineering.defects.pictures import picture_of
from vision_bench.reengineering.defects.settings import (
    RETRAIN,
    SEAM,
    STANDARD,
    WITH_MASKS,
    DefectsSettings,
)
from vision_bench.reengineering.target import Target

_NOT_RESULTS = ("output", "device", "workers", "data_root", "train_root")
"""Settings that no result depends on; data is told by its fingerprint."""

_UNFINISHED = "unfinished"

_SHOWN = 8
"""Attacked images in the report."""


class DefectsStudy(FolderStudy):
    """The arms of one public model and one target.

    Args:
        settings: Model, target, arms.
        command: The words that repeat it, for the report.

    Attributes:
        findings: What was measured, by arm; known after `run`.
    """

    def __init__(self, settings: DefectsSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command, self.output = settings, command, settings.folder
        self.findings: list[Finding] = []

    @property
    def arguments(self) -> dict[str, Any]:
        chosen = {k: v for k, v in asdict(self.settings).items() if k not in _NOT_RESULTS}
        chosen["arms"] = list(self.settings.arms)
        return {"command": "reengineer defects", **chosen}

    def load(self) -> None:
        settings = self.settings
        self.device = best_device(settings.device)
        self.public = load_model(
            settings.public.model_name,
            weights=settings.public.weights_source,
            classes=settings.public_classes,
            prompts=settings.prompts,
            preprocessing=settings.preprocessing,
            device=self.device,
            seed=0,
        )
        self.test = self._data(
            settings.data_folder, settings.split, settings.limit, settings.labels
        )
        self.train = self._data(settings.train_folder, settings.train_split, settings.train_limit)
        if self.train.classes != self.test.classes:
            raise ValueError(
                f"train_split={settings.train_split!r} has {len(self.train.classes)} classes and "
                f"the test images {len(self.test.classes)}, or others: give splits of one data set"
            )
        example = first_readable(self.test)[None].to(self.device)
        self.output_layer = find_output_layer(self.public.module, example)
        self._try_what_comes_late(example)

    def _try_what_comes_late(self, example: Float[Tensor, "1 3 height width"]) -> None:
        """Fails now where the attack, an arm or the report would fail after hours of training."""
        if find_spec("scipy") is None:
            raise ImportError("intervals need scipy: pip install 'aim-plugins[vision]'")
        with torch.inference_mode():
            objective(feature_extractor(self.public.module, self.output_layer)(example))
        if RETRAIN in self.settings.arms:
            random_network(self.public, len(self.test.classes), self.device, seed=0)

    def _data(
        self, root: str | None, split: str | None, limit: int | None, labels: str | None = None
    ) -> ClassificationData:
        return load_dataset(
            self.settings.dataset,
            root,
            split=split,
            preprocessing=self.public.preprocessing,
            limit=limit,
            labels=labels,
            on_error=self.settings.on_error,
        )

    @cached_property
    def target(self) -> Target:
        """The training images; read only where an arm is missing."""
        settings = self.settings
        return Target.of(
            self.train,
            validation_share=settings.validation_share,
            augment=settings.augment,
            batch_size=settings.train_batch_size,
            device=self.device,
            workers=settings.workers,
            seed=settings.seed,
        )

    @cached_property
    def reuse(self) -> Reuse:
        """What makes arms; used only where one is missing."""
        if self.settings.on_error == "raise":
            # An image that ends the run ends it before the arms are trained.
            every = [[one] for one in range(len(self.test))]
            for _ in read_samples(self.test, every, self.settings.workers):
                pass
        folder = self.settings.folder / _UNFINISHED
        return Reuse(self.public, self.output_layer, self.target, self.settings, folder)

    def measure(self, store: SweepStore) -> None:
        store.pin_manifest(
            model_fingerprint=self.public.fingerprint,
            data_fingerprint=self.test.fingerprint,
            train_fingerprint=self.train.fingerprint,
        )
        store.update_manifest(
            model=self.public.title,
            weights=self.public.weights,
            output_layer=self.output_layer,
            images=len(self.test),
        )
        models = {name: self._arm(store, name) for name in self.settings.arms}
        left_out = dict(self.train.unreadable)
        if "target" in vars(self):
            left_out |= self.target.unreadable
        answers = self._answers(store, models)
        self.findings = [
            Finding(name, answers[name], **self._facts(store, name)) for name in models
        ]
        left_out |= self.test.unreadable
        store.update_manifest(left_out=left_out)
        if left_out:
            print(list_left_out(left_out))

    def _facts(self, store: SweepStore, name: str) -> dict[str, Any]:
        """What is noted of an arm that was made."""
        held = store.read_batch(f"arm,{name}")
        assert held is not None
        return held["facts"]

    def _masks(self, store: SweepStore) -> LearnedMasks:
        """SeaM's masks, learned once and kept in the folder."""
        folder = store.folder / "masks"
        held = store.read_batch("masks")
        if held is not None and folder.is_dir():
            kept = LearnedMasks.load(folder)
            if kept.fingerprint == held["fingerprint"]:
                return kept
        found = self.reuse.learn_masks()
        masks = {name: one.cpu() for name, one in found.masks.items()}
        notes = {name: value for name, value in vars(found).items() if name != "masks"}
        metadata = MaskMetadata.of_model(
            self.public.module,
            sites=list(masks),
            method="weight",
            shapes=[list(one.shape) for one in masks.values()],
            ratios=[found.retained],
            notes=[notes],
            seed=self.settings.seed,
            settings=self.arguments,
        )
        learned = LearnedMasks([MaskPoint(masks)], metadata)
        learned.save(folder)
        store.write_batch("masks", {"fingerprint": learned.fingerprint, **notes})
        shutil.rmtree(self.reuse.folder, ignore_errors=True)
        return learned

    def _arm(self, store: SweepStore, name: str) -> nn.Module:
        """A reused model, made once and kept in the folder."""
        path = store.folder / "models" / f"{name}.safetensors"
        held = store.read_batch(f"arm,{name}")
        if held is not None and path.is_file() and sha256_of(path) == held["sha256"]:
            model = replace_output_layer(
                self.public.module, self.output_layer, len(self.test.classes), 0
            )
            model.load_state_dict(read_tensors(path.read_bytes()))
            return model.to(self.device).eval()
        learned = self._masks(store).selected.masks if name in WITH_MASKS else None
        arm = self.reuse.make(name, learned)
        state = {
            key: one.detach().cpu().contiguous() for key, one in arm.module.state_dict().items()
        }
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, tensor_bytes(state))
        facts = {"retained": arm.retained, "validation": arm.fitted.accuracy}
        facts |= {"epoch": arm.fitted.epoch, "epochs": arm.fitted.epochs}
        store.write_batch(f"arm,{name}", {"sha256": sha256_of(path), "facts": facts})
        shutil.rmtree(self.reuse.folder, ignore_errors=True)
        return arm.module

    @cached_property
    def attacker(self) -> Attacker:
        settings = self.settings
        seed = seed_of(settings.seed, "attack")
        attack = FeatureAttack(
            settings.eps, settings.eps_iter, settings.nb_iter, settings.clip, seed
        )
        extractor = feature_extractor(self.public.module, self.output_layer)
        return Attacker(extractor, attack, self.test, self.device, settings.workers)

    def _answers(self, store: SweepStore, models: dict[str, nn.Module]) -> dict[str, Answers]:
        """What each arm answers, batch by batch."""
        from tqdm import tqdm

        size, every = self.settings.batch_size, range(len(self.test))
        parts = []
        for start in tqdm(range(0, len(self.test), size), desc="attack", unit="batch"):
            key = f"attacked,{start // size}"
            if (held := store.read_batch(key)) is None:
                images = list(self.attacker(every[start : start + size]))
                positions = [one for part in images for one in part.positions.tolist()]
                held = {"positions": positions, "answers": answers_to(models, images)}
                store.write_batch(key, held)
            parts.append(held)
        self.positions = [one for part in parts for one in part["positions"]]
        labels = self.test.labels[self.positions]

        def right(name: str, kind: str) -> torch.Tensor:
            found = [one for part in parts for one in part["answers"][name][kind]]
            return torch.tensor(found) == labels

        self.predicted = {
            name: [one for part in parts for one in part["answers"][name]["attacked"]]
            for name in models
        }
        return {name: Answers(right(name, "clean"), right(name, "attacked")) for name in models}

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        needed = any(one in WITH_MASKS for one in self.settings.arms)
        labels = self.test.labels[self.positions]
        return publish(
            store.folder,
            Findings(
                self.findings,
                self.settings.prune_threshold,
                guessing_accuracy(labels, len(self.test.classes)),
            ),
            self.settings,
            store.manifest,
            target=self.test.title,
            masks=store.read_batch("masks") if needed else None,
            exhibits=self._exhibits(),
        )

    def _exhibits(self) -> list[Exhibit]:
        """Images that standard fine-tuning loses, first those that SeaM does not."""
        by_name = {one.name: one.answers for one in self.findings}
        lost = by_name[STANDARD].flipped
        kept = by_name[SEAM].attacked if SEAM in by_name else torch.zeros_like(lost)
        rows = [*(lost & kept).nonzero()[:, 0].tolist(), *(lost & ~kept).nonzero()[:, 0].tolist()]
        shown, classes = [], self.test.classes
        for row in rows[:_SHOWN]:
            (image,) = self.attacker([self.positions[row]])
            label = classes[int(self.test.labels[self.positions[row]])]
            pictures = {
                f"clean: {label}": picture_of(image.clean[0], self.public.preprocessing),
                "attacked": picture_of(image.attacked[0], self.public.preprocessing),
            }
            said = [f"{name}: {classes[found[row]]}" for name, found in self.predicted.items()]
            told = f"answers to the attacked image: {', '.join(said)}"
            shown.append(Exhibit(pictures, f"image {self.positions[row]}", told))
        return shown
