"""`vision-bench coverage importance`: whether important neurons matter more than others.

OUTPUT/
  importance.json   neurons of each layer in order of relevance, of all inputs and of each class
  scores/           LayerName,NeuronIndex,Score by attributor; `coverage run` reads them
  ablation.csv      accuracy without neurons: the most relevant ones, and each random choice
  curves/           the picture
  report.html
  manifest.json
  relevance/        what training inputs gave
  records/          answers without neurons, from which a killed run goes on
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aim_plugins.core.commands import say
from aim_plugins.core.files import safe_name, sha256_of
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.learning import subject_layer
from aim_plugins.coverage.relevance.ablation import ablated
from aim_plugins.coverage.relevance.effects import (
    Drop,
    Effect,
    count_places,
    matched_neurons,
    random_neurons,
)
from aim_plugins.coverage.relevance.relevance import Relevance, top_neurons
from aim_plugins.coverage.relevance.scores_file import read_scores, write_scores
from aim_plugins.coverage.relevance.wisdom import Wisdom
from aim_plugins.coverage.settings import WISDOM
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from vision_bench.coverage.questions.importance_front import ImportanceFindings, publish
from vision_bench.coverage.questions.importance_settings import FILE, ImportanceQuestion
from vision_bench.coverage.scoring import relevance_of, vote
from vision_bench.coverage.subject import Subject
from vision_bench.coverage.suite_study import OfSuite
from vision_bench.data.classification import ClassificationData
from vision_bench.logits.forward import forward

TOP, MATCHED, RANDOM = "top", "matched", "random"
"""Kinds of choices: an attributor's, random ones of the same layers, and of the network."""


@dataclass(frozen=True)
class Choice:
    """Neurons that are taken out.

    Attributes:
        kind: `TOP`, `MATCHED` or `RANDOM`.
        attributor: Whose most relevant neurons they are, or match; empty of `RANDOM`.
        draw: Which random choice it is; 0 of `TOP`.
        neurons: Their columns.
    """

    kind: str
    attributor: str
    draw: int
    neurons: tuple[int, ...]

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What tells it from the others."""
        return self.kind, self.attributor, len(self.neurons), self.draw


class ImportanceStudy(OfSuite, FolderStudy):
    """What the neurons that attributors find are worth.

    Args:
        settings: Model, data, attributors.
        command: The words that repeat it, for the report.

    Attributes:
        scores: A score of each neuron by attributor; known after `run`.
        effects: What their neurons are worth; known after `run`.
    """

    training: ClassificationData

    def __init__(self, settings: ImportanceQuestion, command: Sequence[str] = ()) -> None:
        self.settings, self.command, self.output = settings, command, settings.folder
        self.scores: dict[str, Float[Tensor, " neurons"]] = {}
        self.effects: list[Effect] = []

    @property
    def arguments(self) -> dict[str, Any]:
        settings = self.settings
        names = (
            "dataset", "split", "limit", "num_samples", "idc_test_all", "seed", "train_split",
            "train_limit", "layer_index", "draws",
        )  # fmt: skip
        found = {name: getattr(settings, name) for name in names}
        if WISDOM in settings.attr:
            votes = ("vote_inputs", "vote_neurons", "vote_keep", "vote_gain")
            found |= {name: getattr(settings, name) for name in votes}
        if settings.importance_file is not None:
            found["importance_sha256"] = sha256_of(settings.importance_file)
        return {
            "command": "coverage importance",
            "model": settings.model_name,
            **found,
            "attr": list(settings.attr),
            "top_m_neurons": settings.numbers,
            "modules": list(settings.modules),
        }

    def load(self) -> None:
        settings = self.settings
        self.load_suite(settings)
        assert self.training is not None  # these settings know no reference
        layers = self.subject.layers
        self.layer = None
        if settings.layer_index is not None:
            self.layer = subject_layer(layers, settings.layer_index)
        refuse_too_many(layers, settings.most, self.layer)
        if settings.importance_file is not None:
            self.scores[FILE] = read_scores(settings.importance_file, layers)

    def measure(self, store: SweepStore) -> None:
        subject = self.subject
        self.note_suite(store, training_fingerprint=self.training.fingerprint)
        self._score(store)
        choices = self._choices()
        say(f"accuracy without neurons: {len(choices)} choices of them")
        before, after = answers(subject, self.suite, self.positions, choices, store)
        self.accuracy, self.inputs = float(before.double().mean()), len(before)
        self.answers = {choice: Drop.paired(before, one) for choice, one in after.items()}
        self.effects = self._effects()
        self.tell_left_out(store)

    def _score(self, store: SweepStore) -> None:
        """Scores neurons by every attributor, and writes a CSV of each."""
        self.relevance: dict[str, Relevance] = {}
        self.wisdom: Wisdom | None = None
        self.silent: dict[str, str] = {}
        for name in self.settings.attr:
            path = store.folder / "relevance" / f"{safe_name(name)}.safetensors"
            if name == WISDOM:
                self.wisdom, self.silent = vote(self.subject, self.training, self.settings, path)
                self.scores[name] = self.wisdom.points.double()
            else:
                found = relevance_of(self.subject, self.training, name, path)
                found.top(1)  # refuses a model that classifies nothing correctly
                self.relevance[name] = found
                self.scores[name] = found.total
        folder = store.folder / "scores"
        folder.mkdir(exist_ok=True)
        for name, scores in self.scores.items():
            # Points of a vote are whole, and the WISDOM tool's files lack the last layer.
            voted = name == WISDOM
            plain = scores.long() if voted else scores
            path = folder / f"{safe_name(name)}.csv"
            write_scores(path, self.subject.layers, plain, exclude_last=voted)

    def _choices(self) -> list[Choice]:
        settings, layers = self.settings, self.subject.layers
        tops = {
            name: top_neurons(scores, layers, settings.most, layer=self.layer)
            for name, scores in self.scores.items()
        }
        found = []
        for most in settings.numbers:
            found += [Choice(TOP, name, 0, tuple(top[:most])) for name, top in tops.items()]
        for draw in range(settings.draws):
            others = {RANDOM: random_neurons(layers, settings.most, self._generator(draw))}
            others |= {
                name: matched_neurons(layers, top, self._generator(draw))
                for name, top in tops.items()
            }
            for name, neurons in others.items():
                kind, attributor = (RANDOM, "") if name == RANDOM else (MATCHED, name)
                found += [
                    Choice(kind, attributor, draw, tuple(neurons[:most]))
                    for most in settings.numbers
                ]
        return found

    def _generator(self, draw: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed % 2**63, draw])

    def _effects(self) -> list[Effect]:
        by_key = {choice.key: drop for choice, drop in self.answers.items()}
        draws = range(self.settings.draws)
        tops = {choice.key: choice for choice in self.answers if choice.kind == TOP}
        return [
            Effect(
                name,
                most,
                count_places(self.subject.layers, tops[TOP, name, most, 0].neurons),
                by_key[TOP, name, most, 0],
                tuple(by_key[MATCHED, name, most, draw].value for draw in draws),
                tuple(by_key[RANDOM, "", most, draw].value for draw in draws),
            )
            for name in self.scores
            for most in self.settings.numbers
        ]

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        found = ImportanceFindings(
            layers=self.subject.layers,
            effects=self.effects,
            drops={choice.key: drop for choice, drop in self.answers.items()},
            scores=self.scores,
            relevance=self.relevance,
            classes=self.training.classes,
            most=self.settings.most,
            accuracy=self.accuracy,
            inputs=self.inputs,
            data=self.suite.title,
            wisdom=self.wisdom,
            silent=self.silent,
        )
        return publish(store.folder, found, store.manifest)


def refuse_too_many(layers: Layers, most: int, layer: str | None) -> None:
    """Refuses to take out more neurons than there are to choose from.

    Raises:
        ValueError: If so, or the model has no layer but the last.
    """
    if layer is None and len(layers.names) < 2:
        raise ValueError(
            f"{layers.names[0]!r} is the only layer, whose neurons are the classes: look at more "
            "layers (modules), or name it (layer_index=1)"
        )
    there = layers.sizes[layers.names.index(layer)] if layer else sum(layers.sizes[:-1])
    if most > there:
        where = f"layer {layer!r} has" if layer else "all layers but the last have"
        raise ValueError(f"top_m_neurons={most}: {where} {there} neurons; choose fewer")


def answers(
    subject: Subject,
    suite: ClassificationData,
    positions: Sequence[int],
    choices: Sequence[Choice],
    store: SweepStore,
) -> tuple[Bool[Tensor, " images"], Mapping[Choice, Bool[Tensor, " images"]]]:
    """Which images are classified correctly with all neurons, and without each choice of them.

    An image is read once and answered under every choice; finished batches are kept.
    """
    from tqdm import tqdm

    rows: list[Bool[Tensor, "choices images"]] = []
    with tqdm(desc="suite: without neurons", total=len(positions), unit="image") as bar:
        for start in range(0, len(positions), subject.batch_size):
            chosen = positions[start : start + subject.batch_size]
            key = f"ablation,{start},{len(chosen)}"
            if (held := store.read_batch(key)) is None:
                held = _pack(torch.cat(list(_answer(subject, suite, chosen, choices)), 1))
                store.write_batch(key, held)
            rows.append(_unpack(held))
            bar.update(len(chosen))
    found = torch.cat(rows, 1)
    return found[0], dict(zip(choices, found[1:], strict=True))


def _answer(
    subject: Subject,
    suite: ClassificationData,
    positions: Sequence[int],
    choices: Sequence[Choice],
) -> Iterator[Bool[Tensor, "choices images"]]:
    yield torch.empty(1 + len(choices), 0, dtype=torch.bool)
    for images in subject.images(suite, positions):
        labels = suite.labels[images.positions]
        rows = []
        for choice in (None, *choices):
            without = (
                nullcontext()
                if choice is None
                else ablated(subject.named, subject.layers, choice.neurons)
            )
            with torch.inference_mode(), without:
                predicted = forward(subject.model, images.pixels).argmax(1).cpu()
            rows.append(predicted == labels)
        yield torch.stack(rows)


def _pack(answers: Bool[Tensor, "choices images"]) -> dict[str, Any]:
    return {
        "images": answers.shape[1],
        "choices": answers.shape[0],
        "correct": np.packbits(answers.numpy()).tobytes().hex(),
    }


def _unpack(held: Mapping[str, Any]) -> Bool[Tensor, "choices images"]:
    content = np.frombuffer(bytes.fromhex(held["correct"]), dtype=np.uint8)
    shape = held["choices"], held["images"]
    bits = np.unpackbits(content, count=shape[0] * shape[1])
    return torch.from_numpy(bits.astype(bool)).reshape(shape)
