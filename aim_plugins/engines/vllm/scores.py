"""Scores of a batch of contexts under many columns, from the forward passes of vLLM's workers."""

from __future__ import annotations

from collections.abc import Sequence

from vllm import SamplingParams

from aim_plugins.engines.answers import scored_receipts
from aim_plugins.engines.contexts import Context
from aim_plugins.engines.engine import ScoreRequest, ScoreRow
from aim_plugins.engines.vllm.parameters import extra_args
from aim_plugins.engines.vllm.runs import Runs
from aim_plugins.engines.vllm.worker import INDEX_ARGUMENT, ContextScore, ContextScores
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.columns import Column, by_forward
from aim_plugins.modulation.windows import knows_prompt


def score_batch(
    runs: Runs,
    requests: Sequence[ScoreRequest],
    batch: Sequence[Context],
    columns: Sequence[Column],
    *,
    max_length: int,
    progress: bool,
) -> dict[int, ScoreRow]:
    """Scores a batch of contexts: one forward pass for each distinct change of activations.

    Args:
        runs: Runs requests of the engine.
        requests: All requests.
        batch: The contexts of some of them.
        columns: The columns.
        max_length: Tokens of the model's window, of which longer contexts lose their start.
        progress: Whether to show vLLM's progress bars.

    Returns:
        The row of each request of the batch, by its index.
    """
    answers: list[tuple[dict[int, ContextScore], int]] = [({}, 0)] * len(columns)
    sites: list[dict[Change, int]] = [{}] * len(columns)
    prompts = [list(context.tokens[-(max_length + 1) :][:-1]) for context in batch]
    for changes, members in by_forward(columns).items():
        own = [columns[index] for index in members]
        scores = _score_prompts(runs, requests, batch, prompts, changes, own, progress)
        for place, index in enumerate(members):
            answers[index] = scores, place
            sites[index] = {one: len(one.maps.maps) for one in changes}
    read = {
        index: len(prompt)
        for context, prompt in zip(batch, prompts, strict=True)
        for index in context.members
    }
    return {
        index: ScoreRow(
            log_likelihoods=[scores[index][0][place] for scores, place in answers],
            is_greedy=[scores[index][1][place] for scores, place in answers],
            clean=[scores[index][2] for scores, _ in answers],
            context_key=key,
            tokens=list(requests[index].continuation),
            receipts=scored_receipts(
                columns,
                sites,
                [scores[index][4][place] for scores, place in answers],
                read=read[index],
                scored=len(requests[index].continuation),
                label=requests[index].label,
            ),
        )
        for index, (*_, key, _) in answers[0][0].items()
    }


def _score_prompts(
    runs: Runs,
    requests: Sequence[ScoreRequest],
    batch: Sequence[Context],
    prompts: Sequence[list[int]],
    changes: Sequence[Change],
    columns: Sequence[Column],
    progress: bool,
) -> dict[int, ContextScore]:
    """Scores a batch under columns that share the forward pass of some changes."""
    forward = Column(tuple(changes))
    lengths = [
        len(prompt) - len(context.continuation) + 1
        for context, prompt in zip(batch, prompts, strict=True)
    ]
    parameters = [
        SamplingParams(
            max_tokens=1,
            temperature=0.0,
            detokenize=False,
            # A position that comes from the cache has no hidden state to score.
            skip_reading_prefix_cache=True,
            extra_args={INDEX_ARGUMENT: number, **extra_args(forward, length)},
        )
        for number, length in enumerate(lengths)
    ]
    continuations = [
        [list(requests[index].continuation) for index in context.members] for context in batch
    ]
    asked = [extra_args(Column(column.acting_on("logits"))) for column in columns]
    by_prefix = not any(knows_prompt(change.positions) for change in changes)
    runs.llm.collective_rpc("aim_begin_scoring", args=(asked, continuations, by_prefix))
    try:
        runs.run(prompts, parameters, [forward] * len(prompts), contexts=lengths, progress=progress)
    finally:
        answers = runs.llm.collective_rpc("aim_finish_scoring")
    scores: list[ContextScores] | None = next((one for one in answers if one is not None), None)
    if scores is None:
        raise RuntimeError(
            "vLLM has answered before all prompts were scored: it does not compute them as the "
            "releases do that are supported"
        )
    rows: dict[int, ContextScore] = {}
    for context, answer in zip(batch, scores, strict=True):
        if answer is None:
            smaller = "".join(
                f" or a smaller {one.name} than at strength={one.strength}" for one in changes
            )
            raise ValueError(
                "the model returned NaN or infinite logits for "
                f"{requests[context.members[0]].label}: try dtype=float32{smaller}"
            )
        rows |= zip(context.members, answer, strict=True)
    return rows
