"""Perplexity of a steered model on plain text, and of its texts under the plain model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aim_plugins.engines.engine import ScoreRequest
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation.columns import Column
from aim_plugins.steering.texts import Generation, encode_prompt
from aim_plugins.sweep.estimates import Estimate, perplexity


@dataclass(frozen=True)
class DocumentLikelihoods:
    """How likely documents are under each column.

    Attributes:
        negative_log_likelihoods: [columns][documents], in nats.
        tokens: Number of tokens scored of each document.
    """

    negative_log_likelihoods: list[list[float]]
    tokens: list[int]

    def perplexities(self) -> list[Estimate]:
        """Perplexity per token under each column."""
        return [perplexity(values, self.tokens) for values in self.negative_log_likelihoods]


def score_documents(
    engine: HuggingFaceEngine,
    documents: Sequence[str],
    columns: Sequence[Column],
    *,
    batch_size: int = 8,
    progress: bool = True,
) -> DocumentLikelihoods:
    """Scores every token of each document but its first, given those before it.

    The first token is the tokenizer's start token where it has one. Documents longer than the
    model's window are scored in windows that overlap in one token.

    Args:
        engine: Runs the model.
        documents: The documents; those of less than two tokens are left out.
        columns: One for each strength.
        batch_size: Windows in a forward pass.
        progress: Whether to show a progress bar, in windows.

    Raises:
        ValueError: If no document has two tokens.
    """
    encoded = [list(engine.tokenizer(document).input_ids) for document in documents]
    requests: list[ScoreRequest] = []
    owners: list[int] = []
    kept = [tokens for tokens in encoded if len(tokens) > 1]
    if not kept:
        raise ValueError("no document has two tokens: a perplexity needs longer ones")
    for owner, tokens in enumerate(kept):
        for start in range(1, len(tokens), engine.max_length):
            window = tokens[start : start + engine.max_length]
            label = f"document {owner}, token {start}"
            requests.append(ScoreRequest([tokens[start - 1]], window, label))
            owners.append(owner)
    rows = engine.score(requests, columns, batch_size=batch_size, progress=progress)
    totals = [[0.0] * len(kept) for _ in columns]
    for owner, row in zip(owners, rows, strict=True):
        for column, value in enumerate(row.log_likelihoods):
            totals[column][owner] -= value
    return DocumentLikelihoods(totals, [len(tokens) - 1 for tokens in kept])


def score_generations(
    engine: HuggingFaceEngine,
    generations: Sequence[Generation],
    *,
    batch_size: int = 8,
    progress: bool = True,
) -> list[float | None]:
    """Negative log-likelihood of each text given its prompt, under the plain model.

    Args:
        engine: Runs the model.
        generations: The texts.
        batch_size: Texts in a forward pass.
        progress: Whether to show a progress bar, in texts.

    Returns:
        Nats for each text; None for a text without a token.
    """
    filled = [index for index, generation in enumerate(generations) if generation.tokens]
    requests = [
        ScoreRequest(
            encode_prompt(engine.tokenizer, generations[index].prompt),
            generations[index].tokens,
            f"text {index}",
        )
        for index in filled
    ]
    scores: list[float | None] = [None] * len(generations)
    if requests:
        rows = engine.score(requests, [Column()], batch_size=batch_size, progress=progress)
        for index, row in zip(filled, rows, strict=True):
            scores[index] = -row.log_likelihoods[0]
    return scores


def generation_perplexity(
    generations: Sequence[Generation], scores: Sequence[float | None]
) -> Estimate | None:
    """Perplexity per token of some texts, from `score_generations`; None if all are empty."""
    known = [
        (score, len(generation.tokens))
        for generation, score in zip(generations, scores, strict=True)
        if score is not None
    ]
    if not known:
        return None
    return perplexity([score for score, _ in known], [count for _, count in known])
