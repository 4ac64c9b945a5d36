"""One evaluation of a transport, from its settings to its report.

OUT/
  sweep.csv                  every metric by strength, with its error and count
  cells/strength=0.5,draw=0/texts.jsonl   what was written at one strength, with its scores
  curves/                    pictures
  report.html                curves, numbers, and the texts beside a slider of strengths
  lm_eval/                   the harness's own sweeps, where tasks are asked for
  manifest.json
  records/                   finished batches, from which an interrupted run goes on

Strengths that are asked of a folder later are measured beside those that it holds measured; what
was asked and never finished is forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aim_plugins.core.files import sha256_of, write_atomic
from aim_plugins.core.identity import fingerprint
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.engines.loading import load_engine, local_name
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.columns import Column
from aim_plugins.steering.concepts import describe_concept
from aim_plugins.steering.inputs import read_inputs, texts_record
from aim_plugins.steering.perplexity import score_documents
from aim_plugins.steering.scores import PERPLEXITY, Scores, score_texts, text_rows
from aim_plugins.steering.settings.evaluation import EvaluationSettings, SteeringSettings
from aim_plugins.steering.tasks import run_tasks
from aim_plugins.steering.texts import Generation, encode_prompts, generate_texts
from aim_plugins.sweep.cells import Cell
from aim_plugins.sweep.documents import DocumentScores
from aim_plugins.sweep.front import Front
from aim_plugins.sweep.manifest import MANIFEST
from aim_plugins.sweep.report_data import TextSample
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import Study
from aim_plugins.sweep.table import Row
from aim_plugins.sweep.trackers import Trackers
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.change import Transport, read_transport

TEXTS = "texts.jsonl"
_SHOWN_PROMPTS = 24
"""Prompts whose texts a report shows."""


def evaluate(settings: EvaluationSettings, command: Sequence[str]) -> None:
    """Runs `aim-plugins transport evaluate`."""
    trackers = Trackers(settings.wandb, settings.tensorboard)
    EvaluationStudy(settings, command).run(trackers)


class EvaluationStudy(Study):
    """One evaluation of a transport.

    Args:
        settings: What to measure.
        command: The words that repeat it, for the report.

    Raises:
        ValueError: If a file or a model that settings name is not usable.
        FileNotFoundError: If one is missing.
        ImportError: If a package is missing.
    """

    packages = ("aim-plugins", "transformers", "torch")
    axes = (Transport.axis,)

    def __init__(self, settings: EvaluationSettings, command: Sequence[str] = ()) -> None:
        self.settings = settings
        self.output = settings.output
        self.command = command
        self.inputs = read_inputs(settings)
        self.transport = read_transport(settings.transport)[0]
        held = SweepStore.strengths_held(settings.output, Transport.axis)
        strengths = sorted({*self.inputs.strengths, *held})
        self.cells = [Cell(strength) for strength in strengths]
        self.columns = columns_of(strength=strengths, transport=self.transport)
        self._engine: HuggingFaceEngine | None = None
        self._task_rows: list[Row] = []
        # As far as the folder beside them tells.
        if self.inputs.written_with.get("transport") not in (None, self.transport.fingerprint):
            raise ValueError(
                f"generations={str(settings.generations)!r} were written under another transport "
                f"than {str(settings.transport)!r}: give that transport, or --prompts to write "
                "texts anew"
            )

    @property
    def arguments(self) -> dict[str, Any]:
        settings, inputs = self.settings, self.inputs
        judge = {
            "model": settings.judge,
            "concept": settings.concept,
            "question": settings.judge_question,
            "answers": settings.judge_answers,
            "chat": settings.chat,
        }
        tasks = {
            "names": settings.tasks,
            "num_fewshot": settings.num_fewshot,
            "limit": settings.limit,
            "include_path": settings.include_path,
        }
        written = settings.generations_file
        return {
            "command": "transport evaluate",
            **steering_record(settings, self.transport),
            "perplexity": {name: fingerprint(texts) for name, texts in inputs.documents.items()},
            "prompts": fingerprint(inputs.prompts) if settings.prompts is not None else None,
            "generations": sha256_of(written) if written else None,
            "decoding": settings.decoding_record if settings.prompts is not None else None,
            "lexicon": inputs.lexicon.words if inputs.lexicon else None,
            "judge": judge if settings.judge else None,
            "classifier": settings.classifier,
            "label": settings.label,
            "sentiment": settings.sentiment,
            "tasks": tasks if settings.tasks else None,
        }

    def load(self) -> None:
        """Loads the steered model, where anything is still to be measured of it."""
        settings = self.settings
        if (self.output / MANIFEST).exists():
            with self.open() as store:
                pending = self.pending(store)
            self.say_finished(pending)
            if not pending:
                return
        if settings.has_texts or settings.perplexity:
            self._engine = load_steered(settings, self.transport)
            if settings.prompts is not None:
                encode_prompts(self._engine, self.inputs.prompts, settings)  # refuses too long ones

    def measure(self, store: SweepStore) -> None:
        settings = self.settings
        store.update_manifest(
            model=Path(local_name(settings.pretrained)).name,
            texts=texts_record(settings, self.inputs),
        )
        if pending := self.pending(store):
            missing = {cell.strength for cell in pending}
            columns = [one for one in self.columns if one.settings["strength"] in missing]
            measured = self._measure(store, columns)
            for cell in pending:
                self._write_cell(store, cell, *measured)
        self._engine = None  # the tasks' process loads the model once more
        torch.cuda.empty_cache()
        if settings.tasks:
            self._task_rows = run_tasks(settings, self.inputs.strengths, self.output / "lm_eval")

    def front(self, store: SweepStore) -> Front:
        rows = [row for record in self.finished(store) for row in record.rows]
        return Front(
            rows + self._task_rows,
            self.axes,
            subject=describe_concept(self.arguments),
            texts={self.settings.text_task: read_samples(self.output, _SHOWN_PROMPTS)},
            documents=read_text_scores(self.output, self.settings.text_task),
        )

    def _measure(
        self, store: SweepStore, columns: Sequence[Column]
    ) -> tuple[list[Row], list[Generation], Scores]:
        """Perplexities of plain text, the texts at each column's strength, and their scores."""
        strengths = [column.settings["strength"] for column in columns]
        settings, inputs, size = self.settings, self.inputs, self.settings.batch_size
        rows: list[Row] = []
        if (engine := self._engine) is None:  # tasks alone
            return rows, [], {}
        keep_in(store, engine)
        for name, documents in inputs.documents.items():
            likelihoods = score_documents(engine, documents, columns, batch_size=size)
            pairs = zip(strengths, likelihoods.perplexities(), strict=True)
            rows += [estimate.row(name, PERPLEXITY, strength) for strength, estimate in pairs]
        if not settings.has_texts:
            return rows, [], {}
        texts = [text for text in inputs.written if text.strength in strengths]
        if settings.prompts is not None:
            texts = generate_texts(engine, inputs.prompts, columns, settings, batch_size=size)
        texts.sort(key=lambda text: text.strength)  # batches of old texts are those of new ones
        return rows, texts, score_texts(settings, inputs.lexicon, texts, engine, store)

    def _write_cell(
        self,
        store: SweepStore,
        cell: Cell,
        rows: Sequence[Row],
        texts: Sequence[Generation],
        scores: Scores,
    ) -> None:
        here = [index for index, text in enumerate(texts) if text.strength == cell.strength]
        own = [texts[index] for index in here]
        found: Scores = {name: [values[row] for row in here] for name, values in scores.items()}
        lines = [
            json.dumps(asdict(text) | {"scores": {name: found[name][row] for name in found}})
            for row, text in enumerate(own)
        ]
        with store.cell(cell) as staged:
            if lines:
                write_atomic(staged.folder / TEXTS, "\n".join(lines) + "\n")
            staged.record(
                [row for row in rows if row.strength == cell.strength]
                + text_rows(self.settings.text_task, cell.strength, own, found),
                seed=self.settings.seed,
            )


# Shared with `transport generate` and `transport compare` -----------------------------------------


def steering_record(settings: SteeringSettings, transport: LearnedTransport) -> dict[str, Any]:
    """What determines a steered model, for manifests."""
    return {
        "pretrained": settings.pretrained,
        "transport": transport.fingerprint,
        "method": transport.metadata.method,
        "dtype": settings.dtype,
        "max_length": settings.max_length,
    }


def load_steered(settings: SteeringSettings, transport: LearnedTransport) -> HuggingFaceEngine:
    """Loads the model that a transport steers, which has to be its own unless forced."""
    engine = load_engine(settings.pretrained, max_length=settings.max_length, **settings.loading)
    transport.check_model(engine.model, engine.tokenizer, force=settings.force)
    return engine


def keep_in(store: SweepStore, engine: HuggingFaceEngine) -> None:
    """Keeps an engine's finished batches in a folder, which is then bound to its model."""
    store.pin_manifest(model_fingerprint=engine.fingerprint)
    engine.journal = store


def read_samples(folder: Path, count: int) -> list[TextSample]:
    """What was written to the first prompts, at every strength, from an evaluation's folder.

    A lexicon's verdict becomes the mark of a text.
    """
    texts: dict[str, dict[float, str]] = {}
    scores: dict[str, dict[float, float]] = {}
    for path in sorted((folder / "cells").glob(f"*/{TEXTS}")):
        for line in path.read_text(encoding="utf-8").splitlines():
            one = json.loads(line)
            texts.setdefault(one["prompt"], {}).setdefault(one["strength"], one["text"])
            if "concept_presence" in one["scores"]:
                found = scores.setdefault(one["prompt"], {})
                found.setdefault(one["strength"], one["scores"]["concept_presence"])
    return [
        TextSample(
            doc_id=f"{number}: {shorten(prompt)}",
            prompt=prompt,
            target="a word of the lexicon" if prompt in scores else "",
            texts=texts[prompt],
            scores=scores.get(prompt, {}),
        )
        for number, prompt in enumerate(list(texts)[:count])
    ]


def read_text_scores(folder: Path, task: str) -> list[DocumentScores]:
    """What every prompt's text scores at every strength, from an evaluation's folder.

    A metric that some text has no score of is left out there.

    Args:
        folder: The folder.
        task: Name of what the texts continue.
    """
    found = []
    for path in sorted((folder / "cells").glob(f"*/{TEXTS}")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        prompts = [fingerprint(one["prompt"])[:8] for one in lines]
        for metric in lines[0]["scores"]:
            values = [one["scores"][metric] for one in lines]
            if None not in values:
                place = (task, metric, (float(lines[0]["strength"]),), 0)
                found.append(DocumentScores(*place, prompts, np.array(values, dtype=float)))
    return found


def shorten(text: str, length: int = 32) -> str:
    """A text in one line of so many letters at most."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
