"""Decoding a batch of prompts under many columns at once, with transformers' own `generate`.

Every prompt becomes one row for each column. The prompts are read once for each change of their
activations, and their key-value cache is repeated over the columns. Decoding pauses whenever a good
part of the rows has finished, and those rows leave the batch. Where decoding cannot be paused and
taken up again (beam search, a cache without batch selection, options that count steps), all rows
run in one call. Models that take no notice of padding read every prompt alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from aim_plugins.engines.answers import Answer, ChangedScores, decoded_receipt
from aim_plugins.engines.caches import keeps_positions, repeats
from aim_plugins.engines.decoding_rows import DecodingRows, row_layout
from aim_plugins.engines.engine import Prompts
from aim_plugins.engines.faults import FaultyEnd, FaultyLogits
from aim_plugins.engines.sampling import beam_count, is_sampling, keyed_sampling
from aim_plugins.engines.stopping import BeamEnds, RowEnds, StoppingFactory, end_tokens
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.columns import Column, applied, distinct_columns
from aim_plugins.modulation.sampling import sampling_seed
from aim_plugins.modulation.settlement import Settlement
from aim_plugins.modulation.windows import reaches_prompt
from aim_plugins.modulation.witness import watched

_PAUSABLE_OPTIONS = frozenset(
    {"do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff"}
    | {"eta_cutoff", "repetition_penalty", "no_repeat_ngram_size", "pad_token_id", "use_cache"}
)
"""Arguments of `generate` whose effect does not depend on where a call started."""

_COUNTING_OPTIONS = (
    *("min_new_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"),
    *("exponential_decay_length_penalty", "guidance_scale", "max_time", "prompt_lookup_num_tokens"),
    *("penalty_alpha", "watermarking_config", "stop_strings", "constraints", "force_words_ids"),
)
"""Entries of a model's own generation config that forbid a pause."""

_READS_PADDING = frozenset({"minimax", "recurrent_gemma", "roformer", "rwkv", "trocr"})
"""Model types whose class in transformers takes padding for text: beside a longer prompt a shorter
one would be answered otherwise than alone."""

_MIXES_ROWS = frozenset({"rwkv"})
"""Model types whose class mixes the rows of a batch: RWKV's steps of a single token broadcast the
tokens before, [rows, hidden], against [rows, 1, hidden]."""


_Decoded = tuple[list[int], dict[Change, int]]
"""New tokens of a row, and the sites at which its changes of activations acted."""


def generate_columns(
    model: Any,
    tokenizer: Any,
    prompts: Prompts,
    columns: Sequence[Column],
    *,
    max_length: int,
    stop: Sequence[str] = (),
    stopping_factory: StoppingFactory | None = None,
    occurrences: Sequence[int] | None = None,
    **generation_kwargs: Any,
) -> list[list[Answer]]:
    """Continues every prompt under every column.

    Args:
        model: A transformers causal language model.
        tokenizer: Its tokenizer.
        prompts: P prompts, padded on the left.
        columns: S columns.
        max_length: Tokens of the padded prompt and the continuation together.
        stop: Strings after which a row is complete; after an empty one it is at once.
        stopping_factory: Stopping criteria where transformers samples from its own generator: a
            harness hands in its own, after which as many numbers are drawn as without us.
        occurrences: Where tokens are sampled, how often each prompt was sampled before: each time
            it gets another text. `None` leaves sampling to transformers and its generator.
        **generation_kwargs: Further arguments of `model.generate`.

    Returns:
        New token ids [P][S][...], with receipts; what follows an end token or a stop string is
        padding.

    Raises:
        ReceiptError: If something was not changed as it was asked to be.
        ValueError: If several sequences are asked for one prompt, or several beams sample.
    """
    if generation_kwargs.get("num_return_sequences", 1) != 1:
        raise ValueError(
            f"num_return_sequences={generation_kwargs['num_return_sequences']} gives several "
            "answers to one request: use noise_draws, or repeats in the task"
        )
    distinct, where = decoded_columns(model, columns, generation_kwargs)
    answers: list[list[Answer]] = [[Answer(())] * len(distinct) for _ in prompts.token_ids]
    lengths = prompts.mask.sum(1).tolist()
    for weights in dict.fromkeys(column.acting_on("weights") for column in distinct):
        own = [i for i, column in enumerate(distinct) if column.acting_on("weights") == weights]
        with watched(model) as witness, applied(model, [weights]):
            table = _generate_together(
                model,
                tokenizer,
                prompts,
                [distinct[index] for index in own],
                new_tokens=max_length - prompts.token_ids.shape[1],
                stop=stop,
                stopping_factory=stopping_factory,
                occurrences=occurrences,
                **generation_kwargs,
            )
        ran = any(tokens for row in table for tokens, _ in row)
        changed = Settlement(witness).weights(weights, passes=int(ran))
        for row, found, prompt in zip(answers, table, lengths, strict=True):
            for index, (tokens, sites) in zip(own, found, strict=True):
                receipt = decoded_receipt(
                    distinct[index], {**changed, **sites}, prompt=prompt, new=len(tokens)
                )
                row[index] = Answer(tokens, receipt)
    return [[row[index] for index in where] for row in answers]


def decoded_columns(
    model: Any, columns: Sequence[Column], generation_kwargs: Mapping[str, Any]
) -> tuple[list[Column], list[int]]:
    """Columns that have to be decoded, since equal columns of greedy decoding share a row.

    Returns:
        The distinct columns, and for each of `columns` its index among them.
    """
    if is_sampling(model, generation_kwargs):
        return list(columns), list(range(len(columns)))
    return distinct_columns(columns)


def _generate_together(
    model: Any,
    tokenizer: Any,
    prompts: Prompts,
    columns: Sequence[Column],
    *,
    occurrences: Sequence[int] | None,
    **options: Any,
) -> list[list[_Decoded]]:
    """Continues prompts under columns of the same weights, as many at once as the model allows."""
    if model.config.model_type not in _READS_PADDING:
        return _generate_rows(
            model, tokenizer, prompts, columns, occurrences=occurrences, **options
        )
    step = 1 if model.config.model_type in _MIXES_ROWS else len(columns)
    answers: list[list[_Decoded]] = []
    for index, tokens in enumerate(prompts.unpadded()):
        row = tokens[None].to(prompts.token_ids.device)
        alone = Prompts(row, torch.ones_like(row))
        asked = None if occurrences is None else [occurrences[index]]
        answers.append([])
        for start in range(0, len(columns), step):
            part = columns[start : start + step]
            [found] = _generate_rows(model, tokenizer, alone, part, occurrences=asked, **options)
            answers[-1] += found
    return answers


def _generate_rows(
    model: Any,
    tokenizer: Any,
    prompts: Prompts,
    columns: Sequence[Column],
    *,
    new_tokens: int,
    stop: Sequence[str],
    stopping_factory: StoppingFactory | None,
    occurrences: Sequence[int] | None,
    **generation_kwargs: Any,
) -> list[list[_Decoded]]:
    """Continues prompts under columns of the same weights, each in a row of its own."""
    count, width = len(prompts.token_ids), len(columns)
    rows = DecodingRows(
        token_ids=prompts.token_ids.repeat_interleave(width, 0),
        mask=prompts.mask.repeat_interleave(width, 0),
        columns=list(columns) * count,
        origin=list(range(count * width)),
        prompt=prompts.token_ids.shape[1],
    )
    if occurrences is not None and is_sampling(model, generation_kwargs):
        rows.sampling_seed = torch.tensor(
            [sampling_seed(column.seed, asked) for asked in occurrences for column in columns]
        )
    if width > 1 and _can_pause(model, generation_kwargs):
        rows.cache = _shared_prefill(model, prompts, columns, generation_kwargs)
    options: dict[str, Any] = {**generation_kwargs, "stop": stop}
    options["max_length"] = prompts.token_ids.shape[1] + new_tokens
    if rows.cache is not None:
        answers = _decode_with_pauses(model, tokenizer, rows, **options)
    else:
        answers = _decode_at_once(
            model, tokenizer, rows, stopping_factory=stopping_factory, **options
        )
    found = [(tokens, rows.sites.get(row, {})) for row, tokens in enumerate(answers)]
    return [found[prompt * width : (prompt + 1) * width] for prompt in range(count)]


def _decode_at_once(
    model: Any,
    tokenizer: Any,
    rows: DecodingRows,
    *,
    max_length: int,
    stop: Sequence[str],
    stopping_factory: StoppingFactory | None,
    **generation_kwargs: Any,
) -> list[list[int]]:
    """Decodes all rows in one call; answers in the order of the rows."""
    count, start = rows.token_ids.shape
    ends = RowEnds(tokenizer, stop, end_tokens(model, generation_kwargs), start, pause=False)
    own_draws = rows.sampling_seed is None and is_sampling(model, generation_kwargs)
    if beam_count(model, generation_kwargs) > 1:
        stopping = StoppingCriteriaList([BeamEnds(tokenizer, stop, start, count)])
    elif own_draws and stopping_factory is not None:
        stopping = stopping_factory(start, count)
    else:
        stopping = StoppingCriteriaList([ends])
    output = _decode(model, rows, max_length, stopping, **generation_kwargs)
    answers, ended = output.sequences[:, start:].tolist(), ends.ended_at()
    return [tokens[: ended.get(row, max_length) - start] for row, tokens in enumerate(answers)]


def _decode_with_pauses(
    model: Any,
    tokenizer: Any,
    rows: DecodingRows,
    *,
    max_length: int,
    stop: Sequence[str],
    **generation_kwargs: Any,
) -> list[list[int]]:
    """Decodes all rows, dropping those that have finished; answers in the order of the rows."""
    answers: list[list[int]] = [[] for _ in rows.origin]
    start = rows.token_ids.shape[1]
    while rows.origin and (length := rows.token_ids.shape[1]) < max_length:
        ends = RowEnds(tokenizer, stop, end_tokens(model, generation_kwargs), start, pause=True)
        output = _decode(model, rows, max_length, StoppingCriteriaList([ends]), **generation_kwargs)
        grown = output.sequences.shape[1] - length
        rows.mask = torch.cat([rows.mask, rows.mask.new_ones((len(rows.mask), grown))], dim=1)
        rows.token_ids, rows.cache = output.sequences, output.past_key_values
        ended = ends.ended_at()
        for row, tokens in enumerate(rows.token_ids[:, length:].tolist()):
            answers[rows.origin[row]] += tokens[: ended.get(row, length + grown) - length]
        rows.keep([row for row in range(len(rows.origin)) if row not in ended])
    return answers


def _can_pause(model: Any, generation_kwargs: dict[str, Any]) -> bool:
    config = model.generation_config
    prompt_learning = getattr(
        getattr(model, "active_peft_config", None), "is_prompt_learning", False
    )
    return (
        set(generation_kwargs) <= _PAUSABLE_OPTIONS
        and beam_count(model, generation_kwargs) == 1
        and not any(getattr(config, name, None) for name in _COUNTING_OPTIONS)
        and not getattr(model, "_is_stateful", False)
        and not keeps_positions(model)
        and not prompt_learning
        and generation_kwargs.get("use_cache", True)
    )


def _shared_prefill(
    model: Any,
    prompts: Prompts,
    columns: Sequence[Column],
    generation_kwargs: dict[str, Any],
) -> Any | None:
    """Reads all but the last token of each prompt once and repeats the cache over the columns.

    Changes of logits leave the cache as it is, and so do those of later tokens; prompts are read
    once for every other change of activations. `generate` itself does the reading, since it knows
    each architecture's positions and cache; the one token it decodes is thrown away.

    Returns:
        The cache, or None if a prompt is too short or the cache cannot repeat and select rows.
    """
    if int(prompts.mask[:, :-1].sum(1).min()) == 0:
        return None
    members: dict[tuple[Change, ...], list[int]] = {}
    for index, column in enumerate(columns):
        changes = column.acting_on("activations")
        reading = tuple(change for change in changes if reaches_prompt(change.positions))
        members.setdefault(reading, []).append(index)
    count, passes = len(prompts.token_ids), len(members)
    mask = prompts.mask[:, :-1].repeat_interleave(passes, 0)
    token_ids = prompts.token_ids[:, :-1].repeat_interleave(passes, 0)
    rows = list(members) * count
    layout = row_layout(rows, mask, prompts.token_ids.shape[1])
    with watched(model) as witness, applied(model, rows, layout):
        cache = model.generate(
            input_ids=token_ids,
            attention_mask=mask,
            max_new_tokens=1,
            do_sample=False,
            pad_token_id=generation_kwargs.get("pad_token_id"),
            return_dict_in_generate=True,
        ).past_key_values
    if not repeats(cache, prompts.token_ids.shape[1] - 1):
        return None
    Settlement(witness).rows(rows, token_ids, passes=1, layout=layout)
    pass_of = {column: index for index, group in enumerate(members.values()) for column in group}
    source = [pass_of[column] for column in range(len(columns))]
    cache.batch_select_indices(
        torch.tensor([prompt * passes + index for prompt in range(count) for index in source])
    )
    return cache


def _decode(
    model: Any,
    rows: DecodingRows,
    max_length: int,
    stopping: StoppingCriteriaList,
    **generation_kwargs: Any,
) -> Any:
    """One call of `generate` for all rows."""
    changing = rows.changed_logits()
    processors = LogitsProcessorList(changing)
    faulty = FaultyLogits([change for column in rows.columns for change in column.forward])
    seen = ChangedScores(faulty, changing)
    if changing:
        processors.append(seen)
    if rows.sampling_seed is not None:
        sampling, generation_kwargs = keyed_sampling(
            model, generation_kwargs, rows.sampling_seed, rows.mask
        )
        processors += sampling
    if processors or faulty.names:
        processors.insert(0, faulty)
        stopping = StoppingCriteriaList([*stopping, FaultyEnd(faulty)])
    cache = {} if rows.cache is None else {"past_key_values": rows.cache}
    cached = generation_kwargs.get("use_cache", model.generation_config.use_cache) is not False
    with watched(model) as witness, rows.steered(model, cached=cached):
        output = model.generate(
            input_ids=rows.token_ids,
            attention_mask=rows.mask,
            max_length=max_length,
            logits_processor=processors,
            stopping_criteria=stopping,
            return_dict_in_generate=True,
            **cache,
            **generation_kwargs,
        )
    faulty.refuse()
    steps = output.sequences.shape[1] - rows.token_ids.shape[1]
    rows.settle(witness, output.sequences, max(steps, faulty.calls), cached=cached)
    seen.settle(rows.columns, steps)
    return output
