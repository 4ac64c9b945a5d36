"""Decoding a batch of prompts under many modulations at once, with transformers' own `generate`.

Every prompt becomes one row for each column. The prompts are read once and their key-value cache
is repeated over the columns. Decoding pauses whenever a good part of the rows has finished, and
those rows leave the batch. Where a strategy cannot be cut into segments (beam search, say), all
rows run in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from aim_plugins.engines.engine import GaussianNoise
from aim_plugins.modulation.logits import GaussianNoiseLogitsProcessor

_LEAVING_SHARE = 0.2
"""Decoding pauses when this share of the rows has finished: copying the cache of the others costs
about as much as a step, and a finished row costs its share of every further step."""

_SEGMENTABLE = frozenset(
    {"do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff"}
    | {"eta_cutoff", "repetition_penalty", "no_repeat_ngram_size", "pad_token_id", "use_cache"}
)
"""Options of `generate` whose effect does not depend on where a call started."""


@dataclass(frozen=True)
class Prompts:
    """Left-padded prompts.

    Attributes:
        token_ids: Token ids.
        mask: 1 for tokens, 0 for padding.
    """

    token_ids: Int[Tensor, "prompts tokens"]
    mask: Int[Tensor, "prompts tokens"]

    def unpadded(self) -> list[Tensor]:
        """The token ids of each prompt without its padding."""
        return [row[mask.bool()].cpu() for row, mask in zip(self.token_ids, self.mask, strict=True)]


class _RowEnds(StoppingCriteria):
    """Finishes each row at an end token or once its new text holds a stop string.

    Args:
        tokenizer: Spells tokens out.
        stop: The stop strings.
        ends: The end tokens.
        start: Position of the first new token.
        pause: Whether to end the call of `generate` once enough rows have finished.

    Attributes:
        ended_at: Length in tokens of each row that has finished; what follows is padding.
    """

    def __init__(
        self, tokenizer: Any, stop: Sequence[str], ends: set[int], start: int, pause: bool
    ) -> None:
        self.tokenizer = tokenizer
        self.stop = [term for term in stop if term]
        self.ends = torch.tensor(sorted(ends), dtype=torch.long)
        self.start = start
        self.pause = pause
        self.ended_at: dict[int, int] = {}
        # Tokenizers spell a string in more than one way: look back a little further than it takes.
        self.lookback = 2 + max(
            (len(tokenizer.encode(term, add_special_tokens=False)) for term in self.stop), default=0
        )

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        done = torch.isin(input_ids[:, -1], self.ends.to(input_ids.device))
        if self.stop:
            tails = self.tokenizer.batch_decode(input_ids[:, self.start :][:, -self.lookback :])
            found = [any(term in tail for term in self.stop) for tail in tails]
            done |= torch.tensor(found, device=done.device)
        for row in done.nonzero()[:, 0].tolist():
            self.ended_at.setdefault(row, input_ids.shape[1])
        if self.pause and len(self.ended_at) >= _LEAVING_SHARE * len(input_ids):
            return torch.ones_like(done)
        return done


@dataclass
class _Rows:
    """The rows still decoding, and where each belongs."""

    token_ids: Tensor
    mask: Tensor
    std: Tensor
    seed: Tensor
    mean: float
    origin: list[int]
    cache: Any = None
    answers: list[list[int]] = field(default_factory=list)

    def keep(self, alive: Sequence[int]) -> None:
        """Drops every row that is not in `alive`."""
        index = torch.tensor(alive, dtype=torch.long)
        for name in ("token_ids", "mask", "std", "seed"):
            rows = getattr(self, name)
            setattr(self, name, rows[index.to(rows.device)])
        self.origin = [self.origin[row] for row in alive]
        if self.cache is not None:
            self.cache.batch_select_indices(index)


def generate_columns(
    model: Any,
    tokenizer: Any,
    prompts: Prompts,
    columns: Sequence[GaussianNoise],
    *,
    max_length: int,
    stop: Sequence[str] = (),
    **generation_kwargs: Any,
) -> list[list[list[int]]]:
    """Continues every prompt under every column.

    Args:
        model: A transformers causal language model.
        tokenizer: Its tokenizer.
        prompts: P prompts, padded on the left.
        columns: S modulations.
        max_length: Tokens of the padded prompt and the continuation together.
        stop: Strings after which a row is complete.
        **generation_kwargs: Further arguments of `model.generate`.

    Returns:
        New token ids [P][S][...], up to and including what ended them.

    Raises:
        ValueError: If several sequences are asked for one prompt.
    """
    if generation_kwargs.get("num_return_sequences", 1) != 1:
        raise ValueError(
            f"num_return_sequences={generation_kwargs['num_return_sequences']} gives several "
            "answers to one request: use noise_draws, or repeats in the task"
        )
    greedy = not generation_kwargs.get("do_sample", False)
    distinct = list(dict.fromkeys(c.effective for c in columns)) if greedy else list(columns)
    start = prompts.token_ids.shape[1]
    rows = _expand(prompts, distinct)
    rows.answers = [[] for _ in rows.origin]
    # One column is the harness's own single call: to the bit, and with nothing to share.
    segmented = len(distinct) > 1 and _can_be_segmented(model, generation_kwargs)
    if segmented and start > 1 and int(prompts.mask.sum(1).min()) > 1:
        rows.cache = _shared_prefill(model, prompts, len(distinct), generation_kwargs)
    ends = _end_tokens(model)
    while rows.origin:
        length = rows.token_ids.shape[1]
        stopping = _RowEnds(tokenizer, stop, ends, start, pause=segmented)
        _decode(
            model,
            rows,
            new_tokens=max_length - length,
            stopping=stopping,
            keep_cache=segmented,
            generation_kwargs=generation_kwargs,
        )
        for row, tokens in enumerate(rows.token_ids[:, length:].tolist()):
            end = next((i + 1 for i, token in enumerate(tokens) if token in ends), None)
            if segmented and row in stopping.ended_at:
                end = stopping.ended_at[row] - length
            rows.answers[rows.origin[row]] += tokens[:end]
        alive = [row for row in range(len(rows.origin)) if row not in stopping.ended_at]
        if not segmented or rows.token_ids.shape[1] >= max_length:
            break
        if len(alive) < len(rows.origin):
            rows.keep(alive)
    return _table(rows.answers, len(prompts.token_ids), columns, distinct, greedy)


def _expand(prompts: Prompts, columns: Sequence[GaussianNoise]) -> _Rows:
    """One row for each prompt and column, prompts outside."""
    count = len(prompts.token_ids)
    means = {column.mean for column in columns if not column.is_identity}
    if len(means) > 1:
        raise ValueError(f"columns of one table have one noise mean, not {sorted(means)}")
    return _Rows(
        token_ids=prompts.token_ids.repeat_interleave(len(columns), 0),
        mask=prompts.mask.repeat_interleave(len(columns), 0),
        std=torch.tensor([column.std for column in columns] * count),
        seed=torch.tensor([column.seed for column in columns] * count),
        mean=means.pop() if means else 0.0,
        origin=list(range(count * len(columns))),
    )


def _can_be_segmented(model: Any, generation_kwargs: dict[str, Any]) -> bool:
    config = model.generation_config
    return (
        set(generation_kwargs) <= _SEGMENTABLE
        and (config.num_beams or 1) == 1
        and not config.min_new_tokens
        and not getattr(model, "_is_stateful", False)
        and generation_kwargs.get("use_cache", True)
    )


def _shared_prefill(
    model: Any, prompts: Prompts, columns: int, generation_kwargs: dict[str, Any]
) -> Any:
    """Reads all but the last token of each prompt once and repeats the cache over the columns.

    `generate` itself does the reading, since it knows each architecture's positions and cache; the
    one token it decodes is thrown away.
    """
    output = model.generate(
        input_ids=prompts.token_ids[:, :-1],
        attention_mask=prompts.mask[:, :-1],
        max_new_tokens=1,
        do_sample=False,
        pad_token_id=generation_kwargs.get("pad_token_id"),
        return_dict_in_generate=True,
    )
    cache = output.past_key_values
    if not hasattr(cache, "batch_repeat_interleave"):
        return None
    cache.batch_repeat_interleave(columns)
    return cache


def _decode(
    model: Any,
    rows: _Rows,
    *,
    new_tokens: int,
    stopping: _RowEnds,
    keep_cache: bool,
    generation_kwargs: dict[str, Any],
) -> None:
    """Decodes up to `new_tokens` more tokens of every row, in place."""
    processors = LogitsProcessorList()
    if bool((rows.std > 0).any()):
        processors.append(
            GaussianNoiseLogitsProcessor(rows.std, rows.mean, rows.seed, attention_mask=rows.mask)
        )
    cache = {} if rows.cache is None else {"past_key_values": rows.cache}
    output = model.generate(
        input_ids=rows.token_ids,
        attention_mask=rows.mask,
        max_new_tokens=new_tokens,
        logits_processor=processors,
        stopping_criteria=StoppingCriteriaList([stopping]),
        return_dict_in_generate=True,
        **cache,
        **generation_kwargs,
    )
    grown = output.sequences.shape[1] - rows.token_ids.shape[1]
    rows.mask = torch.cat([rows.mask, rows.mask.new_ones((len(rows.mask), grown))], dim=1)
    rows.token_ids = output.sequences
    rows.cache = output.past_key_values if keep_cache else None


def _end_tokens(model: Any) -> set[int]:
    ids = model.generation_config.eos_token_id
    return set(ids if isinstance(ids, list) else [ids]) - {None}


def _table(
    answers: list[list[int]],
    prompts: int,
    columns: Sequence[GaussianNoise],
    distinct: Sequence[GaussianNoise],
    greedy: bool,
) -> list[list[list[int]]]:
    """Folds the rows into [prompt][column]; equal columns of greedy decoding share a row."""
    place = {column: index for index, column in enumerate(distinct)}
    where = [place[c.effective] for c in columns] if greedy else list(range(len(columns)))
    return [
        [answers[prompt * len(distinct) + index] for index in where] for prompt in range(prompts)
    ]
