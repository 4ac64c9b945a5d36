"""Answers with their receipts: what engines saw of a change, counted for each answer.

Forward passes are watched by `aim_plugins.modulation.witness`. Of logits, `ChangedScores` stands
behind all processors that change them, and sees whether any row left them as it came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from aim_plugins.core.errors import ReceiptError
from aim_plugins.core.strengths import format_strength
from aim_plugins.engines.faults import FaultyLogits
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.logits import ChangedLogits
from aim_plugins.modulation.parameters import to_host
from aim_plugins.modulation.receipts import Receipt
from aim_plugins.modulation.windows import reached
from aim_plugins.modulation.witness import is_looked_at


class Answer(list[int]):
    """New token ids that continue a prompt.

    Args:
        tokens: The token ids.
        receipt: What was in fact changed while they were decoded; None if nothing tells.
    """

    def __init__(self, tokens: Iterable[int], receipt: Receipt | None = None) -> None:
        super().__init__(tokens)
        self.receipt = receipt


def answers_to_json(table: Sequence[Sequence[Answer]]) -> dict[str, Any]:
    """A table of answers as a journal keeps it."""
    return {
        "tokens": [[list(one) for one in row] for row in table],
        "receipts": [[one.receipt and one.receipt.to_json() for one in row] for row in table],
    }


def answers_from_json(record: Mapping[str, Any]) -> list[list[Answer]]:
    """The table that `answers_to_json` wrote."""
    return [
        [Answer(tokens, Receipt.from_json(one)) for tokens, one in zip(row, receipts, strict=True)]
        for row, receipts in zip(record["tokens"], record["receipts"], strict=True)
    ]


class ChangedScores(LogitsProcessor):
    """Sees what the processors between `FaultyLogits` and itself have changed.

    Of the steps that are looked at it notes on the device which rows are others.

    Args:
        clean: Stands before them.
        changing: The processors between.
    """

    def __init__(self, clean: FaultyLogits, changing: Sequence[ChangedLogits]) -> None:
        self._clean, self._changing = clean, changing
        self._calls = 0
        self._moved: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._calls += 1
        before, self._clean.scores = self._clean.scores, None
        if before is not None and is_looked_at(self._calls):
            self._moved.append((scores != before).any(1))
        return scores

    def settle(self, rows: Sequence[Column], steps: int) -> None:
        """Holds what was seen against what was asked for.

        Args:
            rows: The column of each row.
            steps: Tokens that each row was decoded by, at least.

        Raises:
            ReceiptError: If logits of a row were not changed at every step, naming the first.
        """
        flags = [one.reshape(len(rows), -1).any(1) for one in to_host(self._moved)]  # of beams
        moved = np.array(flags).reshape(len(flags), len(rows))
        for row, column in enumerate(rows):
            asked = column.acting_on("logits")
            changing = [one for one in self._changing if one.settings[row] is not None]
            found = [one.settings[row] for one in changing]
            calls = min((one.calls for one in changing), default=0)
            place = f"row {row + 1} of {len(rows)}: asked for"
            wanted = " and ".join(f"{one.name} {format_strength(one.strength)}" for one in asked)
            if not asked and not changing:
                continue
            if list(asked) != found:
                raise ReceiptError(f"{place} {wanted or 'clean logits'}, given {found or 'none'}")
            if min(calls, self._calls) < steps:
                raise ReceiptError(f"{place} {wanted}, changed {calls} of {steps} steps")
            if any(one.certain for one in asked) and not moved[:, row].all():
                raise ReceiptError(
                    f"{place} {wanted}, and its logits are what they were: the change was lost, or "
                    "rounding loses so small a strength"
                )


def check_order(sequences: Tensor, asked: Tensor, origin: Sequence[int]) -> None:
    """Refuses rows that do not begin with the prompts that they are taken to continue.

    Args:
        sequences: Prompts and continuations, [rows, tokens].
        asked: The prompts of all rows at first.
        origin: Which of these each row continues.

    Raises:
        ReceiptError: If one does not.
    """
    index = torch.tensor(origin, device=asked.device)
    prompts = asked[index].to(sequences.device)
    if not torch.equal(sequences[:, : prompts.shape[1]], prompts):
        raise ReceiptError(
            "rows were decoded in another order than they were asked for in, so that strengths met "
            "prompts of others"
        )


def scored_receipts(
    columns: Sequence[Column],
    sites: Sequence[Mapping[Change, int]],
    moved: Sequence[int],
    *,
    read: int,
    scored: int,
    label: str,
) -> list[Receipt]:
    """Receipts of one request under every column.

    Args:
        columns: The columns.
        sites: Sites at which each column's changes of the forward pass acted.
        moved: Targets of each column whose logits came out otherwise.
        read: Tokens that the model read.
        scored: Tokens of the continuation.
        label: How errors name the request.

    Raises:
        ReceiptError: If changes of logits left all targets as they were.
    """
    receipts = []
    for column, own, number in zip(columns, sites, moved, strict=True):
        asked = column.acting_on("logits")
        if any(one.certain for one in asked) and not number:
            raise ReceiptError(
                f"{label}: asked for {asked[0].name} {format_strength(asked[0].strength)}, and its "
                "logits are what they were: the change was lost, or rounding loses so small a "
                "strength"
            )
        tokens = {
            one: (number if one.certain else scored)
            if one.acts_on == "logits"
            else reached(one.positions, read - scored + 1, read)
            for one in column.effective.changes
        }
        receipts.append(Receipt.of(column, own, tokens))
    return receipts


def decoded_receipt(
    column: Column,
    sites: Mapping[Change, int],
    *,
    prompt: int,
    new: int,
    context: int | None = None,
) -> Receipt:
    """The receipt of a decoded answer.

    Args:
        column: Its column.
        sites: Sites at which its changes of the forward pass acted.
        prompt: Tokens of the prompt.
        new: Tokens of the answer; the model has not read the last of them.
        context: Tokens that count as the prompt for windows, if not all of it.
    """
    read = prompt + new - 1 if new else 0
    length = prompt if context is None else context
    tokens = {
        one: new if one.acts_on == "logits" else reached(one.positions, length, read)
        for one in column.effective.changes
    }
    return Receipt.of(column, sites, tokens)
