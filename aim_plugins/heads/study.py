"""`aim-plugins attribute`: which components a task's answers rest on, and an edit made of them.

OUTPUT/
  results.csv       a line for each component: what it adds, its rank, whether the edit ablates it
  results.json      everything else that was measured
  dataset/          outputs under random ablations, in blocks and as one file
  attributions/     what each component adds to each document that was learned from
  edit/             the components to ablate, which harnesses evaluate as edit=OUTPUT/edit
  curves/           the pictures
  report.html
  manifest.json
  records/          finished steps, from which a killed run goes on
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aim_plugins.attribution.attributions import Attributions
from aim_plugins.attribution.dataset import ComponentDataset, build
from aim_plugins.attribution.edit import edit_scores, edited_components
from aim_plugins.attribution.evaluation import outputs_under
from aim_plugins.attribution.fit import fit_attributions
from aim_plugins.attribution.plan import DatasetPlan
from aim_plugins.core.commands import keeping_finished_work, say
from aim_plugins.core.identity import fingerprint, model_fingerprint
from aim_plugins.engines.loading import load_engine
from aim_plugins.heads.ablated import AblatedModel
from aim_plugins.heads.front import publish
from aim_plugins.heads.parts import read_study_questions
from aim_plugins.heads.prediction import hold_against_truth
from aim_plugins.heads.settings import TaskAttributionSettings
from aim_plugins.heads.subject import QuestionSubject
from aim_plugins.heads.trials import Alone, EditPath, Outcome
from aim_plugins.heads.wording import Findings
from aim_plugins.modulation.component_kinds import find_components
from aim_plugins.modulation.components import Components
from aim_plugins.modulation.edits import ComponentEdit
from aim_plugins.sweep.store import SweepLockedError, SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from aim_plugins.task_documents import fingerprint_of
from aim_plugins.task_questions.questions import Question, load_choices

ALONE = 8
"""So many of the ranking are ablated alone too, at most."""
_PATIENCE = 60
"""Seconds that a part waits for others which begin at the same time."""


class TaskAttributionStudy(FolderStudy):
    """What components of a causal model add to its answers in one task.

    Args:
        settings: Model, task, components.
        command: The words that repeat it, for the report.
    """

    packages = ("aim-plugins", "lm-eval", "transformers", "torch")

    def __init__(self, settings: TaskAttributionSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command, self.output = settings, command, settings.folder

    @property
    def arguments(self) -> dict[str, Any]:
        names = (
            "limit", "also_limit", "components", "output_fn", "alpha", "num_ablations",
            "gradient_passes", "eval_masks", "direction", "random_edits", "dtype", "max_length",
            "seed",
        )  # fmt: skip
        return {
            "command": "attribute",
            "model": self.settings.model,
            "task": self.settings.task,
            "references": list(self.settings.references),
            "also": list(self.settings.also),
            "baselines": list(self.settings.baselines),
            "eval_alphas": list(self.settings.eval_alphas),
            "edit_sizes": list(self.settings.sizes),
            "split": list(self.settings.split),
            **{name: getattr(self.settings, name) for name in names},
        }

    def run(self, trackers: Trackers | None = None) -> Path | None:
        """Runs the study, or builds a part of its dataset; see `FolderStudy.run`."""
        if self.settings.shard is None:
            return super().run(trackers)
        with keeping_finished_work():
            self.check()
            self.load()
            self._claim()
            whole = self._build()
        left = "all parts are there" if whole else "other parts are missing"
        say(f"attribute: part {self.settings.shard} is built, {left}; run it without --shard next")
        return None

    def _claim(self) -> None:
        """Makes the folder this study's; other parts may do so at the same moment."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return self.open().close()
            except SweepLockedError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def load(self) -> None:
        settings = self.settings
        self.documents = load_choices(settings)
        engine = load_engine(settings.model, argument="model", **settings.loading)
        self.model = engine.model
        kind: Any = settings.kind
        self.components: Components = find_components(
            self.model, kind, settings.patterns, setting="components"
        )
        if settings.sizes[-1] > len(self.components):
            raise ValueError(
                f"edit_sizes={settings.sizes[-1]}: there are {len(self.components)} "
                f"{settings.noun} to ablate: give less"
            )
        self.questions = read_study_questions(
            settings, self.documents, engine.tokenizer, engine.max_length
        )

    def _subject(self, questions: Sequence[Question]) -> QuestionSubject:
        settings = self.settings
        return QuestionSubject(
            self.model, self.components, questions, settings.output_fn, settings.batch_size
        )

    def measure(self, store: SweepStore) -> None:
        documents = [one for members in self.documents.values() for one in members]
        store.pin_manifest(
            model_fingerprint=model_fingerprint(self.model),
            documents_fingerprint=fingerprint_of(documents),
            components_fingerprint=fingerprint(self.components.to_json()),
        )
        store.update_manifest(
            documents={name: len(part) for name, part in vars(self.questions.own).items()},
            component_count=len(self.components),
        )
        self._build()
        self.attributions = self._fit()
        count = len(self.questions.own.learning)
        self.weights, others = self.attributions.weights.split(
            [count, len(self.attributions.weights) - count]
        )
        kept = partial(_kept, store)
        self.ablated = AblatedModel(self.model, self.components, self.settings.batch_size, kept)
        self.prediction = hold_against_truth(
            self._subject(self.questions.own.learning), self.weights, self.settings, kept
        )
        self.scores = edit_scores(self.weights, others) if len(others) else self.weights.mean(0)
        aim = self.settings.direction
        self.ranking = edited_components(self.scores, len(self.components), aim)
        self.path = self._choose()
        self.edit = self.ranking[: self.path.size]
        self._save_edit()
        self.outcomes = self._outcomes()
        self.alone = self._alone()

    def _build(self) -> bool:
        """Builds the component dataset, or a part of it; whether all of it is there."""
        from tqdm import tqdm

        settings = self.settings
        questions = self.questions.learning
        subject = self._subject(questions)
        plan = DatasetPlan.of(
            subject,
            output=settings.output_fn,
            masks=settings.num_ablations,
            alpha=settings.alpha,
            gradient_passes=settings.gradient_passes,
            seed=settings.seed,
            examples=[one.name for one in questions],
            data_sha256=self.questions.learned_from,
        )
        with tqdm(desc="ablations", unit="block") as bar:

            def after(done: int, count: int) -> None:
                bar.total = count
                bar.update(done - bar.n)

            return build(plan, subject, self.output / "dataset", shard=settings.part, after=after)

    def _fit(self) -> Attributions:
        dataset = ComponentDataset.load(self.output / "dataset")
        prior = "gradient" if self.settings.gradient_passes else None
        found = fit_attributions(dataset, prior=prior)  # type: ignore[arg-type]
        found.save(self.output / "attributions")
        return found

    def _choose(self) -> EditPath:
        """Answers on validation documents of edits of each size."""
        sizes = self.settings.sizes
        edits = [self.ranking[:size] for size in (0, *sizes)]
        parts = {"validation": self.questions.own.validation}
        if self.questions.references:
            parts["validation of references"] = self.questions.of_references("validation")
        (whole, *steps), *others = (
            [self.ablated.answers(part, questions, edit) for edit in edits]
            for part, questions in parts.items()
        )
        return EditPath(
            self.settings.judged_by,
            self.settings.direction,
            whole,
            sizes,
            steps,
            others[0] if others else (),
        )

    def _outcomes(self) -> dict[str, Outcome]:
        drawn = [
            self.ablated.drawn(len(self.edit), self.settings.seed, draw)
            for draw in range(self.settings.random_edits)
        ]
        references = {name: one.test for name, one in self.questions.references.items()}
        asked = {self.settings.task: self.questions.own.test, **references, **self.questions.others}
        found = {}
        for name, questions in asked.items():
            say(f"attribute: {name} with the edit, and with as many at random")
            answers = [
                self.ablated.answers(f"test {name}", questions, edit)
                for edit in ([], self.edit, *drawn)
            ]
            found[name] = Outcome(self.settings.judged_by, answers[0], answers[1], answers[2:])
        return found

    def _alone(self) -> list[Alone]:
        """The first of the ranking alone, on held-out documents; the edit's on others too."""
        own = self.edit[:ALONE]
        ablated = np.zeros((len(own), len(self.components)), dtype=bool)
        ablated[range(len(own)), own] = True
        subject = self._subject(self.questions.own.learning)
        learning = self.ablated.kept(
            f"learning without each of {','.join(map(str, own))}",
            lambda: outputs_under(subject, ablated).tolist(),
        )
        found = []
        for rank, number in enumerate(self.ranking[:ALONE]):
            test = self.ablated.answers(
                f"test {self.settings.task}", self.questions.own.test, [number]
            )
            found.append(Alone(number, test, learning[rank] if rank < len(own) else None))
        return found

    def _save_edit(self) -> None:
        own = sorted(self.edit)
        edit = ComponentEdit.of_model(
            self.model,
            self.components.take(own),
            scores=self.scores[own].tolist(),
            method="t-statistic" if self.questions.references else "mean attribution",
            targets=[one.name for one in self.questions.own.learning],
            references=[one.name for one in self.questions.of_references("learning")],
            data_sha256=self.questions.learned_from,
            seed=self.settings.seed,
            settings={
                "task": self.settings.task,
                "direction": self.settings.direction,
                "output_fn": self.settings.output_fn,
                "validation": [one.name for one in self.questions.own.validation],
                "held_out": [one.name for one in self.questions.own.test],
            },
        )
        edit.save(self.output / "edit")

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        documents = {one.name: one for one in self.documents[self.settings.task]}
        found = Findings(
            settings=self.settings,
            components=self.components,
            weights=self.weights,
            documents=[documents[one.name] for one in self.questions.own.learning],
            prediction=self.prediction,
            path=self.path,
            ranking=self.ranking,
            outcomes=self.outcomes,
            alone=self.alone,
        )
        return publish(self.output, found, store.manifest)


def _kept(store: SweepStore, key: str, compute: Callable[[], Any]) -> Any:
    """What a record holds, or what is computed for it."""
    held = store.read_batch(key)
    if held is None:
        held = compute()
        store.write_batch(key, held)
    return held
