"""A tokenizer of CLIP's own class that has the demo's words as tokens.

Its byte-pair encoding is learned from the words (Sennrich et al., "Neural Machine Translation of
Rare Words with Subword Units", arXiv:1508.07909, algorithm 1), until each is one token. Ties are
broken by spelling, so that the same words always have the same numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

LENGTH = 24
"""Tokens of a caption, with those that begin, end and fill it."""

_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"
_LAST = "</w>"
"""Marks the last piece of a word."""


def make_tokenizer(words: Iterable[str]) -> Any:
    """Makes the tokenizer.

    Args:
        words: The words that are to be one token each. CLIP splits at a hyphen, so that each part
            of "t-shirt" is one. Other words fall into pieces.

    Returns:
        A `CLIPTokenizer`.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    merges: Any = learn_merges({part for word in words for part in word.split("-")})
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [_BEGIN, _END, *alphabet, *(one + _LAST for one in alphabet)]
    tokens += dict.fromkeys("".join(pair) for pair in merges)
    numbers = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(numbers, merges, model_max_length=LENGTH)


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of pieces to join, in this order, until every word is one piece."""
    spelled = [[*word[:-1], word[-1] + _LAST] for word in words]
    merges = []
    while counts := Counter(pair for pieces in spelled for pair in pairwise(pieces)):
        pair = min(counts, key=lambda one: (-counts[one], one))
        merges.append(pair)
        spelled = [_join(pieces, pair) for pieces in spelled]
    return merges


def _join(pieces: Sequence[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined
