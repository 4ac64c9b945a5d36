"""One evaluation of a transport, from its settings to its report.

OUT/
  sweep.csv                  every metric by strength, with its error and count
  cells/strength=0.5,draw=0/texts.jsonl   what was written at one strength, with its scores
  curves/                    pictures
  report.html                curves, numbers, and the texts beside a slider of strengths
  lm_eval/                   the harness's own sweep, where tasks are asked for
  manifest.json
  records/                   finished batches, from which an interrupted run goes on
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from aim_plugins.core.files import write_atomic
from aim_plugins.engines.engine import modulation_columns
from aim_plugins.engines.huggingface import HuggingFaceEngine, warn_once
from aim_plugins.engines.loading import load_engine, local_name
from aim_plugins.steering.concepts import Judge
from aim_plugins.steering.inputs import Inputs, arguments, read_inputs, texts_record
from aim_plugins.steering.perplexity import (
    generation_perplexity,
    score_documents,
    score_generations,
)
from aim_plugins.steering.repetition import distinct_share, repeated_share
from aim_plugins.steering.sentiment import (
    POSITIVE_COMPOUND,
    Classifier,
    vader_compounds,
)
from aim_plugins.steering.settings import EvaluationSettings, SteeringSettings
from aim_plugins.steering.tasks import run_tasks
from aim_plugins.steering.texts import Generation, encode_prompts, generate_texts
from aim_plugins.sweep.estimates import Estimate, mean
from aim_plugins.sweep.manifest import MANIFEST
from aim_plugins.sweep.plots import TRANSPORT_LABEL, plot_curves
from aim_plugins.sweep.printed import format_points
from aim_plugins.sweep.report import TextSample, write_report
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.table import Row, pool_draws, write_table
from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata

_PACKAGES = ("aim-plugins", "transformers", "torch")
STRENGTH_NAME = "strength"
PERPLEXITY, TEXT_PERPLEXITY = "perplexity", "text_perplexity"
TEXT_METRICS = frozenset(
    {TEXT_PERPLEXITY, "judged_presence", "concept_presence", "sentiment", "positive_share"}
    | {"repeated_3grams", "distinct_2", "length_in_tokens"}
)
"""Metrics of texts, beside those that a classifier's label names."""
TEXTS = "texts.jsonl"
_TEXT_NLL = "text_nll"
"""Name of what is kept of each text for its perplexity; no metric, since it grows with length."""
SHOWN_PROMPTS = 24
"""Prompts whose texts a report shows."""

Scores = dict[str, list[float | None]]
"""By metric, the score of each text; None where it has none."""


@dataclass(frozen=True)
class _Measured:
    """Everything measured with models loaded.

    Attributes:
        perplexities: By file of plain text, an estimate for each strength.
        texts: What was written, at every strength.
        scores: Scores of the texts.
    """

    perplexities: dict[str, list[Estimate]]
    texts: list[Generation]
    scores: Scores


def evaluate(settings: EvaluationSettings, command: Sequence[str] = ()) -> Path:
    """Measures a transport, or what an interrupted run left of it.

    Args:
        settings: What to measure.
        command: The words that repeat the evaluation, for the report.

    Returns:
        The report's path.

    Raises:
        ValueError: If a setting is not usable, the transport belongs to another model, or the
            folder holds another run.
        FileNotFoundError: If a file is missing.
        ImportError: If a package is missing.
    """
    inputs = read_inputs(settings)
    transport = LearnedTransport.load(settings.transport)
    _check_written(settings, inputs, transport)
    warn_of_unfitted(transport.metadata, inputs.strengths)
    asked = arguments(settings, inputs, transport.fingerprint, transport.metadata.method)
    SweepStore.check(settings.output, asked)
    engine = None
    if not (settings.output / MANIFEST).exists():
        # A model that is refused leaves no folder behind.
        engine = _load(settings, inputs, transport)
    with open_store(settings.output, asked) as store:
        store.update_manifest(
            command=list(command),
            model=Path(local_name(settings.pretrained)).name,
            texts=texts_record(settings, inputs),
        )
        if any(store.read_cell(strength, 0) is None for strength in inputs.strengths):
            engine = engine or _load(settings, inputs, transport)
            measured = _measure(settings, inputs, engine, transport, store)
            for strength in inputs.strengths:
                _write_cell(store, settings, inputs, measured, strength)
        engine = None  # the tasks' process loads the model once more
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        rows: list[Row] = []
        if settings.tasks:
            rows = run_tasks(settings, inputs.strengths, settings.output / "lm_eval")
        return _finish(store, settings, inputs, rows)


def open_store(folder: Path, arguments: dict[str, Any]) -> SweepStore:
    """Opens a folder of results by strength of a transport."""
    versions = {name: version(name) for name in _PACKAGES}
    return SweepStore.open(folder, arguments, versions=versions, strength_name=STRENGTH_NAME)


def warn_of_unfitted(transport: TransportMetadata, strengths: Sequence[float]) -> None:
    """Warns, once, of strengths that a transport was not learned for."""
    if warning := transport.warning_of(strengths):
        warn_once(warning)


def _check_written(
    settings: EvaluationSettings, inputs: Inputs, transport: LearnedTransport
) -> None:
    """Refuses texts that another transport wrote, as far as the folder beside them tells."""
    wrote = inputs.written_with.get("transport")
    if wrote not in (None, transport.fingerprint):
        raise ValueError(
            f"generations={str(settings.generations)!r} were written under another transport than "
            f"{str(settings.transport)!r}: give that transport, or --prompts to write texts anew"
        )


# Measuring ---------------------------------------------------------------------------------------


def _load(
    settings: EvaluationSettings, inputs: Inputs, transport: LearnedTransport
) -> HuggingFaceEngine | None:
    """The steered model, where anything is measured of it."""
    if not (settings.has_texts or settings.perplexity):
        return None
    engine = load_steered(settings, transport)
    if settings.prompts is not None:
        encode_prompts(engine, inputs.prompts, settings)  # refuses too long ones
    return engine


def load_steered(settings: SteeringSettings, transport: LearnedTransport) -> HuggingFaceEngine:
    """Loads the model that a transport steers.

    Args:
        settings: Names the model and how it runs.
        transport: The transport; refuses another model unless `settings.force`.
    """
    engine = load_engine(
        settings.pretrained,
        transport=transport.maps,
        max_length=settings.max_length,
        **settings.loading,
    )
    transport.check_model(engine.model, engine.tokenizer, force=settings.force)
    return engine


def _measure(
    settings: EvaluationSettings,
    inputs: Inputs,
    engine: HuggingFaceEngine | None,
    transport: LearnedTransport,
    store: SweepStore,
) -> _Measured:
    size = settings.batch_size
    perplexities: dict[str, list[Estimate]] = {}
    texts, scores = _wanted(inputs), Scores()
    if engine is not None:
        keep_in(store, engine)
        columns = modulation_columns(
            strength=list(inputs.strengths), transport=transport.fingerprint
        )
        for name, documents in inputs.documents.items():
            likelihoods = score_documents(engine, documents, columns, batch_size=size)
            perplexities[name] = likelihoods.perplexities()
        if settings.prompts is not None:
            texts = generate_texts(engine, inputs.prompts, columns, settings, batch_size=size)
        scores[_TEXT_NLL] = score_generations(engine, texts, batch_size=size)
        if settings.judge is not None:
            scores["judged_presence"] = _judge(settings, texts, store, engine)
    scores |= _score_plainly(settings, inputs, texts)
    if settings.classifier is not None:
        scores |= _classify(settings, texts, store)
    return _Measured(perplexities, texts, scores)


def keep_in(store: SweepStore, engine: HuggingFaceEngine) -> None:
    """Keeps an engine's finished batches in a folder, which is then bound to its model."""
    store.pin_manifest(model_fingerprint=engine.fingerprint)
    engine.journal = store


def _wanted(inputs: Inputs) -> list[Generation]:
    """Texts of an earlier command at the strengths asked for, ordered like new ones."""
    wanted = [text for text in inputs.written if text.strength in inputs.strengths]
    return sorted(wanted, key=lambda text: text.strength)


def _judge(
    settings: EvaluationSettings,
    texts: Sequence[Generation],
    store: SweepStore,
    steered: HuggingFaceEngine,
) -> list[float | None]:
    assert settings.judge is not None
    engine = steered  # at strength 0 it is the plain model
    if settings.judge != settings.pretrained:
        engine = load_engine(settings.judge, argument="judge", journal=store, **settings.loading)
    store.pin_manifest(judge_fingerprint=engine.fingerprint)
    judge = Judge(
        engine,
        question=settings.judge_question,
        concept=settings.concept,
        answers=settings.judge_answers,
        chat=settings.chat,
    )
    return list(judge.presence([text.text for text in texts], batch_size=settings.batch_size))


def _classify(
    settings: EvaluationSettings, texts: Sequence[Generation], store: SweepStore
) -> Scores:
    assert settings.classifier is not None and settings.label is not None
    classifier = Classifier(
        settings.classifier,
        settings.label,
        device=settings.device,
        journal=store,
        trust_remote_code=settings.trust_remote_code,
    )
    store.pin_manifest(classifier_fingerprint=classifier.fingerprint)
    written = [text.text for text in texts]
    values = classifier.probabilities(written, batch_size=settings.batch_size)
    return {
        f"{settings.label}_probability": list(values),
        f"{settings.label}_share": [float(value > 0.5) for value in values],
    }


def _score_plainly(
    settings: EvaluationSettings, inputs: Inputs, texts: Sequence[Generation]
) -> Scores:
    """Scores that need no model."""
    scores = Scores()
    if inputs.lexicon is not None:
        scores["concept_presence"] = [float(inputs.lexicon.occurs_in(one.text)) for one in texts]
    if settings.sentiment is not None:
        compounds = vader_compounds([one.text for one in texts])
        scores["sentiment"] = list(compounds)
        scores["positive_share"] = [float(value > POSITIVE_COMPOUND) for value in compounds]
    scores["repeated_3grams"] = [repeated_share(one.text) for one in texts]
    scores["distinct_2"] = [distinct_share(one.text, 2) for one in texts]
    scores["length_in_tokens"] = [float(len(one.tokens)) for one in texts]
    return scores


# Results -----------------------------------------------------------------------------------------


def _write_cell(
    store: SweepStore,
    settings: EvaluationSettings,
    inputs: Inputs,
    measured: _Measured,
    strength: float,
) -> None:
    here = [index for index, text in enumerate(measured.texts) if text.strength == strength]
    texts = [measured.texts[index] for index in here]
    scores = {name: [values[index] for index in here] for name, values in measured.scores.items()}
    column = inputs.strengths.index(strength)
    rows = [
        estimates[column].row(name, PERPLEXITY, strength)
        for name, estimates in measured.perplexities.items()
    ]
    rows += text_rows(settings.text_task, strength, texts, scores)
    lines = [
        json.dumps(asdict(text) | {"scores": {name: scores[name][row] for name in scores}})
        for row, text in enumerate(texts)
    ]
    with store.cell(strength, 0) as cell:
        if texts:
            write_atomic(cell.folder / TEXTS, "\n".join(lines) + "\n")
        cell.record(rows, seed=settings.seed)


def text_rows(task: str, strength: float, texts: Sequence[Generation], scores: Scores) -> list[Row]:
    """Metrics of the texts of one strength.

    Args:
        task: Name of what they continue.
        strength: Their strength.
        texts: The texts.
        scores: Their scores; a metric that none of them has is left out.
    """
    rows = []
    for name, values in scores.items():
        if name == _TEXT_NLL:
            estimate = generation_perplexity(texts, values)
            name = TEXT_PERPLEXITY
        else:
            known = [value for value in values if value is not None]
            estimate = mean(known) if known else None
        if estimate is not None:
            rows.append(estimate.row(task, name, strength))
    return rows


def _finish(
    store: SweepStore, settings: EvaluationSettings, inputs: Inputs, extra: Sequence[Row]
) -> Path:
    cells = [store.read_cell(strength, 0) for strength in inputs.strengths]
    rows = [row for cell in cells if cell is not None for row in cell.rows]
    rows += extra
    table = write_table(store.folder / "sweep.csv", rows)
    points = pool_draws(rows)
    pictures = plot_curves(points, store.folder / "curves", strength_label=TRANSPORT_LABEL)
    samples = read_samples(store.folder, SHOWN_PROMPTS)
    report = write_report(
        store.folder,
        points,
        store.manifest,
        {settings.text_task: samples},
        strength_label=TRANSPORT_LABEL,
    )
    print(format_points(points))
    print("", f"table:    {table}", f"pictures: {pictures[0].parent}", sep="\n")
    print(f"report:   {report}")
    return report


def read_samples(folder: Path, count: int) -> list[TextSample]:
    """What was written to the first prompts, at every strength, from an evaluation's folder.

    A lexicon's verdict becomes the mark of a text.
    """
    texts: dict[str, dict[float, str]] = {}
    scores: dict[str, dict[float, float]] = {}
    for path in sorted((folder / "cells").glob(f"{STRENGTH_NAME}=*/{TEXTS}")):
        for line in path.read_text(encoding="utf-8").splitlines():
            one = json.loads(line)
            texts.setdefault(one["prompt"], {}).setdefault(one["strength"], one["text"])
            if "concept_presence" in one["scores"]:
                found = scores.setdefault(one["prompt"], {})
                found.setdefault(one["strength"], one["scores"]["concept_presence"])
    return [
        TextSample(
            doc_id=f"{number}: {_shorten(prompt)}",
            prompt=prompt,
            target="a word of the lexicon" if prompt in scores else "",
            texts=texts[prompt],
            scores=scores.get(prompt, {}),
        )
        for number, prompt in enumerate(list(texts)[:count])
    ]


def _shorten(text: str, length: int = 32) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
