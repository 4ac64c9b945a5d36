"""Log-likelihoods of tokens under many noise columns, from logits computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from aim_plugins.engines.engine import GaussianNoise
from aim_plugins.modulation.noise import standard_normal

_BLOCK_ELEMENTS = {"cpu": 2**18}
"""Logits worked on at a time: one block and its noise stay in a CPU core's second-level cache."""
_DEFAULT_BLOCK_ELEMENTS = 2**25


class NotFiniteLogitsError(ArithmeticError):
    """The model returned logits that have no softmax: NaN or positive infinity.

    Attributes:
        target: Index of the first target whose position has such logits.
    """

    def __init__(self, target: int) -> None:
        super().__init__("the model returned NaN or infinite logits")
        self.target = target


def token_log_probabilities(
    logits: Float[Tensor, "positions vocab"],
    keys: Int[Tensor, " positions"],
    position: Int[Tensor, " targets"],
    token: Int[Tensor, " targets"],
    columns: Sequence[GaussianNoise],
    softmax_dtype: torch.dtype | None = None,
) -> tuple[list[Float[Tensor, " targets"]], list[Shaped[Tensor, " targets"]], Tensor]:
    """Scores target tokens at their positions under every column.

    The identity column keeps the model's dtype through its softmax, so it has the very bits that
    an unmodulated harness computes; modulated columns work in float32. Memory beyond `logits` is
    a few blocks, whatever the number of columns.

    Args:
        logits: Clean logits in the model's dtype, one row for each position that is scored.
        keys: Prefix keys of these positions.
        position: Row of `logits` that predicts each target.
        token: Token id of each target.
        columns: The modulations.
        softmax_dtype: Dtype of the identity column's softmax; None keeps that of `logits`.

    Returns:
        Log-probabilities of the targets for each column (float64 where there is noise), whether
        the target is the argmax for each column, and the clean float32 log-probabilities.

    Raises:
        NotFiniteLogitsError: If logits hold NaN or positive infinity.
    """
    budget = _BLOCK_ELEMENTS.get(logits.device.type, _DEFAULT_BLOCK_ELEMENTS)
    block_rows = max(1, budget // logits.shape[1])
    pieces = []
    order = torch.argsort(position, stable=True)
    bounds = torch.arange(0, logits.shape[0] + block_rows, block_rows, device=position.device)
    edges = torch.searchsorted(position[order], bounds).tolist()
    for block, (first, last) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        chosen = order[first:last]
        if len(chosen) == 0:
            continue
        rows = slice(block * block_rows, (block + 1) * block_rows)
        local = position[chosen] - rows.start
        pieces.append(
            (
                chosen,
                _score_block(
                    logits[rows], keys[rows], local, token[chosen], columns, softmax_dtype, chosen
                ),
            )
        )
    inverse = torch.argsort(torch.cat([chosen for chosen, _ in pieces]))
    blocks = [scores for _, scores in pieces]

    def assemble(pick: int, column: int) -> Tensor:
        return torch.cat([scores[pick][column] for scores in blocks])[inverse].cpu()

    log_probabilities = [assemble(0, column) for column in range(len(columns))]
    is_argmax = [assemble(1, column) for column in range(len(columns))]
    return log_probabilities, is_argmax, torch.cat([scores[2] for scores in blocks])[inverse].cpu()


def _score_block(
    logits: Tensor,
    keys: Tensor,
    position: Tensor,
    token: Tensor,
    columns: Sequence[GaussianNoise],
    softmax_dtype: torch.dtype | None,
    targets: Tensor,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    clean_logits = logits.float()
    clean = F.log_softmax(clean_logits, dim=-1)[position, token]
    if bool((broken := clean.isnan()).any()):
        raise NotFiniteLogitsError(int(targets[broken][0]))
    answers: dict[GaussianNoise, tuple[Tensor, Tensor]] = {}
    noise: dict[int, Tensor] = {}
    buffer = torch.empty_like(clean_logits)
    for column in dict.fromkeys(column.effective for column in columns):
        if column.is_identity:
            native = F.log_softmax(logits, dim=-1, dtype=softmax_dtype)
            answers[column] = (native[position, token], native.argmax(dim=-1)[position] == token)
            continue
        if column.seed not in noise:
            noise = {
                column.seed: standard_normal(
                    keys, logits.shape[1], seed=column.seed, device=logits.device
                )
            }
        # A mean shifts every logit alike, which neither softmax nor argmax can see.
        torch.add(clean_logits, noise[column.seed], alpha=column.std, out=buffer)
        target = buffer[position, token]
        largest = buffer.amax(dim=-1, keepdim=True)
        log_normalizer = buffer.sub_(largest).exp_().sum(dim=-1).log_() + largest[:, 0]
        answers[column] = (
            (target - log_normalizer[position]).double(),
            target == largest[position, 0],
        )
    ordered = [answers[column.effective] for column in columns]
    return [scores for scores, _ in ordered], [hits for _, hits in ordered], clean
