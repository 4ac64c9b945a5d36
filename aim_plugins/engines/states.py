"""States of prompts in the plain model, one for each site, by which conditions are decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aim_plugins.core.errors import first_few
from aim_plugins.engines.splitting import Block, RowLimit
from aim_plugins.modulation.conditions import Summary
from aim_plugins.modulation.hooks import change_outputs
from aim_plugins.transport.forward import forward_of
from aim_plugins.transport.responses import as_tokens, pool
from aim_plugins.transport.sentences import sentence_batches

_TOKENS = 8192
"""Tokens of a forward pass at most, but for a single prompt."""


def prompt_states(
    model: Any,
    prompts: Sequence[Sequence[int]],
    watched: Sequence[tuple[str, Summary]],
    limit: RowLimit,
    window: int,
) -> list[list[Tensor]]:
    """The states of prompts, each of which is read once, beside others of its length.

    Args:
        model: A causal language model of transformers.
        prompts: Token ids of each.
        watched: Sites, each with how the states of a prompt's tokens become one.
        limit: How many prompts fit into memory.
        window: Tokens the model takes.

    Returns:
        For each prompt and pair the state [neurons], in float32 on the CPU.

    Raises:
        ValueError: If a prompt has no tokens, or more than the model takes; the model has no such
            site, it does not run, or its states are no numbers; or if the model is spread over
            processes.
    """
    if not limit.divisible:
        raise ValueError(
            "condition: the model is spread over processes that make each pass together, and each "
            "would decide of prompts of its own: run it in one process"
        )
    for number, tokens in enumerate(prompts):
        if not 0 < len(tokens) <= window:
            raise ValueError(
                f"condition: prompt {number} has {len(tokens)} tokens, and the model takes 1 to "
                f"{window}: {'shorten' if tokens else 'drop'} it"
            )
    found: list[list[Tensor]] = [[] for _ in prompts]
    for members in _by_length(prompts):

        def run(block: Block, members: list[int] = members) -> list[list[Tensor]]:
            return _batch_states(model, [prompts[members[one]] for one in block.prompts], watched)

        for block, rows in limit.run(len(members), 1, run):
            for place, row in zip(block.prompts, rows, strict=True):
                found[members[place]] = row
    return found


def _by_length(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of prompts in batches of similar length, the longest first."""
    batches: list[list[int]] = []
    for index in sorted(range(len(prompts)), key=lambda index: -len(prompts[index])):
        width = len(prompts[batches[-1][0]]) if batches else 0
        if not batches or (len(batches[-1]) + 1) * width > _TOKENS:
            batches.append([])
        batches[-1].append(index)
    return batches


def _batch_states(
    model: Any, prompts: Sequence[Sequence[int]], watched: Sequence[tuple[str, Summary]]
) -> list[list[Tensor]]:
    """The states of prompts from one pass, padded on the right, which no token of theirs sees."""
    found: dict[tuple[str, Summary], Tensor] = {}
    (batch,) = sentence_batches(prompts, [], len(prompts))

    def note(site: str) -> Any:
        def function(output: Tensor) -> None:
            for pair in watched:
                if pair[0] == site:
                    pooled = pool(as_tokens(output, batch.mask, site), batch.mask, pair[1])
                    found[pair] = pooled.values.float().cpu()

        return function

    sites = list(dict.fromkeys(site for site, _ in watched))
    forward = forward_of(model, sites)
    with torch.no_grad(), change_outputs(model, {site: note(site) for site in sites}):
        forward(batch)
    if missed := sorted(set(sites) - {site for site, _ in found}):
        raise ValueError(
            f"condition: {first_few(missed)} did not run with the model, or ran compiled, past its "
            "hooks: learn the condition at another site, or leave the model uncompiled"
        )
    for (site, _), states in found.items():
        if not bool(states.isfinite().all()):
            raise ValueError(
                f"condition: the states of a prompt at {site} are no finite numbers: try "
                "dtype=float32"
            )
    return [[found[pair][row] for pair in watched] for row in range(len(prompts))]
