"""Toxicity, sentiment and other labels of texts, by a classifier or by VADER's rules offline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from aim_plugins.core.identity import fingerprint, model_fingerprint
from aim_plugins.engines.engine import Journal
from aim_plugins.engines.loading import (
    local_name,
    read_model_config,
    refuse_random_weights,
)

POSITIVE_COMPOUND = 0.05
"""A text of a larger compound score counts as positive, as VADER's authors suggest."""


def vader_compounds(texts: Sequence[str]) -> list[float]:
    """VADER's compound score of each text, from -1 (negative) to 1 (positive).

    Raises:
        ImportError: If the package is missing.

    Source: Hutto and Gilbert, VADER, ICWSM 2014; the package vaderSentiment.
    """
    require_vader()
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    return [float(analyzer.polarity_scores(text)["compound"]) for text in texts]


def require_vader() -> None:
    """Refuses to go on without the package.

    Raises:
        ImportError: If it is missing.
    """
    from importlib.util import find_spec

    if find_spec("vaderSentiment") is None:
        raise ImportError(
            "sentiment='vader' needs vaderSentiment: pip install 'aim-plugins[transport]'"
        )


def check_classifier(name: str, label: str, *, trust_remote_code: bool = False) -> None:
    """Refuses a classifier that is missing, or lacks a label, before its weights are loaded.

    Args:
        name: Name on the hub, or a local folder.
        label: The label.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        ValueError: If so, or it is a language model; labels that the model has are named.
    """
    from transformers.models.auto import modeling_auto

    config = read_model_config("classifier", name, trust_remote_code=trust_remote_code)
    language_models = {
        *modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(),
        *modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.values(),
    }
    heads = config.architectures or []
    if heads and language_models.issuperset(heads):
        raise ValueError(
            f"classifier={name!r} is a {', '.join(heads)}, whose labels would be read from random "
            "weights: give a model that was trained as a classifier, or ask this one with --judge"
        )
    labels = list((config.id2label or {}).values())
    if label not in labels:
        raise ValueError(
            f"label={label!r} is none of those of {name}: give one of {', '.join(labels)}"
        )


class Classifier:
    """A text classifier of transformers, read for the probability of one label.

    Args:
        name: Name on the hub, or a local folder.
        label: The label, as the model's configuration names it.
        device: Where it runs.
        journal: Keeps finished batches, so that an interrupted run goes on where it was.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        ValueError: If the model has no such label, or its checkpoint lacks weights, as that of a
            language model lacks a classifier's; they are named.
    """

    def __init__(
        self,
        name: str,
        label: str,
        *,
        device: str | None = None,
        journal: Journal | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

        check_classifier(name, label, trust_remote_code=trust_remote_code)
        options: Any = {"trust_remote_code": trust_remote_code}
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            local_name(name), output_loading_info=True, **options
        )
        model, loading = loaded
        refuse_random_weights("classifier", name, loading)
        self._pipeline: Any = pipeline(
            "text-classification",
            model=model,
            tokenizer=AutoTokenizer.from_pretrained(local_name(name), **options),
            top_k=None,
            device=device or "cpu",
        )
        self.label = label
        self._journal = journal
        self.fingerprint = model_fingerprint(self._pipeline.model)

    def probabilities(
        self, texts: Sequence[str], *, batch_size: int = 8, progress: bool = True
    ) -> list[float]:
        """Probability of the label for each text, as the model's configuration has it computed.

        Args:
            texts: The texts; those longer than the model's window are cut.
            batch_size: Texts in a batch.
            progress: Whether to show a progress bar, in texts.
        """
        values: list[float] = []
        with tqdm(total=len(texts), disable=not progress, desc=f"Classifying {self.label}") as bar:
            for start in range(0, len(texts), batch_size):
                batch = list(texts[start : start + batch_size])
                values += self._recall(batch)
                bar.update(len(batch))
        return values

    def _recall(self, batch: list[str]) -> list[float]:
        key = fingerprint(["classify", self.fingerprint, self.label, batch])
        if self._journal is not None and (record := self._journal.read_batch(key)) is not None:
            return record["values"]
        answers = self._pipeline(batch, batch_size=len(batch), truncation=True)
        values = [
            next(float(entry["score"]) for entry in answer if entry["label"] == self.label)
            for answer in answers
        ]
        if self._journal is not None:
            self._journal.write_batch(key, {"values": values})
        return values
