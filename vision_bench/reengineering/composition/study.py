"""`vision-bench reengineer compose`: what modules share, and one model for all their classes.

OUTPUT/
  overlaps.csv      what each pair of modules shares, in all and by layer, and would by chance
  composition.csv   the composed model, and what it is held against
  mask/             its masks and its head, as of a module; it may be composed further
  module/           the same as a network of its own: safetensors, JSON and ONNX
  curves/           pictures
  report.html
  manifest.json
  records/          answers to test images
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from aim_plugins.core.commands import say
from aim_plugins.modulation.retained import LearnedMasks, MaskMetadata, MaskPoint
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from vision_bench.reengineering.baselines import Accuracy, accuracy, baselines
from vision_bench.reengineering.choices import MASK, MODULE
from vision_bench.reengineering.composition.findings import (
    COMPOSED,
    SIDE_BY_SIDE,
    Findings,
    Shared,
)
from vision_bench.reengineering.composition.front import publish
from vision_bench.reengineering.composition.modules import (
    Member,
    check_members,
    read_members,
    union_problem,
)
from vision_bench.reengineering.composition.overlaps import find_overlaps
from vision_bench.reengineering.composition.settings import ComposeSettings
from vision_bench.reengineering.composition.union import side_by_side, union_of
from vision_bench.reengineering.controls import CONTROLS, control
from vision_bench.reengineering.costs import Size, size_of
from vision_bench.reengineering.evaluation import with_head
from vision_bench.reengineering.findings import NEW_HEAD, RESTRICTED, WHOLE
from vision_bench.reengineering.onnx_file import require_runtimes
from vision_bench.reengineering.problem_study import OfProblem
from vision_bench.reengineering.saved_module import save_module
from vision_bench.reengineering.smaller import module_networks


class ComposeStudy(OfProblem, FolderStudy):
    """Modules of a classifier that are composed to one model.

    Args:
        settings: Model, data, modules, and how the head is trained.
        command: The words that repeat it, for the report.
    """

    def __init__(self, settings: ComposeSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command, self.output = settings, command, settings.folder

    @cached_property
    def members(self) -> list[Member]:
        """The modules, in the order of their classes."""
        return read_members(self.settings.modules)

    @property
    def arguments(self) -> dict[str, Any]:
        settings = self.settings
        names = (
            "dataset", "split", "limit", "train_split", "train_limit", "seed", "lr_head",
            "n_epochs", "train_batch_size", "validation_share", "round_to", "runtimes",
        )  # fmt: skip
        return {
            "command": "reengineer compose",
            "model": settings.model_name,
            **{name: getattr(settings, name) for name in names},
            "modules": [one.learned.fingerprint for one in self.members],
        }

    def load(self) -> None:
        settings = self.settings
        if settings.runtimes:
            require_runtimes()
        data = self.load_classifier(settings)
        check_members(self.members, self.subject.named, data.classes)
        self.problem = union_problem(self.members)
        # The modules' own splits were drawn among other classes, so these validation images may
        # have trained masks; here they choose the epoch of a head, and test images nothing.
        self.load_images(settings, data, seed=0)
        self.union = union_of([one.point for one in self.members])
        self.masks = self.make_masks("channel" if self.union.channels else "weight")

    def measure(self, store: SweepStore) -> None:
        self.note_problem(store, folders=[str(one.folder) for one in self.members])
        say(f"what {len(self.members)} modules share")
        names = [one.name for one in self.members]
        shared = [
            Shared(one, (names[one.first], names[one.second]))
            for one in find_overlaps([one.point for one in self.members])
        ]
        whole, size = self._size(MaskPoint({})), self._size(self.union)
        answers = self._answers(store, size, whole)
        self.findings = Findings(
            problem=self.problem,
            title=self.title,
            granularity="channel" if self.union.channels else "weight",
            modules={one.name: self._size(one.point) for one in self.members},
            shared=shared,
            baselines={name: answers[name] for name in (WHOLE, RESTRICTED, NEW_HEAD)},
            compositions={name: answers[name] for name in (COMPOSED, SIDE_BY_SIDE)},
            controls={name: answers[name] for name in CONTROLS},
            size=size,
            whole=whole,
        )
        self.tell_left_out()

    def _size(self, point: MaskPoint) -> Size:
        return size_of(self.subject.named, self.masks, point, self.macs)

    def _answers(self, store: SweepStore, size: Size, whole: Size) -> dict[str, Accuracy]:
        """Which test images the composed model tells right, and what it is held against."""
        key = f"answers,test={self.test.data.fingerprint[:16]}"
        if (held := store.read_batch(key)) is None:
            say("the whole model, and a head behind it")
            logits, labels = self.subject.logits(self.test, {})
            own = baselines(logits, labels, self.problem)
            found = {WHOLE: own.whole, RESTRICTED: own.restricted}
            found[NEW_HEAD] = with_head(self._with_new_head(MaskPoint({})), logits, labels)
            say("the composed model, and a head behind it")
            composed = self._with_new_head(self.union)
            found[COMPOSED] = self.right(composed)
            found[SIDE_BY_SIDE] = self._side_by_side()
            share = size.macs / whole.macs if composed.channels else size.ratio
            for kind in CONTROLS:
                say(f"{kind} of the same share, and a head behind them")
                point, _ = control(kind, self.subject.named, self.masks, share, self.settings.seed)
                found[kind] = self.right(self._with_new_head(point, relu=False), relu=False)
            self._save(store, composed, size.ratio)
            if self.settings.runtimes:
                self._write(store, composed)
            held = {name: one.to_json() for name, one in found.items()}
            store.write_batch(key, held)
        return {name: Accuracy.from_json(one) for name, one in held.items()}

    def _with_new_head(self, point: MaskPoint, relu: bool = True) -> MaskPoint:
        return self.with_new_head(point, self.settings, self.settings.n_epochs, relu)

    def _side_by_side(self) -> Accuracy:
        outputs: list[Tensor] = []
        for one in self.members:
            say(f"the module of {one.name}")
            logits, labels = self.subject.logits(self.test, one.point.masks)
            outputs.append(
                F.linear(F.relu(logits), one.point.head["weight"], one.point.head["bias"])
            )
        scores = side_by_side(outputs, [one.groups for one in self.members], self.problem)
        return accuracy(scores, labels)

    def _save(self, store: SweepStore, point: MaskPoint, ratio: float) -> None:
        """Writes the composed model as a module, a path of one point."""
        first = self.members[0].metadata
        metadata = MaskMetadata.of_model(
            self.subject.named,
            method=first.method,
            sites=first.sites,
            shapes=first.shapes,
            classes=list(self.problem.names),
            class_indices=[list(group) for group in self.problem.groups],
            ratios=[ratio],
            notes=[{"modules": [one.name for one in self.members]}],
            settings=self.arguments,
            data_sha256=self.train.data.fingerprint,
            seed=self.settings.seed,
        )
        ordered: Mapping[str, Tensor] = {name: point.masks[name].cpu() for name in first.sites}
        LearnedMasks([replace(point, masks=ordered)], metadata).save(store.folder / MASK)

    def _write(self, store: SweepStore, point: MaskPoint) -> None:
        """Writes the composed model as a network of its own."""
        example, round_to = self.example.cpu(), self.settings.round_to
        _, modules = module_networks(self.model, self.masks, point, example, round_to)
        last, method = list(modules.values())[-1], self.members[0].metadata.method
        names = self.problem.names
        save_module(store.folder / MODULE, last, self.model, names, example, method=method)

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        return publish(store.folder, self.findings, store.manifest)
