"""Going on with halves of a batch that does not fit into memory.

A batch of generation has a row for every prompt and column, and how much memory it takes is known
only when its longest text has been decoded. Noise is keyed by the prefix, so the parts of a batch
give the answers of the whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module

logger = logging.getLogger(__name__)

Answers = TypeVar("Answers")

_OUT_OF_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""How CUDA and cuBLAS say it where PyTorch's own allocator is not the one that asks."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error may go away with a smaller batch."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and (should_reduce_batch_size(error) or any(text in str(error) for text in _OUT_OF_MEMORY))
    )


def forward_is_collective(model: Any) -> bool:
    """Whether the processes of a run have to make each forward pass of the model together."""
    return (
        is_fsdp_managed_module(model)
        or is_deepspeed_zero3_enabled()
        or (getattr(model, "tp_size", None) or 1) > 1
    )


@dataclass(frozen=True)
class Block:
    """A part of a batch: some of its prompts (or contexts) under some of its columns.

    Attributes:
        prompts: Indices of the prompts.
        columns: Indices of the columns.
    """

    prompts: range
    columns: range

    @property
    def rows(self) -> int:
        """Rows of the batch that the model sees."""
        return len(self.prompts) * len(self.columns)

    def halves(self) -> tuple[Block, Block]:
        """Both halves: of the prompts as long as there are several, then of the columns.

        The larger is the first, so that what a run learns from it holds for the second.
        """
        if len(self.prompts) > 1:
            middle = (len(self.prompts) + 1) // 2
            return (
                Block(self.prompts[:middle], self.columns),
                Block(self.prompts[middle:], self.columns),
            )
        middle = (len(self.columns) + 1) // 2
        return (
            Block(self.prompts, self.columns[:middle]),
            Block(self.prompts, self.columns[middle:]),
        )


class RowLimit:
    """Splits batches, and learns in the course of a run how many rows fit into memory.

    It asks nothing of other processes: each rank of a distributed run splits on its own. Where the
    forward pass itself is collective none may, since the others would wait for it forever.

    Args:
        unit: What the rows are, in the user's words: "prompts" or "contexts".
        divisible: Whether batches may be split at all.

    Attributes:
        failed: Fewest rows that did not fit; None as long as all did.
    """

    def __init__(self, unit: str, *, divisible: bool = True) -> None:
        self.unit = unit
        self.divisible = divisible
        self.failed: int | None = None

    def run(
        self, prompts: int, columns: int, compute: Callable[[Block], Answers]
    ) -> list[tuple[Block, Answers]]:
        """Computes a batch, in one piece if it fits.

        Args:
            prompts: Prompts of the batch, P.
            columns: Columns of the batch, S.
            compute: Answers a block. It must not change anything before it succeeds.

        Returns:
            Blocks that together are the batch, in order, each with its answers.

        Raises:
            RuntimeError: If a single row does not fit into memory.
        """
        waiting = [Block(range(prompts), range(columns))]
        answered: list[tuple[Block, Answers]] = []
        too_large: list[Block] = []
        while waiting:
            block = waiting.pop()
            answers = self._attempt(block, compute, too_large)
            if answers is None:
                waiting += reversed(block.halves())
                continue
            if too_large:
                self._warn(too_large, block)
                too_large.clear()
            answered.append((block, answers))
        return answered

    def _attempt(
        self, block: Block, compute: Callable[[Block], Answers], too_large: list[Block]
    ) -> Answers | None:
        if block.rows > 1 and self.failed is not None and block.rows >= self.failed:
            return None
        try:
            return compute(block)
        except RuntimeError as error:
            if block.rows == 1 or not self.divisible or not is_out_of_memory(error):
                raise
        # Only after the except block does nothing refer to the failed pass's tensors any more.
        clear_device_cache(garbage_collection=True)
        self.failed = block.rows
        too_large.append(block)
        return None

    def _warn(self, too_large: list[Block], fitting: Block) -> None:
        logger.warning(
            "out of memory with a batch of %s: going on with at most %s at a time, which gives the "
            "same answers. A smaller batch_size saves the attempt",
            ", then ".join(self._describe(block) for block in too_large),
            self._describe(fitting),
        )

    def _describe(self, block: Block) -> str:
        count = f"{len(block.prompts)} {self.unit}"
        if len(block.columns) == 1:
            return count
        return f"{count} x {len(block.columns)} columns = {block.rows} rows"
