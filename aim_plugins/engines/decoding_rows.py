"""The rows of a batch that are still decoding, and what is to be changed of each."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from aim_plugins.core.errors import ReceiptError
from aim_plugins.engines.answers import check_order
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.columns import Column, applied, by_kind
from aim_plugins.modulation.logits import ChangedLogits
from aim_plugins.modulation.settlement import Settlement
from aim_plugins.modulation.token_weights import Layout
from aim_plugins.modulation.witness import Witness


@dataclass
class DecodingRows:
    """The rows still decoding, and where each belongs.

    Attributes:
        token_ids: Tokens so far, padded on the left.
        mask: 0 for padding.
        columns: The column of each row.
        origin: The index of each row at first.
        prompt: Tokens of the padded prompts.
        sampling_seed: Seed of each row's draws, where they are keyed.
        cache: Keys and values of all tokens but the last.
        asked: The prompts of all rows at first.
        planned: The columns of all rows at first.
        sites: For every row at first, the sites at which its changes of activations acted.
    """

    token_ids: Tensor
    mask: Tensor
    columns: list[Column]
    origin: list[int]
    prompt: int
    sampling_seed: Tensor | None = None
    cache: Any = None
    asked: Tensor = field(init=False)
    planned: list[Column] = field(init=False)
    sites: dict[int, dict[Change, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.asked, self.planned = self.token_ids, list(self.columns)

    @property
    def activations(self) -> list[tuple[Change, ...]]:
        """What changes the activations of each row."""
        return [column.acting_on("activations") for column in self.columns]

    def steered(self, model: Any, *, cached: bool) -> contextlib.AbstractContextManager[None]:
        """Changes activations while the block runs, each row as its column says."""
        # Without a cache every step computes all positions again, as they were at their time.
        return applied(model, self.activations, self._layout(cached=cached))

    def _layout(self, *, cached: bool) -> Layout | None:
        known = 0 if self.cache is None else self.token_ids.shape[1] - 1
        return row_layout(self.activations, self.mask, self.prompt, known, whole=not cached)

    def changed_logits(self) -> list[ChangedLogits]:
        """What changes the logits of each row, in the order of its column."""
        rows = [column.acting_on("logits") for column in self.columns]
        return [
            ChangedLogits(own, attention_mask=self.mask, name=kind.name, trusted=True)
            for kind, own in by_kind(rows)
        ]

    def settle(self, witness: Witness, sequences: Tensor, steps: int, *, cached: bool) -> None:
        """Holds what was seen of a call of `generate` against what was asked for.

        Args:
            witness: Watched the call.
            sequences: What it returned, [rows, tokens].
            steps: How many tokens it has decoded for each row, of beams some in vain.
            cached: Whether each step but the first reads one token.

        Raises:
            ReceiptError: If a row was not changed as its column says.
        """
        if self.columns != [self.planned[row] for row in self.origin]:
            raise ReceiptError("rows that go on have taken over columns of others")
        check_order(sequences, self.asked, self.origin)
        length = self.token_ids.shape[1]
        found = Settlement(witness).rows(
            self.activations,
            self.token_ids,
            passes=steps,
            known=0 if self.cache is None else length - 1,
            layout=self._layout(cached=cached),
        )
        self.sites.update(zip(self.origin, found, strict=True))

    def keep(self, alive: Sequence[int]) -> None:
        """Drops every row that is not in `alive`."""
        if len(alive) == len(self.origin):
            return
        index = torch.tensor(alive, dtype=torch.long)
        for name in ("token_ids", "mask", "sampling_seed"):
            if (rows := getattr(self, name)) is not None:
                setattr(self, name, rows[index.to(rows.device)])
        self.columns = [self.columns[row] for row in alive]
        self.origin = [self.origin[row] for row in alive]
        if self.cache is not None:
            self.cache.batch_select_indices(index)


def row_layout(
    rows: Sequence[Sequence[Change]],
    mask: Tensor,
    prompt: int,
    cached: int = 0,
    *,
    whole: bool = False,
) -> Layout | None:
    """The layout of left-padded rows whose prompts are a number of tokens wide, if they need it."""
    if all(change.positions == "all" for changes in rows for change in changes):
        return None
    ends = torch.full((len(mask),), prompt)
    return Layout(ends, mask.cpu().long().argmax(dim=1), cached, whole)
