"""Texts of a batch of prompts under many columns, decoded side by side by vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm import SamplingParams

from aim_plugins.engines.answers import Answer, decoded_receipt
from aim_plugins.engines.vllm.parameters import extra_args
from aim_plugins.engines.vllm.runs import Runs
from aim_plugins.modulation.columns import Column, distinct_columns
from aim_plugins.modulation.sampling import sampling_seed


def generate_batch(
    runs: Runs,
    prompts: Sequence[list[int]],
    columns: Sequence[Column],
    *,
    room: int,
    stop: Sequence[str],
    occurrences: Sequence[int],
    sampling: dict[str, float] | None,
    progress: bool,
) -> list[list[Answer]]:
    """Continues prompts under every column in one batch.

    Args:
        runs: Runs requests of the engine.
        prompts: Token ids of each prompt.
        columns: The columns.
        room: Most tokens of a continuation.
        stop: Strings after which it is complete.
        occurrences: How often each prompt was asked before.
        sampling: How tokens are drawn; None decodes greedily.
        progress: Whether to show vLLM's progress bar.

    Returns:
        New token ids for each prompt and column, with their receipts.
    """
    # Columns that give the same texts are decoded once, unless their tokens are drawn.
    distinct, where = list(columns), list(range(len(columns)))
    if sampling is None:
        distinct, where = distinct_columns(columns)
    pairs = [(row, column) for row in range(len(prompts)) for column in range(len(distinct))]
    parameters = [
        SamplingParams(
            max_tokens=room,
            temperature=0.0,
            stop=list(stop),
            # Stop strings may be spelt with special tokens.
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
            extra_args=extra_args(distinct[column])
            | _keyed_sampling(sampling, distinct[column].seed, occurrences[row]),
        )
        for row, column in pairs
    ]
    asked = [distinct[column] for _, column in pairs]
    found = runs.run([prompts[row] for row, _ in pairs], parameters, asked, progress=progress)
    answers = [
        Answer(tokens, decoded_receipt(column, sites, prompt=len(prompts[row]), new=len(tokens)))
        for (row, _), column, (tokens, sites) in zip(pairs, asked, found, strict=True)
    ]
    width = len(distinct)
    decoded = [answers[row * width : (row + 1) * width] for row in range(len(prompts))]
    return [[row[index] for index in where] for row in decoded]


def _keyed_sampling(
    settings: dict[str, float] | None, seed: int, occurrence: int
) -> dict[str, Any]:
    """The argument that lets a request's tokens be drawn by keys; none for greedy decoding."""
    if settings is None:
        return {}
    return {"aim_sampling": {"seed": sampling_seed(seed, occurrence), **settings}}
