"""What the files hold that an evaluation names, read and checked before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from aim_plugins.core.identity import fingerprint
from aim_plugins.core.strengths import format_strength
from aim_plugins.engines.loading import check_judge
from aim_plugins.steering.concepts import Lexicon, check_question
from aim_plugins.steering.sentiment import check_classifier, require_vader
from aim_plugins.steering.settings.calibration import CalibrationSettings
from aim_plugins.steering.settings.evaluation import DEFAULT_STRENGTHS, EvaluationSettings
from aim_plugins.steering.texts import Generation, read_generations
from aim_plugins.sweep.manifest import MANIFEST
from aim_plugins.transport.change import Transport
from aim_plugins.transport.data.datasets import load_prompts, read_sentences


@dataclass(frozen=True)
class Inputs:
    """What an evaluation measures, and with what.

    Attributes:
        strengths: Strengths, rising.
        documents: Plain texts by the name of their file.
        prompts: Texts to continue.
        written: Texts that an earlier command wrote.
        written_with: What they were written with, as far as the folder around them tells.
        lexicon: Words that stand for the concept.
    """

    strengths: tuple[float, ...]
    documents: dict[str, list[str]]
    prompts: tuple[str, ...]
    written: tuple[Generation, ...]
    written_with: dict[str, Any]
    lexicon: Lexicon | None


def read_inputs(settings: EvaluationSettings) -> Inputs:
    """Reads what settings name, and refuses what could not score, by its configuration alone.

    Raises:
        ValueError: If a file or a model is not usable.
        FileNotFoundError: If a file is missing.
        ImportError: If a package is missing.
    """
    written = _read_written(settings)
    inputs = Inputs(
        strengths=_strengths(settings, written),
        documents={path.stem: list(read_sentences(path)) for path in settings.perplexity},
        prompts=() if settings.prompts is None else load_prompts(settings.prompts),
        written=written,
        written_with=_written_with(settings),
        lexicon=None if settings.lexicon is None else Lexicon.read(settings.lexicon),
    )
    if settings.tasks:
        require_harness()
    check_scorers(settings)
    return inputs


def require_harness() -> None:
    """Refuses tasks where lm-evaluation-harness is missing.

    Raises:
        ImportError: If so.
    """
    if find_spec("lm_eval") is None:
        raise ImportError("tasks need lm-eval: pip install 'aim-plugins[transport]'")


def check_scorers(settings: EvaluationSettings | CalibrationSettings) -> None:
    """Refuses what could not score texts, by its configuration alone.

    Raises:
        ValueError: If a question or a model is not usable.
        ImportError: If a package is missing.
    """
    trust = settings.trust_remote_code
    if settings.sentiment is not None:
        require_vader()
    if settings.judge is not None:
        check_question(settings.judge_question, settings.concept)
        check_judge(settings.judge, chat=settings.chat, trust_remote_code=trust)
    if settings.classifier is not None and settings.label is not None:
        check_classifier(settings.classifier, settings.label, trust_remote_code=trust)


def texts_record(settings: EvaluationSettings, inputs: Inputs) -> dict[str, Any] | None:
    """What determines the texts beside model and transport, however they came here."""
    if settings.prompts is not None:
        asked = fingerprint(list(inputs.prompts))
        return {"prompts": asked, "decoding": settings.decoding_record, "noise_std": 0.0}
    if not inputs.written:
        return None
    first = inputs.written[0]
    prompts = [text.prompt for text in inputs.written if text.strength == first.strength]
    record = {"prompts": fingerprint(prompts), "noise_std": first.noise_std}
    if first.noise_std:
        record["noise_seed"] = inputs.written_with.get("noise_seed")
    if "decoding" in inputs.written_with:
        record["decoding"] = inputs.written_with["decoding"]
    return record


def _strengths(settings: EvaluationSettings, texts: Sequence[Generation]) -> tuple[float, ...]:
    written = sorted({text.strength for text in texts})
    spec = settings.strength
    if spec is None:
        spec = written or DEFAULT_STRENGTHS
    strengths = tuple(sorted(Transport.axis.parse(spec)))
    if written and (missing := [s for s in strengths if s not in written]):
        raise ValueError(
            f"strength={format_strength(missing[0])} is not among those of "
            f"{settings.generations}: {', '.join(map(format_strength, written))}"
        )
    return strengths


def _read_written(settings: EvaluationSettings) -> tuple[Generation, ...]:
    path = settings.generations_file
    if path is None:
        return ()
    written = tuple(read_generations(path))
    if len(noises := sorted({text.noise_std for text in written})) > 1:
        raise ValueError(
            f"generations={str(path)!r} hold texts under noise_std="
            f"{', '.join(map(format_strength, noises))}, which one curve would mix: give texts "
            f"of one, as `transport generate --noise-std {format_strength(noises[0])}` writes"
        )
    return written


def _written_with(settings: EvaluationSettings) -> dict[str, Any]:
    path = settings.generations_file
    manifest = None if path is None else path.parent / MANIFEST
    if manifest is None or not manifest.is_file():
        return {}
    return json.loads(manifest.read_text(encoding="utf-8")).get("arguments", {})
