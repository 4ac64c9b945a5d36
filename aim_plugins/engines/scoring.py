"""Log-likelihoods of tokens under many changes of the logits, from logits computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aim_plugins.modulation.changes import Change, Scratch
from aim_plugins.modulation.columns import Column

_BLOCK_ELEMENTS = {"cpu": 2**18}
"""Logits worked on at a time: one block and its noise stay in a CPU core's second-level cache."""
_DEFAULT_BLOCK_ELEMENTS = 2**25

WITNESSES = 64
"""Logits of each row, spread over the vocabulary, that tell whether they were changed."""


class TokenScores(NamedTuple):
    """Targets under every column.

    Attributes:
        log_probabilities: Of each column; float64 where logits are changed.
        is_argmax: Whether the target is the argmax, for each column.
        clean: Float32 log-probabilities of the clean logits.
        moved: Whether the logits before the target are others than the clean ones, for each column.
    """

    log_probabilities: list[Float[Tensor, " targets"]]
    is_argmax: list[Bool[Tensor, " targets"]]
    clean: Float[Tensor, " targets"]
    moved: list[Bool[Tensor, " targets"]]

    def of(
        self, column: int
    ) -> tuple[
        Float[Tensor, " targets"],
        Bool[Tensor, " targets"],
        Float[Tensor, " targets"],
        Bool[Tensor, " targets"],
    ]:
        """The four of one column."""
        scores, hits = self.log_probabilities[column], self.is_argmax[column]
        return scores, hits, self.clean, self.moved[column]


class NotFiniteLogitsError(ArithmeticError):
    """The model returned logits that have no softmax: NaN or positive infinity.

    Attributes:
        target: Index of the first target whose position has such logits.
    """

    def __init__(self, target: int) -> None:
        super().__init__("the model returned NaN or infinite logits")
        self.target = target


class BrokenModelError(ValueError):
    """A change of the forward pass breaks the model, which then returns no numbers."""


def token_log_probabilities(
    logits: Float[Tensor, "rows vocab"],
    rows: Int[Tensor, " positions"],
    keys: Int[Tensor, " positions"],
    position: Int[Tensor, " targets"],
    token: Int[Tensor, " targets"],
    columns: Sequence[Column],
    softmax_dtype: torch.dtype | None = None,
    *,
    by_prefix: bool = True,
) -> TokenScores:
    """Scores target tokens at their positions under every column.

    The identity column keeps the model's dtype through its softmax, so it has the very bits that
    an unmodulated harness computes; modulated columns work in float32, and once for all positions
    that follow the same prefix. Memory beyond `logits` is a few blocks, whatever the number of
    columns.

    Args:
        logits: Clean logits in the model's dtype.
        rows: Row of `logits` for each position that is scored.
        keys: Prefix keys of these positions.
        position: Index of the position that predicts each target.
        token: Token id of each target.
        columns: The columns, of which only the changes of logits count.
        softmax_dtype: Dtype of the identity column's softmax; None keeps that of `logits`.
        by_prefix: Whether equal prefixes have equal logits. Where activations change from some
            position on, that position counts as well.

    Raises:
        NotFiniteLogitsError: If logits hold NaN or positive infinity.
    """
    count, device = len(token), logits.device
    clean = torch.empty(count, device=device)
    native_dtype = softmax_dtype or logits.dtype
    # Filled block by block: results kept of every block would scatter over the heap and keep the
    # memory of the blocks between them from being used again.
    asked = [column.acting_on("logits") for column in columns]
    answers = {
        changes: (
            torch.empty(count, dtype=torch.float64 if changes else native_dtype, device=device),
            torch.empty(count, dtype=torch.bool, device=device),
            torch.zeros(count, dtype=torch.bool, device=device),
        )
        for changes in dict.fromkeys(asked)
    }
    identity = answers.get(())
    for block, local, targets in _blocks(logits, rows, position):
        _score_clean(logits[rows[block]], local, token, targets, clean, identity, softmax_dtype)
    # By seed, so that only one draw has to be kept at a time.
    modulated = sorted(filter(None, answers), key=lambda changes: [one.seed for one in changes])
    if modulated:
        kept, place = _distinct(keys if by_prefix else torch.arange(len(keys), device=device))
        for block, local, targets in _blocks(logits, kept, place[position]):
            chosen = kept[block]
            _score_modulated(
                logits[rows[chosen]].float(),
                keys[chosen],
                local,
                token,
                targets,
                {changes: answers[changes] for changes in modulated},
            )
    host = {changes: [one.cpu() for one in found] for changes, found in answers.items()}
    log_probabilities, is_argmax, moved = zip(*(host[changes] for changes in asked), strict=True)
    return TokenScores(list(log_probabilities), list(is_argmax), clean.cpu(), list(moved))


def _distinct(
    keys: Int[Tensor, " positions"],
) -> tuple[Int[Tensor, " distinct"], Int[Tensor, " positions"]]:
    """The first position of each key, and for every position the index of its key's first one."""
    group = torch.unique(keys, return_inverse=True)[1]
    index = torch.arange(len(keys), device=keys.device)
    first = torch.full_like(index, len(keys)).scatter_reduce_(0, group, index, "amin")[group]
    return torch.unique(first, return_inverse=True)


def _blocks(
    logits: Tensor, positions: Tensor, position: Int[Tensor, " targets"]
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Cuts positions into blocks that fit the cache or a small part of the device's memory.

    Yields:
        The positions of a block, for each target there its index in the block, and the targets.
    """
    budget = _BLOCK_ELEMENTS.get(logits.device.type, _DEFAULT_BLOCK_ELEMENTS)
    size = max(1, budget // logits.shape[1])
    order = torch.argsort(position, stable=True)
    bounds = torch.arange(0, len(positions) + size, size, device=position.device)
    edges = torch.searchsorted(position[order], bounds).tolist()
    for block, (first, last) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        if first < last:
            targets = order[first:last]
            start = block * size
            yield slice(start, start + size), position[targets] - start, targets


def _score_clean(
    logits: Tensor,
    position: Tensor,
    token: Tensor,
    targets: Tensor,
    clean: Tensor,
    identity: tuple[Tensor, ...] | None,
    softmax_dtype: torch.dtype | None,
) -> None:
    token = token[targets]
    clean[targets] = F.log_softmax(logits.float(), dim=-1)[position, token]
    if bool((broken := clean[targets].isnan()).any()):
        raise NotFiniteLogitsError(int(targets[broken][0]))
    if identity is not None:
        native = F.log_softmax(logits, dim=-1, dtype=softmax_dtype)
        identity[0][targets] = native[position, token]
        identity[1][targets] = native.argmax(dim=-1)[position] == token


def _score_modulated(
    logits: Tensor,
    keys: Tensor,
    position: Tensor,
    token: Tensor,
    targets: Tensor,
    answers: dict[tuple[Change, ...], tuple[Tensor, ...]],
) -> None:
    token, scratch = token[targets], Scratch()
    step = max(1, logits.shape[1] // WITNESSES)
    clean = logits[:, ::step].clone()
    for changes, (log_probabilities, is_argmax, moved) in answers.items():
        changed = logits
        for change in changes:
            changed = change.modulate(changed, keys, scratch)
        moved[targets] = (changed[:, ::step] != clean).any(1)[position]
        target = changed[position, token]
        largest = changed.amax(dim=-1, keepdim=True)
        shifted = torch.sub(changed, largest, out=scratch.buffer(logits))
        log_normalizer = shifted.exp_().sum(dim=-1).log_() + largest[:, 0]
        log_probabilities[targets] = (target - log_normalizer[position]).double()
        is_argmax[targets] = target == largest[position, 0]
