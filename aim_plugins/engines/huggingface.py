"""Runs a causal language model of transformers under many modulations at once.

Scoring makes one forward pass for each distinct context, the very pass an unmodulated harness
would make, and derives every column from its logits. Generation lives in `generation.py`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from aim_plugins.engines.engine import (
    BatchSize,
    GaussianNoise,
    Journal,
    Prompts,
    ScoreRequest,
    ScoreRow,
    fingerprint,
)
from aim_plugins.engines.generation import (
    StoppingFactory,
    distinct_columns,
    generate_columns,
    is_sampling,
)
from aim_plugins.engines.scoring import NotFiniteLogitsError, token_log_probabilities
from aim_plugins.engines.splitting import Block, RowLimit, forward_is_collective
from aim_plugins.engines.weights import model_fingerprint
from aim_plugins.modulation.noise import prefix_keys

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Context:
    """Requests that share one forward pass: equal token ids but for the last."""

    members: list[int]
    context: Sequence[int]
    continuation: Sequence[int]

    @property
    def tokens(self) -> tuple[int, ...]:
        return (*self.context, *self.continuation)


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
        self.share_contexts = share_contexts
        self.journal = journal
        self._fingerprint: str | None = None
        divisible = not forward_is_collective(model)
        self._context_limit = RowLimit("contexts", divisible=divisible)
        self._prompt_limit = RowLimit("prompts", divisible=divisible)

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
        columns: Sequence[GaussianNoise],
        *,
        batch_size: BatchSize,
        progress: bool = True,
        on_row: Callable[[int, ScoreRow], None] | None = None,
    ) -> list[ScoreRow]:
        """Scores continuations under every column from one forward per distinct context.

        Args:
            requests: What to score.
            columns: The modulations, S of them.
            batch_size: Contexts in a forward pass, or a function of the index of the next context
                and the ordered contexts, as lm-evaluation-harness's scheduler.
            progress: Whether to show a progress bar, in requests.
            on_row: Called with the index and the row of each request as soon as it is known.

        Returns:
            One row for each request, in their order.

        Raises:
            ValueError: If a context or a continuation is empty, a continuation is longer than the
                model's window, or the model returns NaN; each names the request.
        """
        self._check(requests)
        rows: dict[int, ScoreRow] = {}
        with tqdm(
            total=len(requests),
            disable=not progress,
            desc=f"Scoring, {len(columns)} strengths x draws",
        ) as bar:
            for batch in self._batches(requests, batch_size):
                answers = self._recall(requests, batch, columns)
                for index, row in answers.items():
                    rows[index] = row
                    if on_row:
                        on_row(index, row)
                bar.update(len(answers))
        return [rows[index] for index in range(len(requests))]

    def _check(self, requests: Sequence[ScoreRequest]) -> None:
        for request in requests:
            if not request.continuation:
                raise ValueError(
                    f"{request.label} has an empty continuation, which has no log-likelihood: "
                    "drop the choice, or give it at least one token"
                )
            if not request.context:
                raise ValueError(f"{request.label} has an empty context: give a start token")
            if len(request.continuation) > self.max_length:
                raise ValueError(
                    f"{request.label} has a continuation of {len(request.continuation)} tokens, "
                    f"more than max_length={self.max_length}"
                )
        lengths = [len(r.context) + len(r.continuation) for r in requests]
        if cut := sum(length > self.max_length + 1 for length in lengths):
            logger.warning(
                "%d of %d requests are longer than max_length=%d tokens (the longest has %d): "
                "their contexts lose their start",
                *(cut, len(requests), self.max_length, max(lengths)),
            )

    def _batches(
        self, requests: Sequence[ScoreRequest], batch_size: BatchSize
    ) -> list[list[_Context]]:
        groups: dict[Any, list[int]] = {}
        for index, request in enumerate(requests):
            seen = (*request.context, *request.continuation[:-1])
            groups.setdefault(seen if self.share_contexts else index, []).append(index)
        contexts = []
        for members in groups.values():
            longest = max(members, key=lambda index: len(requests[index].continuation))
            request = requests[longest]
            contexts.append(_Context(members, request.context, request.continuation))
        contexts.sort(key=lambda context: (-len(context.tokens), context.tokens))
        if not callable(batch_size):
            size = batch_size or len(contexts) or 1
            return [contexts[start : start + size] for start in range(0, len(contexts), size)]
        ordered = [(None, context.context, context.continuation) for context in contexts]
        batches, start = [], 0
        while start < len(contexts):
            size = max(1, batch_size(start, ordered))
            batches.append(contexts[start : start + size])
            start += size
        return batches

    def _recall(
        self,
        requests: Sequence[ScoreRequest],
        batch: list[_Context],
        columns: Sequence[GaussianNoise],
    ) -> dict[int, ScoreRow]:
        """The batch's rows, from the journal where an earlier run finished it."""
        members = [index for context in batch for index in context.members]
        if self.journal is None:
            return self._score_in_parts(requests, batch, columns)
        key = fingerprint(
            {
                "kind": "score",
                "model": self.fingerprint,
                "columns": [column.fingerprint for column in columns],
                "inputs": [
                    [list(requests[index].context), list(requests[index].continuation)]
                    for index in members
                ],
            }
        )
        record = self.journal.read_batch(key)
        if record is not None:
            return {
                index: ScoreRow(*row) for index, row in zip(members, record["rows"], strict=True)
            }
        answers = self._score_in_parts(requests, batch, columns)
        self.journal.write_batch(key, {"rows": [astuple(answers[index]) for index in members]})
        return answers

    def _score_in_parts(
        self,
        requests: Sequence[ScoreRequest],
        batch: list[_Context],
        columns: Sequence[GaussianNoise],
    ) -> dict[int, ScoreRow]:
        def score(block: Block) -> dict[int, ScoreRow]:
            return self._score_batch(
                requests, batch[block.prompts.start : block.prompts.stop], columns
            )

        parts = self._context_limit.run(len(batch), 1, score)
        return {index: row for _, answers in parts for index, row in answers.items()}

    def _score_batch(
        self,
        requests: Sequence[ScoreRequest],
        batch: list[_Context],
        columns: Sequence[GaussianNoise],
    ) -> dict[int, ScoreRow]:
        inputs = [
            torch.tensor(context.tokens[-(self.max_length + 1) :][:-1], dtype=torch.long)
            for context in batch
        ]
        token_ids = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True).to(self.device)
        width = token_ids.shape[1]
        # Prompt tuning prepends virtual tokens, which have logits but no token ids.
        logits = self._forward(token_ids)[:, -width:]
        scored: list[int] = []
        spans: dict[int, slice] = {}
        position: list[int] = []
        token: list[int] = []
        for row, (context, tokens) in enumerate(zip(batch, inputs, strict=True)):
            first, end = len(tokens) - len(context.continuation), len(tokens)
            scored += range(row * width + first, row * width + end)
            for index in context.members:
                # Members may split the text elsewhere: the last tokens are theirs.
                own = requests[index].continuation
                spans[index] = slice(len(token), len(token) + len(own))
                position += range(len(scored) - len(own), len(scored))
                token += own
        chosen = torch.tensor(scored, device=logits.device)
        keys = prefix_keys(token_ids).reshape(-1).to(logits.device)[chosen]
        try:
            log_probabilities, is_argmax, clean = token_log_probabilities(
                logits.reshape(-1, logits.shape[-1]),
                chosen,
                keys,
                torch.tensor(position, device=logits.device),
                torch.tensor(token, device=logits.device),
                columns,
                self.softmax_dtype,
            )
        except NotFiniteLogitsError as error:
            label = next(
                requests[index].label
                for index, s in spans.items()
                if s.start <= error.target < s.stop
            )
            raise ValueError(
                f"{error} for {label}: try dtype=float32 or another attention implementation"
            ) from error
        first_keys = keys[torch.tensor(position, device=keys.device)].tolist()
        return {
            index: ScoreRow(
                log_likelihoods=[float(scores[span].sum()) for scores in log_probabilities],
                is_greedy=[bool(hits[span].all()) for hits in is_argmax],
                clean=float(clean[span].double().sum()),
                context_key=first_keys[span.start],
                tokens=list(requests[index].continuation),
            )
            for index, span in spans.items()
        }

    def _forward(self, token_ids: Tensor) -> Tensor:
        # Right padding needs no mask under causal attention, and the call stays the harness's own.
        with torch.no_grad(), self._autocast():
            return self.model(token_ids).logits

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
        columns: Sequence[GaussianNoise],
        *,
        max_length: int,
        stop: Sequence[str] = (),
        stopping_factory: StoppingFactory | None = None,
        occurrence: int = 0,
        **generation_kwargs: Any,
    ) -> list[list[list[int]]]:
        """Continues prompts under every column, in one batch if it fits into memory.

        Args:
            prompts: Left-padded token ids and their mask.
            columns: The modulations, S of them.
            max_length: Tokens of the padded prompt and the continuation together.
            stop: Strings after which a continuation is complete.
            stopping_factory: See `generate_columns`.
            occurrence: How many times the harness has asked this before. Sampling answers each
                occurrence anew; greedy decoding has one answer.
            **generation_kwargs: Further arguments of `model.generate`.

        Returns:
            New token ids for each prompt and column; what follows an end token or a stop string is
            of no meaning.
        """
        asked: dict[str, Any] = {
            "kind": "generate",
            "model": self.fingerprint,
            "columns": [column.fingerprint for column in columns],
            "prompts": [prompt.tolist() for prompt in prompts.unpadded()],
            "options": [max_length - prompts.token_ids.shape[1], list(stop)],
            "kwargs": {name: repr(value) for name, value in generation_kwargs.items()},
            "defaults": repr(sorted(self.model.generation_config.to_diff_dict().items())),
        }
        if occurrence and is_sampling(self.model, generation_kwargs):
            asked["occurrence"] = occurrence
        key = fingerprint(asked)
        if self.journal is not None and (record := self.journal.read_batch(key)) is not None:
            return record["tokens"]
        answers = self._generate_in_parts(
            key,
            prompts,
            columns,
            max_length=max_length,
            stop=stop,
            stopping_factory=stopping_factory,
            **generation_kwargs,
        )
        if self.journal is not None:
            self.journal.write_batch(key, {"tokens": answers})
        return answers

    def _generate_in_parts(
        self,
        key: str,
        prompts: Prompts,
        columns: Sequence[GaussianNoise],
        **options: Any,
    ) -> list[list[list[int]]]:
        distinct, where = distinct_columns(self.model, columns, options)
        count = len(prompts.token_ids)

        def generate(block: Block) -> list[list[list[int]]]:
            some = prompts[block.prompts.start : block.prompts.stop]
            under = distinct[block.columns.start : block.columns.stop]
            # Parts of one seed would draw the same random numbers.
            whole = block.rows == count * len(distinct)
            seed = key if whole else fingerprint([key, block.prompts.start, block.columns.start])
            with torch.no_grad(), self._autocast(), self._sampling(seed, columns, options):
                return generate_columns(self.model, self.tokenizer, some, under, **options)

        rows: list[list[list[int]]] = [[] for _ in range(count)]
        for block, answers in self._prompt_limit.run(count, len(distinct), generate):
            for prompt, row in zip(block.prompts, answers, strict=True):
                rows[prompt] += row
        return [[row[index] for index in where] for row in rows]

    @contextlib.contextmanager
    def _sampling(
        self, key: str, columns: Sequence[GaussianNoise], options: dict[str, Any]
    ) -> Iterator[None]:
        """Seeds temperature sampling by the batch, so that a resumed run repeats an unbroken one.

        One column without a journal samples from the global generator, as the harness itself does.
        """
        harness_alone = len(columns) == 1 and self.journal is None
        if harness_alone or not is_sampling(self.model, options):
            yield
            return
        warn_once(
            "sampling (do_sample=True) is repeatable, but unlike greedy decoding its texts depend "
            "on the batch size and on the strengths beside them"
        )
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(key[:15], 16))
            yield

    def probe(self, batch_size: int, length: int, columns: int, *, generation: bool) -> None:
        """Takes the memory of one batch, so that an automatic batch size can be found.

        Args:
            batch_size: Contexts or prompts.
            length: Tokens of each, in generation with its continuation.
            columns: Rows a prompt becomes in generation. Scoring needs no memory for columns.
            generation: Whether to probe generation, which keeps a cache for each row.
        """
        token_ids = torch.ones((batch_size, length), dtype=torch.long, device=self.device)
        if not generation:
            self._forward(token_ids).float()
            return
        token_ids = token_ids[:, : max(1, length - 2)]
        noise = [GaussianNoise(1.0, seed=seed) for seed in range(columns)]
        with torch.no_grad(), self._autocast():
            generate_columns(
                self.model,
                self.tokenizer,
                Prompts(token_ids, torch.ones_like(token_ids)),
                noise,
                max_length=max(2, length),
                do_sample=False,
            )


@functools.cache
def warn_once(message: str) -> None:
    """Warns the user, once for each message."""
    logger.warning(message)
