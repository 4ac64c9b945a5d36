"""Sentences as token ids, and in batches of similar length."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class SentenceBatch:
    """Sentences of similar length, those of the source first.

    Attributes:
        token_ids: Right-padded token ids.
        mask: Which tokens are the sentences' own.
        sentences: Numbers of the sentences; the source has the lower ones.
        n_source: How many are of the source.
    """

    token_ids: Int[Tensor, "sentences tokens"]
    mask: Bool[Tensor, "sentences tokens"]
    sentences: Int[Tensor, " sentences"]
    n_source: int


def tokenize(
    tokenizer: Any,
    sides: Mapping[str, Sequence[str]],
    max_length: int | None,
    window: int | None,
    *,
    special: bool = True,
) -> list[list[list[int]]]:
    """Token ids of each sentence, with the special tokens that the tokenizer adds by itself.

    Args:
        tokenizer: The model's tokenizer; it is left as it is.
        sides: The sentences by the name of their side.
        max_length: Tokens a sentence is cut to; None keeps all.
        window: Tokens the model takes; None if there is no such bound.
        special: Whether it adds them; a chat template has written its own.

    Raises:
        ValueError: If a sentence has no tokens, or more than the model takes.
    """
    # Truncation is a state of fast tokenizers, and of the user's other calls with this one.
    own = copy.deepcopy(tokenizer)
    options: dict[str, Any] = {"add_special_tokens": special}
    if max_length is not None:
        options |= {"truncation": True, "max_length": max_length}
    return [_tokenize(own, side, texts, options, window) for side, texts in sides.items()]


def _tokenize(
    tokenizer: Any,
    side: str,
    sentences: Sequence[str],
    options: Mapping[str, Any],
    window: int | None,
) -> list[list[int]]:
    encoded = tokenizer(list(sentences), padding=False, return_attention_mask=False, **options)
    rows = encoded["input_ids"]
    for number, (text, row) in enumerate(zip(sentences, rows, strict=True)):
        if not text.strip() or not row:
            raise ValueError(f"{side} sentence {number} ({text[:40]!r}) has no tokens: drop it")
        if window is not None and len(row) > window:
            raise ValueError(
                f"{side} sentence {number} ({text[:40]!r}...) has {len(row)} tokens, and the "
                f"model takes {window}: shorten it, or cut sentences with max_length={window}"
            )
    return [list(row) for row in rows]


def sentence_batches(
    source: Sequence[Sequence[int]], target: Sequence[Sequence[int]], batch_size: int
) -> list[SentenceBatch]:
    """Sorts sentences by length into as few right-padded batches as there can be.

    Args:
        source: Token ids of the source sentences, which get the numbers from 0 on.
        target: Token ids of the target sentences, which get the numbers after them.
        batch_size: Sentences in a batch at most.
    """
    rows = [*source, *target]
    longest_first = sorted(range(len(rows)), key=lambda number: (-len(rows[number]), number))
    chunks = [
        # A batch is transported as one block of rows.
        sorted(longest_first[start : start + batch_size])
        for start in range(0, len(rows), batch_size)
    ]
    return [_pad([rows[number] for number in chunk], chunk, len(source)) for chunk in chunks]


def _pad(rows: Sequence[Sequence[int]], numbers: Sequence[int], n_source: int) -> SentenceBatch:
    lengths = torch.tensor([len(row) for row in rows])
    width = int(lengths.max())
    # Padding is masked and behind each sentence, so any token does.
    token_ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask = torch.arange(width)[None] < lengths[:, None]
    sentences = torch.tensor(numbers)
    return SentenceBatch(token_ids, mask, sentences, int((sentences < n_source).sum()))
