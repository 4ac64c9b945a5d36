"""Scores of steered texts, by each of the metrics that an evaluation asks for."""

from __future__ import annotations

from collections.abc import Sequence

from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.engines.loading import load_engine
from aim_plugins.steering.concepts import Judge, Lexicon
from aim_plugins.steering.perplexity import generation_perplexity, score_generations
from aim_plugins.steering.repetition import distinct_share, repeated_share
from aim_plugins.steering.sentiment import POSITIVE_COMPOUND, Classifier, vader_compounds
from aim_plugins.steering.settings.calibration import CalibrationSettings
from aim_plugins.steering.settings.evaluation import EvaluationSettings
from aim_plugins.steering.texts import Generation
from aim_plugins.sweep.estimates import mean
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.table import Row

PERPLEXITY, TEXT_PERPLEXITY = "perplexity", "text_perplexity"
TEXT_METRICS = frozenset(
    {TEXT_PERPLEXITY, "judged_presence", "concept_presence", "sentiment", "positive_share"}
    | {"repeated_3grams", "distinct_2", "length_in_tokens"}
)
"""Metrics of texts, beside those that a classifier's label names."""
_TEXT_NLL = "text_nll"
"""Name of what is kept of each text for its perplexity; no metric, since it grows with length."""

Scores = dict[str, Sequence[float | None]]
"""By metric, the score of each text; None where it has none."""


def score_texts(
    settings: EvaluationSettings,
    lexicon: Lexicon | None,
    texts: Sequence[Generation],
    engine: HuggingFaceEngine,
    store: SweepStore,
) -> Scores:
    """Scores texts by all that settings ask for.

    Args:
        settings: What to measure.
        lexicon: Words that stand for the concept.
        texts: The texts.
        engine: Runs the steered model; at strength 0 it is the plain one.
        store: Keeps finished batches, and is bound to the models that score.
    """
    written = [one.text for one in texts]
    scores = score_effects(settings, lexicon, written, engine, store)
    scores[_TEXT_NLL] = score_generations(engine, texts, batch_size=settings.batch_size)
    scores["repeated_3grams"] = [repeated_share(text) for text in written]
    scores["distinct_2"] = [distinct_share(text, 2) for text in written]
    scores["length_in_tokens"] = [float(len(one.tokens)) for one in texts]
    return scores


def score_effects(
    settings: EvaluationSettings | CalibrationSettings,
    lexicon: Lexicon | None,
    written: Sequence[str],
    engine: HuggingFaceEngine,
    store: SweepStore,
) -> Scores:
    """Scores texts by what steering is for: a concept, a label, sentiment.

    Args:
        settings: What to measure.
        lexicon: Words that stand for the concept.
        written: The texts.
        engine: Runs the plain model, which may judge too.
        store: Keeps finished batches, and is bound to the models that score.
    """
    size, scores = settings.batch_size, Scores()
    if settings.judge is not None:
        judge = _load_judge(settings, settings.judge, engine, store)
        scores["judged_presence"] = judge.presence(written, batch_size=size)
    if lexicon is not None:
        scores["concept_presence"] = [float(lexicon.occurs_in(text)) for text in written]
    if settings.sentiment is not None:
        compounds = vader_compounds(written)
        scores["sentiment"] = compounds
        scores["positive_share"] = [float(value > POSITIVE_COMPOUND) for value in compounds]
    if settings.classifier is not None and settings.label is not None:
        classifier = Classifier(
            settings.classifier,
            settings.label,
            device=settings.device,
            journal=store,
            trust_remote_code=settings.trust_remote_code,
        )
        store.pin_manifest(classifier_fingerprint=classifier.fingerprint)
        values = classifier.probabilities(written, batch_size=size)
        scores[f"{settings.label}_probability"] = values
        scores[f"{settings.label}_share"] = [float(value > 0.5) for value in values]
    return scores


def _load_judge(
    settings: EvaluationSettings | CalibrationSettings,
    name: str,
    steered: HuggingFaceEngine,
    store: SweepStore,
) -> Judge:
    engine = steered
    if name != settings.pretrained:
        engine = load_engine(name, argument="judge", journal=store, **settings.loading)
    store.pin_manifest(judge_fingerprint=engine.fingerprint)
    return Judge(
        engine,
        question=settings.judge_question,
        concept=settings.concept,
        answers=settings.judge_answers,
        chat=settings.chat,
    )


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
            name, estimate = TEXT_PERPLEXITY, generation_perplexity(texts, values)
        else:
            known = [value for value in values if value is not None]
            estimate = mean(known) if known else None
        if estimate is not None:
            rows.append(estimate.row(task, name, strength))
    return rows
