"""Scoring requests as the contexts of forward passes, and where their tokens lie in a batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aim_plugins.core.identity import fingerprint
from aim_plugins.engines.engine import (
    BatchSize,
    Engine,
    ScoreRequest,
    ScoreRow,
)
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.windows import knows_prompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context:
    """Requests that share one forward pass: equal token ids but for the last.

    Attributes:
        members: Indices of the requests.
        context: Token ids that the longest continuation is conditioned on.
        continuation: The longest continuation of the members.
    """

    members: list[int]
    context: Sequence[int]
    continuation: Sequence[int]

    @property
    def tokens(self) -> tuple[int, ...]:
        """All token ids."""
        return (*self.context, *self.continuation)


@dataclass(frozen=True)
class ScoredTokens:
    """Where the targets of a batch lie in its right-padded token ids [contexts, tokens].

    Attributes:
        scored: Positions of the flattened token ids that predict a target, each once.
        position: Index into `scored` for each target.
        token: Token id of each target.
        spans: For each request, its targets.
    """

    scored: Tensor
    position: Tensor
    token: Tensor
    spans: dict[int, slice]

    @classmethod
    def of(
        cls, requests: Sequence[ScoreRequest], batch: Sequence[Context], lengths: Sequence[int]
    ) -> ScoredTokens:
        """Lays out a batch.

        Args:
            requests: All requests.
            batch: The contexts of the batch.
            lengths: Tokens that each context feeds to the model.
        """
        scored: list[int] = []
        spans: dict[int, slice] = {}
        position: list[int] = []
        token: list[int] = []
        width = max(lengths)
        for row, (context, end) in enumerate(zip(batch, lengths, strict=True)):
            scored += range(row * width + end - len(context.continuation), row * width + end)
            for index in context.members:
                # Members may split the text elsewhere: the last tokens are theirs.
                own = requests[index].continuation
                spans[index] = slice(len(token), len(token) + len(own))
                position += range(len(scored) - len(own), len(scored))
                token += own
        return cls(torch.tensor(scored), torch.tensor(position), torch.tensor(token), spans)


def check_requests(requests: Sequence[ScoreRequest], max_length: int) -> None:
    """Refuses requests that have no answer, and warns of contexts that lose their start.

    Raises:
        ValueError: If a context or a continuation is empty, or a continuation is longer than
            `max_length` tokens.
    """
    for request in requests:
        if not request.continuation:
            raise ValueError(
                f"{request.label} has an empty continuation, which has no log-likelihood: "
                "drop the choice, or give it at least one token"
            )
        if not request.context:
            raise ValueError(f"{request.label} has an empty context: give a start token")
        if len(request.continuation) > max_length:
            raise ValueError(
                f"{request.label} has a continuation of {len(request.continuation)} tokens, "
                f"more than max_length={max_length}"
            )
    lengths = [len(request.context) + len(request.continuation) for request in requests]
    if cut := sum(length > max_length + 1 for length in lengths):
        logger.warning(
            "%d of %d requests are longer than max_length=%d tokens (the longest has %d): "
            "their contexts lose their start",
            *(cut, len(requests), max_length, max(lengths)),
        )


def context_batches(
    requests: Sequence[ScoreRequest],
    batch_size: BatchSize,
    shared_key: Callable[[ScoreRequest], Any],
) -> list[list[Context]]:
    """Groups requests into contexts and these into batches, the longest first.

    Args:
        requests: What to score.
        batch_size: Contexts in a batch, 0 for all, or a function as in the engine's `score`.
        shared_key: Equal for requests that one forward pass answers; None where none are.
    """
    groups: dict[Any, list[int]] = {}
    for index, request in enumerate(requests):
        key = shared_key(request)
        groups.setdefault(index if key is None else key, []).append(index)
    contexts = []
    for members in groups.values():
        longest = max(members, key=lambda index: len(requests[index].continuation))
        contexts.append(Context(members, requests[longest].context, requests[longest].continuation))
    contexts.sort(key=lambda context: (-len(context.tokens), context.tokens))
    if not callable(batch_size):
        size = batch_size or len(contexts) or 1
        return [contexts[start : start + size] for start in range(0, len(contexts), size)]
    ordered = [(None, context.context, context.continuation) for context in contexts]
    batches, start = [], 0
    while start < len(contexts):
        size = max(1, batch_size(start, ordered))
        batches.append(contexts[start : start + size])
        start += size
    return batches


def shared_context(columns: Sequence[Column]) -> Callable[[ScoreRequest], Any]:
    """What requests share if one forward pass answers them under all columns."""
    split = any(knows_prompt(one.positions) for column in columns for one in column.forward)

    def key(request: ScoreRequest) -> Any:
        seen = (*request.context, *request.continuation[:-1])
        # The split decides which tokens are changed.
        return (seen, len(request.context)) if split else seen

    return key


def recalled_scores(
    engine: Engine,
    requests: Sequence[ScoreRequest],
    batch: Sequence[Context],
    columns: Sequence[Column],
    compute: Callable[[], dict[int, ScoreRow]],
) -> dict[int, ScoreRow]:
    """A batch's rows by request, from the journal where an earlier run finished it.

    Args:
        engine: Whose journal keeps finished batches; without one they are computed always.
        requests: All requests.
        batch: The contexts of the batch.
        columns: The columns.
        compute: Scores the batch.
    """
    journal = engine.journal
    if journal is None:
        return compute()
    members = [index for context in batch for index in context.members]
    key = fingerprint(
        {
            "kind": "score with receipts",
            "model": engine.fingerprint,
            "columns": [column.fingerprint for column in columns],
            "inputs": [
                [list(requests[index].context), list(requests[index].continuation)]
                for index in members
            ],
        }
    )
    record = journal.read_batch(key)
    if record is not None:
        rows = map(ScoreRow.from_json, record["rows"])
        return dict(zip(members, rows, strict=True))
    found = compute()
    journal.write_batch(key, {"rows": [found[index].to_json() for index in members]})
    return found
