"""The selected module of a study as a network: fine-tuned, written, and timed, each once."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from aim_plugins.core.commands import say
from aim_plugins.core.files import safe_name
from aim_plugins.modulation.masks import Masks
from aim_plugins.modulation.retained import LearnedMasks, MaskPoint
from aim_plugins.sweep.store import SweepStore
from vision_bench.reengineering.baselines import Accuracy
from vision_bench.reengineering.choices import MODULE, TRAINING
from vision_bench.reengineering.controls import CONTROLS, control
from vision_bench.reengineering.module import Module
from vision_bench.reengineering.problem_study import OfProblem
from vision_bench.reengineering.saved_module import is_whole
from vision_bench.reengineering.settings import ReengineerSettings
from vision_bench.reengineering.smaller import (
    Smaller,
    module_networks,
    with_head_of,
    write_smaller,
)
from vision_bench.reengineering.target import Target
from vision_bench.reengineering.tuning import TUNED_MODULE, TUNED_WHOLE, accuracy_of, tuned


class OfNetworks(OfProblem, abc.ABC):
    """A part of studies: what comes of the selected module.

    Attributes:
        settings: How to fine-tune, round and write.
        masks: What the module was learned by.
    """

    settings: ReengineerSettings
    masks: Masks

    @cached_property
    def whole_head(self) -> MaskPoint:
        """A head behind the whole model, trained once."""
        return self.new_head(MaskPoint({}))

    @abc.abstractmethod
    def new_head(self, point: MaskPoint, relu: bool = True) -> MaskPoint:
        """Masks with a head that is trained on what the masked model answers."""

    def networks(
        self, store: SweepStore, learned: LearnedMasks, share: float
    ) -> tuple[dict[str, Accuracy], Smaller | None]:
        """What the module and its controls answer fine-tuned, and the module written and timed.

        Args:
            store: The study's.
            learned: The masks.
            share: That of the selected module, which its controls have too.

        Raises:
            ValueError: If the module cannot be written, or answers otherwise than its masks.
            ImportError: If a library of the extra "reengineer" is missing.
            OSError: If a file cannot be written.
        """
        folder, key = store.folder / MODULE, f"networks,{learned.fingerprint[:16]}"
        held = store.read_batch(key)
        if held is None or (self.settings.runtimes and not is_whole(folder)):
            whole, modules = self._networks_of(learned.selected)
            found = {}
            if self.settings.fine_tune:
                begun = {TUNED_MODULE: list(modules.values())[-1]}
                begun[TUNED_WHOLE] = with_head_of(self.whole_head, whole)
                found = self._tune(store, begun, learned.selected, share)
                modules[list(modules)[-1]] = begun[TUNED_MODULE]
            held = {"tuned": {name: one.to_json() for name, one in found.items()}, "smaller": None}
            if self.settings.runtimes:
                say("writing the module, and measuring it in three runtimes")
                names = self.problem.names
                smaller = write_smaller(folder, self.model, whole, modules, names, self.example)
                held["smaller"] = smaller.to_json()
            store.write_batch(key, held)
        found = {name: Accuracy.from_json(one) for name, one in held["tuned"].items()}
        return found, held["smaller"] and Smaller.from_json(held["smaller"])

    def _networks_of(self, point: MaskPoint) -> tuple[nn.Module, dict[str, Module]]:
        round_to = self.settings.round_to
        return module_networks(self.model, self.masks, point, self.example, round_to)

    def _tune(
        self, store: SweepStore, begun: dict[str, Module], point: MaskPoint, share: float
    ) -> dict[str, Accuracy]:
        """Fine-tunes the networks in place of the dictionary, and as long what is held against."""
        masks_of = {TUNED_MODULE: point}
        for kind in CONTROLS:
            chosen, _ = control(kind, self.subject.named, self.masks, share, self.settings.seed)
            chosen = self.new_head(chosen)
            name = f"{kind}, fine-tuned"
            begun[name] = list(self._networks_of(chosen)[1].values())[-1]
            masks_of[name] = chosen
        found = {}
        for name, network in begun.items():
            held = masks_of.get(name)
            # Of channels nothing is held at zero: they are removed.
            masks = held.masks if held is not None and not held.channels else None
            file = store.folder / TRAINING / f"{safe_name(name)}.safetensors"
            begun[name] = self._tuned(network, file, name, masks)
            found[name] = accuracy_of(begun[name], self.test, self.settings.batch_size)
        return found

    def _tuned(
        self, network: Module, file: Path, title: str, masks: Mapping[str, Tensor] | None
    ) -> Module:
        settings = self.settings
        target = Target(
            self.train,
            self.validation,
            len(self.problem),
            settings.train_batch_size,
            self.subject.device,
        )
        return tuned(
            network,
            target,
            lr=settings.lr_fine_tune,
            epochs=settings.fine_tune,
            seed=settings.seed,
            file=file,
            title=title,
            masks=masks,
        )
