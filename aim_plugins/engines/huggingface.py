"""Runs a causal language model of transformers under many modulations at once.

Scoring makes one forward pass for each distinct context, the very pass an unmodulated harness
would make, and derives every column from its logits. Generation lives in `generation.py`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from aim_plugins.core.identity import fingerprint, model_fingerprint
from aim_plugins.engines.answers import (
    Answer,
    answers_from_json,
    answers_to_json,
)
from aim_plugins.engines.conditions import generate_decided, score_decided
from aim_plugins.engines.context_scores import ContextScorer
from aim_plugins.engines.contexts import (
    Context,
    check_requests,
    context_batches,
    recalled_scores,
    shared_context,
)
from aim_plugins.engines.engine import (
    BatchSize,
    Journal,
    Prompts,
    ScoreRequest,
    ScoreRow,
)
from aim_plugins.engines.generation import decoded_columns, generate_columns
from aim_plugins.engines.sampling import is_sampling
from aim_plugins.engines.splitting import Block, RowLimit, forward_is_collective
from aim_plugins.engines.states import prompt_states
from aim_plugins.engines.stopping import StoppingFactory
from aim_plugins.modulation.columns import Column, distinct_columns
from aim_plugins.modulation.conditions import Summary
from aim_plugins.modulation.sampling import SAMPLING_VERSION

logger = logging.getLogger(__name__)


class HuggingFaceEngine:
    """Scores and generates with a transformers causal language model.

    A batch that does not fit into memory is split, and so are the later ones of its size.

    Args:
        model: A `PreTrainedModel` (or a PEFT wrapper of one) in evaluation mode.
        tokenizer: Its tokenizer, for stop strings.
        max_length: Longest sequence the model takes, in tokens; longer contexts lose their start.
        softmax_dtype: Dtype of the unmodulated column's softmax; None keeps the model's.
        autocast_dtype: Dtype of mixed precision in the forward pass, or None.
        device: Where inputs go; None takes the model's first device.
        share_contexts: Whether requests with equal input tokens share a forward pass.
        journal: Keeps finished batches, so that an interrupted run goes on where it was.

    Raises:
        ValueError: If the model reads both ways.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_length: int,
        softmax_dtype: torch.dtype | None = None,
        autocast_dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        share_contexts: bool = True,
        journal: Journal | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.softmax_dtype = softmax_dtype
        self.autocast_dtype = autocast_dtype
        self.device: torch.device = model.device if device is None else device
        _check_causal(model, self.device)
        self.share_contexts = share_contexts
        self.journal = journal
        self._fingerprint: str | None = None
        divisible = not forward_is_collective(model)
        self._context_limit = RowLimit("contexts", divisible=divisible)
        self._prompt_limit = RowLimit("prompts", divisible=divisible)
        self._state_limit = RowLimit("prompts", divisible=divisible)
        self._scorer = ContextScorer(model, self.device, softmax_dtype, self._autocast)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the model and of the numeric options that shape its answers."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(
                [
                    model_fingerprint(self.model),
                    self.max_length,
                    str(self.softmax_dtype),
                    str(self.autocast_dtype),
                ]
            )
        return self._fingerprint

    # Scoring ------------------------------------------------------------------------------------

    def score(
        self,
        requests: Sequence[ScoreRequest],
        columns: Sequence[Column],
        *,
        batch_size: BatchSize,
        progress: bool = True,
        on_row: Callable[[int, ScoreRow], None] | None = None,
    ) -> list[ScoreRow]:
        """Scores continuations under every column from one forward per distinct context.

        Args:
            requests: What to score.
            columns: The columns, S of them.
            batch_size: Contexts in a forward pass, or a function of the index of the next context
                and the ordered contexts, as lm-evaluation-harness's scheduler.
            progress: Whether to show a progress bar, in requests.
            on_row: Called with the index and the row of each request as soon as it is known.

        Returns:
            One row for each request, in their order.

        Raises:
            ValueError: If a context or a continuation is empty, a continuation is longer than the
                model's window, or the model returns NaN; each names the request.
            ReceiptError: If something was not changed as it was asked to be.
        """
        check_requests(requests, self.max_length)
        score = functools.partial(self._score, batch_size=batch_size, progress=progress)
        return score_decided(self, requests, columns, score, on_row)

    def _score(
        self,
        requests: Sequence[ScoreRequest],
        columns: Sequence[Column],
        on_row: Callable[[int, ScoreRow], None] | None,
        *,
        batch_size: BatchSize,
        progress: bool,
    ) -> list[ScoreRow]:
        """As `score`, of columns without conditions."""
        shared = shared_context(columns) if self.share_contexts else _nothing_shared
        rows: dict[int, ScoreRow] = {}
        with tqdm(
            total=len(requests),
            disable=not progress,
            desc=f"Scoring, {len(columns)} strengths x draws",
        ) as bar:
            for batch in context_batches(requests, batch_size, shared):
                answers = recalled_scores(
                    self,
                    requests,
                    batch,
                    columns,
                    lambda batch=batch: self._score_in_parts(requests, batch, columns),  # type: ignore[misc]
                )
                for index, row in answers.items():
                    rows[index] = row
                    if on_row:
                        on_row(index, row)
                bar.update(len(answers))
        return [rows[index] for index in range(len(requests))]

    def _score_in_parts(
        self,
        requests: Sequence[ScoreRequest],
        batch: list[Context],
        columns: Sequence[Column],
    ) -> dict[int, ScoreRow]:
        def score(block: Block) -> dict[int, ScoreRow]:
            part = batch[block.prompts.start : block.prompts.stop]
            return self._scorer.score(requests, part, columns, self.max_length)

        parts = self._context_limit.run(len(batch), 1, score)
        return {index: row for _, answers in parts for index, row in answers.items()}

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(
            device_type=self.device.type,
            dtype=self.autocast_dtype,
            enabled=self.autocast_dtype is not None,
        )

    # Generation ---------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompts,
        columns: Sequence[Column],
        *,
        max_length: int,
        stop: Sequence[str] = (),
        stopping_factory: StoppingFactory | None = None,
        occurrences: Sequence[int] | None = None,
        **generation_kwargs: Any,
    ) -> list[list[Answer]]:
        """Continues prompts under every column, in one batch if it fits into memory.

        Args:
            prompts: Left-padded token ids and their mask.
            columns: The columns, S of them.
            max_length: Tokens of the padded prompt and the continuation together.
            stop: Strings after which a continuation is complete; after an empty one it is at once.
            stopping_factory: See `generate_columns`.
            occurrences: How often each prompt was asked before; none was if left out. Sampling
                answers it anew each time; greedy decoding has one answer.
            **generation_kwargs: Further arguments of `model.generate`.

        Returns:
            New token ids for each prompt and column, with their receipts; what follows an end token
            or a stop string is padding.

        Raises:
            ReceiptError: If something was not changed as it was asked to be.
        """
        keyed = self._samples_by_key(columns, generation_kwargs)
        counts = list(occurrences or [0] * len(prompts.token_ids))

        def generate(members: list[int], left: Sequence[Column]) -> list[list[Answer]]:
            return self._generate(
                prompts[members],
                left,
                [counts[index] for index in members] if keyed else None,
                max_length=max_length,
                stop=stop,
                stopping_factory=stopping_factory,
                **generation_kwargs,
            )

        return generate_decided(self, prompts, columns, generate)

    def _generate(
        self,
        prompts: Prompts,
        columns: Sequence[Column],
        occurrences: Sequence[int] | None,
        *,
        max_length: int,
        stop: Sequence[str],
        stopping_factory: StoppingFactory | None,
        **generation_kwargs: Any,
    ) -> list[list[Answer]]:
        """As `generate`, of columns without conditions; samples by keys if given occurrences."""
        asked: dict[str, Any] = {
            "kind": "generate with receipts",
            "model": self.fingerprint,
            "columns": [column.fingerprint for column in columns],
            "prompts": [prompt.tolist() for prompt in prompts.unpadded()],
            "options": [max_length - prompts.token_ids.shape[1], list(stop)],
            "kwargs": {name: repr(value) for name, value in generation_kwargs.items()},
            "defaults": repr(sorted(self.model.generation_config.to_diff_dict().items())),
        }
        if occurrences is not None:
            seeds = [column.seed for column in columns]
            asked["sampling"] = [SAMPLING_VERSION, seeds, occurrences]
        key = fingerprint(asked)
        if self.journal is not None and (record := self.journal.read_batch(key)) is not None:
            return answers_from_json(record)
        answers = self._generate_in_parts(
            prompts,
            columns,
            occurrences,
            max_length=max_length,
            stop=stop,
            stopping_factory=stopping_factory,
            **generation_kwargs,
        )
        if self.journal is not None:
            self.journal.write_batch(key, answers_to_json(answers))
        return answers

    def _generate_in_parts(
        self,
        prompts: Prompts,
        columns: Sequence[Column],
        occurrences: Sequence[int] | None,
        **options: Any,
    ) -> list[list[Answer]]:
        distinct, where = decoded_columns(self.model, columns, options)
        count = len(prompts.token_ids)

        def generate(block: Block) -> list[list[Answer]]:
            part = slice(block.prompts.start, block.prompts.stop)
            with torch.no_grad(), self._autocast():
                return generate_columns(
                    self.model,
                    self.tokenizer,
                    prompts[part],
                    distinct[block.columns.start : block.columns.stop],
                    occurrences=None if occurrences is None else occurrences[part],
                    **options,
                )

        rows: list[list[Answer]] = [[] for _ in range(count)]
        for block, answers in self._prompt_limit.run(count, len(distinct), generate):
            for prompt, row in zip(block.prompts, answers, strict=True):
                rows[prompt] += row
        return [[row[index] for index in where] for row in rows]

    def _samples_by_key(self, columns: Sequence[Column], options: Mapping[str, Any]) -> bool:
        """Whether sampled tokens are drawn by keys: always but for a lone unmodulated column.

        That one, without a journal, is `hf` itself, which samples from the global generator.
        """
        alone = len(columns) == 1 and columns[0].is_identity and self.journal is None
        return is_sampling(self.model, options) and not alone

    # Conditions ---------------------------------------------------------------------------------

    def states(
        self, prompts: Sequence[Sequence[int]], watched: Sequence[tuple[str, Summary]]
    ) -> list[list[Tensor]]:
        """The plain model's states of prompts; see `Engine.states` and `prompt_states`.

        Raises:
            ValueError: If a prompt is empty or longer than `max_length`; the model is spread over
                processes, or has no such sites.
        """
        with self._autocast():
            return prompt_states(self.model, prompts, watched, self._state_limit, self.max_length)

    def probe(
        self, batch_size: int, length: int, columns: Sequence[Column], *, generation: bool
    ) -> None:
        """Takes the memory of one batch, so that an automatic batch size can be found.

        Args:
            batch_size: Contexts or prompts.
            length: Tokens of each, in generation with its continuation.
            columns: The columns; in generation each makes a row of a prompt.
            generation: Whether to probe generation, which keeps a cache for each row.
        """
        columns = [one.decided(dict.fromkeys(one.conditions, True)) for one in columns]
        token_ids = torch.ones((batch_size, length), dtype=torch.long, device=self.device)
        if not generation:
            self._scorer.forward(token_ids)[0].float()
            return
        token_ids = token_ids[:, : max(1, length - 2)]
        with torch.no_grad(), self._autocast():
            generate_columns(
                self.model,
                self.tokenizer,
                Prompts(token_ids, torch.ones_like(token_ids)),
                distinct_columns(columns)[0],
                max_length=max(2, length),
                do_sample=False,
            )


def _check_causal(model: Any, device: torch.device) -> None:
    """Refuses an encoder, whose first position sees the tokens behind it."""
    # Only configs of encoders know the setting, and a few of decoders that ignore it.
    if getattr(model.config, "is_decoder", True):
        return
    with torch.no_grad():
        first = model(torch.tensor([[1, 2], [1, 3]], device=device)).logits[:, 0].float()
    if float((first[0] - first[1]).abs().max()) > 1e-4 * float(first.std()):
        raise ValueError(
            f"a {model.config.model_type} reads both ways, and would see the text that it is asked "
            "for: give is_decoder=True among the model's arguments, or a causal model"
        )


def _nothing_shared(request: ScoreRequest) -> None:
    return None
