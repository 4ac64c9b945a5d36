"""`vision-bench attribute edit`: a classifier with few components ablated, and what it is worth.

OUTPUT/
  edit/              the edit, as an artifact of the house
  model.safetensors  the edited model's weights, as a plain checkpoint
  edit.json          every measure of every arm, with intervals
  edit.csv           every measure along the strength
  curves/            pictures
  report.html
  manifest.json
  dataset/           outputs of the attributed images under masks
  attributions/      attributions of these images
  records/           finished batches, from which a killed run goes on
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import save as tensor_bytes
from torch import Tensor, nn

from aim_plugins.attribution.edit import edit_scores
from aim_plugins.core.devices import best_device
from aim_plugins.core.files import write_atomic
from aim_plugins.modulation.ablation import multiplied
from aim_plugins.modulation.baking import scale_weights
from aim_plugins.modulation.component_kinds import find_components
from aim_plugins.modulation.edits import ComponentEdit, baked
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from vision_bench.attribution.editing.answers import UNCHANGED, Edit, EditedClassifier
from vision_bench.attribution.editing.attributing import attribute
from vision_bench.attribution.editing.choice import Choice, Trial
from vision_bench.attribution.editing.choices import RANDOM, STATISTIC, TUNED, WHOLE
from vision_bench.attribution.editing.findings import Findings, Tested
from vision_bench.attribution.editing.front import publish
from vision_bench.attribution.editing.goal import Score
from vision_bench.attribution.editing.last_layer import Tuned, fine_tune
from vision_bench.attribution.editing.orders import trials_of
from vision_bench.attribution.editing.problem import read_names
from vision_bench.attribution.editing.problems import make_problem
from vision_bench.attribution.editing.settings import SIZES, EditSettings
from vision_bench.attribution.editing.split import check_apart, split_images
from vision_bench.attribution.init import GRADIENT_COST
from vision_bench.classifiers.load import load
from vision_bench.data.classification import ClassificationData, load_dataset
from vision_bench.data.dataset import list_left_out
from vision_bench.data.drawing import draw
from vision_bench.data.samples import first_readable
from vision_bench.models.known_preprocessing import write_header
from vision_bench.models.model import named_module
from vision_bench.models.output_layer import find_output_layer

EDIT, CHECKPOINT = "edit", "model.safetensors"

_NOT_RESULTS = ("output", "device", "workers", "data_root", "train_root", "batch_size")
"""Settings that no result depends on; data is told by its fingerprint."""


class EditStudy(FolderStudy):
    """An edit of one classifier.

    Args:
        settings: Model, data, what is to change, and how it is attributed.
        command: The words that repeat it, for the report.
    """

    def __init__(self, settings: EditSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command, self.output = settings, command, settings.folder

    @property
    def arguments(self) -> dict[str, Any]:
        chosen = {k: v for k, v in asdict(self.settings).items() if k not in _NOT_RESULTS}
        for name in ("preprocessing",):
            chosen[name] = None if chosen[name] is None else str(chosen[name])
        return {"command": "attribute edit", **_json(chosen)}

    def load(self) -> None:
        settings = self.settings
        if find_spec("scipy") is None:
            raise ImportError("intervals need scipy: pip install 'aim-plugins[vision]'")
        self.model, whole = load(settings)
        self.model.tell()
        self.device = best_device(settings.device)
        self.model.module.to(self.device)
        self.named: nn.Module = named_module(self.model.module)
        self.components = find_components(self.named, settings.components, list(settings.patterns))
        self.sizes = self._sizes()
        # Before anything is attributed: that these components can be ablated in a checkpoint.
        scale_weights(copy.deepcopy(self.named), self.components, torch.ones(len(self.components)))
        self.data, self.test = self._split(whole)
        self.last = self._last() if settings.fine_tune else ""

    def _sizes(self) -> list[int]:
        """Numbers of components to try, ascending; by default those that there are."""
        asked, most = sorted(set(self.settings.sizes)), len(self.components)
        if asked[-1] > most and tuple(self.settings.sizes) != SIZES:
            raise ValueError(
                f"sizes={list(self.settings.sizes)}: the model has {most} components: give fewer"
            )
        return [one for one in asked if one <= most]

    def _last(self) -> str:
        """The name of the layer that is fine-tuned."""
        example = first_readable(self.test)[None].to(self.device)
        try:
            return find_output_layer(self.named, example)
        except ValueError as error:
            raise ValueError(f"{error}, or fine_tune=False") from None

    def _split(self, whole: ClassificationData) -> tuple[ClassificationData, ClassificationData]:
        """Images that are attributed and select, and those that are tested."""
        settings = self.settings
        if settings.selection_split is not None:
            chosen = load_dataset(
                settings.dataset,
                settings.data_folder,
                split=settings.selection_split,
                preprocessing=self.model.preprocessing,
                on_error=settings.on_error,
            )
            check_apart(chosen, whole)
            return chosen, whole
        named = [name for path in settings.files for name in read_names(path)]
        taken, rest = split_images(whole, settings.selection_share, settings.seed, named)
        return whole.subset(taken), whole.subset(rest)

    def measure(self, store: SweepStore) -> None:
        settings = self.settings
        store.pin_manifest(
            model_fingerprint=self.model.fingerprint,
            data_fingerprint=self.test.fingerprint,
            selection_fingerprint=self.data.fingerprint,
        )
        store.update_manifest(
            model=self.model.title,
            weights=self.model.weights,
            images=len(self.test),
            components=len(self.components),
        )
        answers = EditedClassifier(self.model, settings.batch_size, settings.workers, store)
        self.problem = make_problem(
            settings, self.data, self.test, functools.partial(self._whole, answers)
        )
        attributions = attribute(settings, self.model, self.components, self.problem, store.folder)
        count = len(self.problem.targets)
        trials = trials_of(attributions, count, self.sizes, settings.orders, lower=settings.lowers)
        scores = edit_scores(attributions.weights[:count], attributions.weights[count:])
        choice = self._choose(answers, trials)
        edit, chosen = trials[choice.chosen], trials[choice.chosen].components
        artifact = self._save(store.folder, edit, scores)
        tuned, tuning = self._tune(answers, choice.before)
        tested = self._test(answers, artifact, tuned)
        self.findings = Findings(
            problem=self.problem,
            tested=tested,
            trials=trials,
            choice=choice,
            tuning=tuning,
            components=[self.components.name(one) for one in chosen],
            scores=[float(scores[one]) for one in chosen],
            total=len(self.components),
            layers=self._layers(chosen),
            passes=settings.num_ablations + GRADIENT_COST * settings.gradient_passes,
        )
        looked_at = (self.data, self.test, self.problem.selection.data, self.problem.test.data)
        left_out = {name: why for one in looked_at for name, why in one.unreadable.items()}
        store.update_manifest(left_out=left_out)
        if left_out:
            print(list_left_out(left_out))

    def _whole(self, answers: EditedClassifier, data: ClassificationData) -> Int[Tensor, " images"]:
        """What the model as it is answers."""
        title = "the model" if data is self.data else "the model, test"
        return answers(data, {WHOLE: UNCHANGED}, title)[WHOLE]

    def _choose(self, answers: EditedClassifier, trials: Sequence[Trial]) -> Choice:
        """The edit that the selecting images choose."""
        edits = {WHOLE: UNCHANGED} | {one.words: self._without(one.components) for one in trials}
        selection, goal = self.problem.selection, self.problem.goal
        given = answers(selection.data, edits, "images that select")
        reached = {name: goal.score(selection, one) for name, one in given.items()}
        before = reached.pop(WHOLE)
        return Choice(list(reached), list(reached.values()), before, self.settings.tolerance)

    def _without(self, numbers: Sequence[int]) -> Edit:
        """The edit that ablates some components."""
        return Edit(["without", *numbers], functools.partial(self._ablated, numbers))

    def _ablated(self, numbers: Sequence[int]) -> AbstractContextManager[object]:
        """The model without some components."""
        chosen = self.components.take(list(numbers))
        zeros = torch.zeros(1, len(chosen), device=self.device)
        return multiplied(self.named, chosen, zeros)

    def _save(
        self, folder: Path, trial: Trial, scores: Float[Tensor, " components"]
    ) -> ComponentEdit:
        """Writes the edit, and the edited model."""
        numbers = sorted(trial.components)
        edit = ComponentEdit.of_model(
            self.named,
            self.components.take(numbers),
            scores=[float(scores[one]) for one in numbers],
            method="COAR-Edit" if trial.order == STATISTIC else trial.order,
            targets=list(self.problem.targets.names),
            references=list(self.problem.references.names),
            settings=self.arguments,
            data_sha256=self.data.fingerprint,
            seed=self.settings.seed,
        )
        edit.save(folder / EDIT)
        state = baked(self.named, edit).state_dict()
        plain = {name: one.detach().cpu().contiguous() for name, one in state.items()}
        content = tensor_bytes(plain, write_header(self.model.preprocessing))
        write_atomic(folder / CHECKPOINT, content)
        return edit

    def _tune(self, answers: EditedClassifier, before: Score) -> tuple[Tuned | None, Choice | None]:
        """The best fine-tuned last layer by the rule that chose the edit."""
        if not self.settings.fine_tune:
            return None, None
        layer = self._layer
        problem, goal = self.problem, self.problem.goal
        own = [answers.features(one, layer) for one in (problem.targets, problem.references)]
        labels = [one.labels for one in (problem.targets, problem.references)]
        tried = fine_tune(
            layer,
            torch.cat([features for _, features in own]),
            torch.cat(labels),
            len(labels[0]),
            lower=goal.lower,
        )
        places, features = answers.features(problem.selection.data, layer)
        reached = []
        for one in tried:
            given = torch.full((len(problem.selection.data),), -1)
            given[places] = one.answers(features)
            reached.append(goal.score(problem.selection, given))
        words = [one.words for one in tried]
        choice = Choice(words, reached, before, self.settings.tolerance)
        return tried[choice.chosen], choice

    @property
    def _layer(self) -> nn.Linear:
        layer = self.named.get_submodule(self.last)
        assert isinstance(layer, nn.Linear)
        return layer

    def _test(self, answers: EditedClassifier, edit: ComponentEdit, tuned: Tuned | None) -> Tested:
        """The one look at the images that are tested."""
        settings, count = self.settings, len(edit.components)
        named = list(edit.components.names())
        edits = {
            f"{one:g}": Edit([named, one], functools.partial(edit.applied, self.named, one))
            for one in settings.grid
        }
        for number in range(settings.random_edits):
            drawn = draw(range(len(self.components)), count, settings.seed, RANDOM, number)
            edits[f"{RANDOM} {number}"] = self._without(drawn.tolist())
        if tuned is not None:
            edits[TUNED] = Edit(tuned.digest, functools.partial(tuned.applied, self._layer))
        given = answers(self.problem.test.data, edits, "test")
        return Tested(
            whole=given["0"],
            edited={one: given[f"{one:g}"] for one in settings.grid},
            random=[given[f"{RANDOM} {one}"] for one in range(settings.random_edits)],
            tuned=given.get(TUNED),
        )

    def _layers(self, chosen: Sequence[int]) -> dict[str, tuple[int, int]]:
        """By layer, how many components are ablated, and of how many."""
        counts = {site.name: 0 for site in self.components.sites}
        for one in chosen:
            counts[self.components.site_of(one)[0].name] += 1
        sizes = zip(self.components.sites, self.components.places, strict=True)
        return {site.name: (counts[site.name], len(places)) for site, places in sizes}

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        return publish(store.folder, self.findings, self.settings, store.manifest)


def _json(value: Any) -> Any:
    """Settings as JSON: paths as texts, tuples as lists."""
    if isinstance(value, dict):
        return {key: _json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json(one) for one in value]
    return str(value) if isinstance(value, Path) else value
