"""The contract between a harness and whoever runs the model: an N x S table.

N requests meet S columns (one for each combination of strengths, and draw) and one call returns
every answer. Changes of logits leave the forward pass as it is, so an engine serves all of them
from one forward; changes of activations become passes, or rows of one batch; changes of weights
are a pass each. A single strength is the case S = 1. Harness adapters translate requests into token
rows and replay columns; they compute nothing themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from aim_plugins.engines.answers import Answer
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.conditions import Summary
from aim_plugins.modulation.receipts import Receipt

BatchSize = int | Callable[[int, Sequence[tuple[None, Sequence[int], Sequence[int]]]], int]
"""Contexts in a forward pass, or a function of the next context's index and of all of them."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Tokens whose log-likelihood is asked for.

    Attributes:
        context: Token ids the continuation is conditioned on; at least one.
        continuation: Token ids to score; at least one.
        label: How errors name the request.
    """

    context: Sequence[int]
    continuation: Sequence[int]
    label: str = "a request"


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One row of a scoring table: a request under every column.

    Attributes:
        log_likelihoods: log p(continuation | context) of each column, in nats.
        is_greedy: Whether greedy decoding would produce the continuation, for each column.
        clean: Log-likelihood of each column without its changes of logits, from a float32 softmax
            whatever the model's dtype. Differences of it between single-token continuations of one
            context are the differences of the clean logits, which the exact laws need.
        context_key: Prefix key of the first scored position.
        tokens: The continuation's token ids.
        receipts: What was in fact changed under each column.
    """

    log_likelihoods: Sequence[float]
    is_greedy: Sequence[bool]
    clean: Sequence[float]
    context_key: int
    tokens: Sequence[int]
    receipts: Sequence[Receipt | None]

    def to_json(self) -> list[Any]:
        """The row as a journal keeps it."""
        receipts = [one and one.to_json() for one in self.receipts]
        answers = (self.log_likelihoods, self.is_greedy, self.clean, self.context_key, self.tokens)
        return [*answers, receipts]

    def cell(self, column: int) -> tuple[float, bool, float, Receipt | None]:
        """What it says of one column: the log-likelihoods, whether it is greedy, the receipt."""
        scores = self.log_likelihoods[column], self.is_greedy[column], self.clean[column]
        return *scores, self.receipts[column]

    @classmethod
    def from_json(cls, row: Sequence[Any]) -> ScoreRow:
        """The row that `to_json` wrote."""
        scores, greedy, clean, key, tokens, receipts = row
        return cls(scores, greedy, clean, key, tokens, list(map(Receipt.from_json, receipts)))


class Journal(Protocol):
    """Where an engine keeps the finished batches of a run that may be interrupted."""

    def read_batch(self, key: str) -> dict[str, Any] | None:
        """Returns what was written under `key`, or None."""

    def write_batch(self, key: str, payload: dict[str, Any]) -> None:
        """Stores a finished batch atomically."""


class NoJournal:
    """Keeps no batches, but makes the engine draw samples by keys, as with a journal."""

    def read_batch(self, key: str) -> None:
        """Finds nothing."""

    def write_batch(self, key: str, payload: dict[str, Any]) -> None:
        """Keeps nothing."""


@dataclass(frozen=True)
class Prompts:
    """Left-padded prompts.

    Attributes:
        token_ids: Token ids.
        mask: 1 for tokens, 0 for padding.
    """

    token_ids: Int[Tensor, "prompts tokens"]
    mask: Int[Tensor, "prompts tokens"]

    def __getitem__(self, rows: slice | list[int]) -> Prompts:
        """Some of the prompts, padded as they are."""
        return Prompts(self.token_ids[rows], self.mask[rows])

    def unpadded(self) -> list[Tensor]:
        """The token ids of each prompt without its padding."""
        tokens, kept = self.token_ids.cpu(), self.mask.bool().cpu()
        return [row[mask] for row, mask in zip(tokens, kept, strict=True)]


def pad_left(rows: Sequence[Sequence[int]], padding: int) -> Prompts:
    """Prompts as one batch, padded on the left."""
    width = max(len(row) for row in rows)
    return Prompts(
        torch.tensor([[padding] * (width - len(row)) + list(row) for row in rows]),
        torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    )


class Engine(Protocol):
    """Runs a model for N requests under S columns.

    Attributes:
        journal: Keeps finished batches, so that an interrupted run goes on where it was.
        max_length: Longest sequence the model takes, in tokens; longer contexts lose their start.
    """

    journal: Journal | None
    max_length: int

    @property
    def fingerprint(self) -> str:
        """Identifies the model and the numeric options that shape its answers."""

    def score(
        self,
        requests: Sequence[ScoreRequest],
        columns: Sequence[Column],
        *,
        batch_size: BatchSize,
        progress: bool = True,
        on_row: Callable[[int, ScoreRow], None] | None = None,
    ) -> list[ScoreRow]:
        """Scores continuations: one row for each request, in the order of the requests."""

    def generate(
        self,
        prompts: Prompts,
        columns: Sequence[Column],
        *,
        max_length: int,
        stop: Sequence[str] = (),
        occurrences: Sequence[int] | None = None,
        **options: Any,
    ) -> list[list[Answer]]:
        """Continues prompts: new token ids for each prompt and column, with their receipts.

        Sampling answers a prompt anew for each of its `occurrences`, the number of times it was
        asked before; none was if left out.
        """

    def states(
        self, prompts: Sequence[Sequence[int]], watched: Sequence[tuple[str, Summary]]
    ) -> list[list[Tensor]]:
        """What the plain model makes of prompts, by which `conditions` are decided.

        Args:
            prompts: Token ids of each.
            watched: Sites, each with how the states of a prompt's tokens become one.

        Returns:
            For each prompt and pair the state [neurons], in float32 on the CPU.
        """

    def probe(
        self, batch_size: int, length: int, columns: Sequence[Column], *, generation: bool
    ) -> None:
        """Takes the memory that one batch needs, or fails as the batch itself would."""
