"""`aim-plugins reengineer`: which channels a task needs, and what the model is worth with fewer.

OUTPUT/
  results.csv       a line for each share: accuracies with intervals, and differences
  results.json      every log-likelihood behind them
  masks/            masks of all shares, which harnesses evaluate as mask=OUTPUT/masks
  smaller/          the smaller model of the chosen share, as transformers saves it
  curves/           the picture
  report.html
  manifest.json
  records/          finished steps, from which a killed run goes on
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aim_plugins.core.commands import say
from aim_plugins.core.identity import model_fingerprint, seed_of
from aim_plugins.engines.loading import load_engine
from aim_plugins.modulation.masks import masked, retained_ratio
from aim_plugins.modulation.retained import LearnedMasks, MaskMetadata, MaskPoint
from aim_plugins.reengineering.curve import Curve, Rates, Speed, Step
from aim_plugins.reengineering.front import publish
from aim_plugins.reengineering.groups import Removable, find_removable, masks_of
from aim_plugins.reengineering.importance import keep_most_important, taylor_importance
from aim_plugins.reengineering.removal import channel_counts, smaller_model
from aim_plugins.reengineering.settings import TaskModuleSettings
from aim_plugins.reengineering.speed import measure_speed
from aim_plugins.reengineering.wording import Findings
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from aim_plugins.task_documents import fingerprint_of
from aim_plugins.task_questions.answers import Answers
from aim_plugins.task_questions.questions import (
    Question,
    load_choices,
    read_questions,
    score_choices,
)
from aim_plugins.task_questions.split import split_documents

Kept = dict[str, Bool[Tensor, " channels"]]


class ReengineeringStudy(FolderStudy):
    """A causal model with ever fewer channels, ranked for one task.

    Args:
        settings: Model, task, shares.
        command: The words that repeat it, for the report.
    """

    packages = ("aim-plugins", "lm-eval", "transformers", "torch")

    def __init__(self, settings: TaskModuleSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command, self.output = settings, command, settings.folder

    @property
    def arguments(self) -> dict[str, Any]:
        names = ("limit", "also_limit", "tolerance", "removals", "dtype", "max_length", "seed")
        return {
            "command": "reengineer",
            "model": self.settings.model,
            "task": self.settings.task,
            "also": list(self.settings.also),
            "shares": list(self.settings.falling),
            "split": list(self.settings.split),
            **{name: getattr(self.settings, name) for name in names},
        }

    def load(self) -> None:
        settings = self.settings
        self.documents = load_choices(settings)
        own = self.documents[settings.task]
        split = split_documents(own, settings.split, settings.seed)
        engine = load_engine(settings.model, argument="model", **settings.loading)
        self.model, self.tokenizer = engine.model, engine.tokenizer
        self.removable: Removable = find_removable(self.model)
        questions = {
            name: read_questions(documents, self.tokenizer, engine.max_length)
            for name, documents in self.documents.items()
        }
        own_questions = questions.pop(settings.task)
        self.learning, self.validation, self.test = (
            [own_questions[place] for place in part]
            for part in (split.learning, split.validation, split.test)
        )
        self.others = questions
        self.learned_from = fingerprint_of([own[place] for place in split.learning])

    def measure(self, store: SweepStore) -> None:
        documents = [one for members in self.documents.values() for one in members]
        store.pin_manifest(
            model_fingerprint=model_fingerprint(self.model),
            documents_fingerprint=fingerprint_of(documents),
        )
        parts = {"learning": self.learning, "validation": self.validation, "test": self.test}
        store.update_manifest(documents={name: len(part) for name, part in parts.items()})
        everything = {
            group.name: torch.ones(group.size, dtype=torch.bool) for group in self.removable.groups
        }
        whole = self._step(store, 1.0, everything)
        importance = self._importance(store)
        path: list[Kept] = []
        steps = []
        for share in self.settings.falling:
            counts = channel_counts(self.model.config, self.removable, share)
            path.append(keep_most_important(importance, counts))
            steps.append(self._step(store, share, path[-1]))
        self.curve = Curve(whole, steps, self.settings.tolerance)
        self._save_masks(path)
        self.speed, self.deviation = self._save_smaller(store, path[self.curve.selected])

    def _importance(self, store: SweepStore) -> dict[str, Float[Tensor, " channels"]]:
        """The importance of every channel, in the whole model."""
        held = store.read_batch("importance")
        if held is None:
            from tqdm import tqdm

            with tqdm(desc="importance", total=len(self.learning), unit="document") as bar:
                found = taylor_importance(
                    self.model,
                    self.removable.groups,
                    self.learning,
                    self.settings.batch_size,
                    bar.update,
                )
            held = {name: one.tolist() for name, one in found.items()}
            store.write_batch("importance", held)
        return {name: torch.tensor(one) for name, one in held.items()}

    def _step(self, store: SweepStore, share: float, kept: Kept) -> Step:
        held = store.read_batch(f"step {share:g}")
        if held is None:
            held = self._measure_step(share, kept).to_json()
            store.write_batch(f"step {share:g}", held)
        return Step.from_json(held)

    def _measure_step(self, share: float, kept: Kept) -> Step:
        model, groups = self.model, self.removable.groups
        neurons, heads = (
            int(kept[one[0].name].sum()) if one else 0
            for one in (self.removable.neurons, self.removable.heads)
        )
        counted = f"{neurons} neurons" + f" and {heads} key-value heads" * bool(heads)
        say(f"reengineer: answers with {counted} of each block (share {share:g})")
        masks = masks_of(model, groups, kept)
        with masked(model, masks):
            validation, test = self._answers(self.validation), self._answers(self.test)
            others = {name: self._answers(one) for name, one in self.others.items()}
        removals = []
        for draw in range(self.settings.removals if share < 1 else 0):
            with masked(model, masks_of(model, groups, self._drawn(kept, draw))):
                removals.append(self._answers(self.test))
        removed = sum(
            (1 - int(mask.sum()) / mask.numel()) * model.get_parameter(name).numel()
            for name, mask in masks.items()
        )
        return Step(
            share,
            neurons,
            heads,
            retained_ratio(model, masks),
            sum(one.numel() for one in model.parameters()) - round(removed),
            validation,
            test,
            removals,
            others,
        )

    def _answers(self, questions: Sequence[Question]) -> Answers:
        scores = score_choices(self.model, questions, self.settings.batch_size)
        return Answers(scores, [one.right for one in questions])

    def _drawn(self, kept: Kept, draw: int) -> Kept:
        """As many channels of each group, drawn at random."""
        seed = seed_of(self.settings.seed, "removal", draw)
        generator = torch.Generator().manual_seed(seed)
        values = {name: torch.rand(len(one), generator=generator) for name, one in kept.items()}
        counts = {name: int(one.sum()) for name, one in kept.items()}
        return keep_most_important(values, counts)

    def _save_masks(self, path: Sequence[Kept]) -> LearnedMasks:
        # Shares that leave as many channels are one mask, as a ratio has to name a mask.
        steps = self.curve.steps
        unique = {step.ratio: (step, kept) for step, kept in zip(steps, path, strict=True)}
        points = [
            MaskPoint(masks_of(self.model, self.removable.groups, kept))
            for _, kept in unique.values()
        ]
        first = points[0].masks
        metadata = MaskMetadata.of_model(
            self.model,
            sites=first,
            method="channel",
            seed=self.settings.seed,
            data_sha256=self.learned_from,
            shapes=[list(one.shape) for one in first.values()],
            ratios=list(unique),
            selected=list(unique).index(steps[self.curve.selected].ratio),
            notes=[
                {"share": one.share, "validation_accuracy": one.validation.accuracy}
                for one, _ in unique.values()
            ],
            settings={"task": self.settings.task, "importance": "Taylor, gates"},
        )
        learned = LearnedMasks(points, metadata)
        learned.save(self.output / "masks")
        return learned

    def _save_smaller(self, store: SweepStore, kept: Kept) -> tuple[Speed, float]:
        """Saves the smaller model; its speed, and how far its answers are from the mask's."""
        held, folder = store.read_batch("smaller model"), self.output / "smaller"
        if held is None or not all((folder / name).is_file() for name in held["files"]):
            say(f"reengineer: the smaller model goes to {folder}")
            smaller = smaller_model(self.model, self.removable, kept)
            smaller.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            scores = score_choices(smaller, self.test, self.settings.batch_size)
            under_mask = self.curve.steps[self.curve.selected].test.scores
            deviation = max(
                abs(one - other)
                for row, others in zip(scores, under_mask, strict=True)
                for one, other in zip(row, others, strict=True)
            )
            speed = measure_speed(self.model, smaller)
            files = sorted(one.name for one in folder.iterdir())
            held = {"speed": asdict(speed), "deviation": deviation, "files": files}
            store.write_batch("smaller model", held)
        speed = Speed(**{name: Rates(**one) for name, one in held["speed"].items()})
        return speed, float(held["deviation"])

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        found = Findings(self.settings, self.curve, self.speed, self.deviation)
        return publish(self.output, found, store.manifest)
