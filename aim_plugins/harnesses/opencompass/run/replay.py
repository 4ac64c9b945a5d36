"""The answers of one loaded model under many modulations, replayed to OpenCompass by column.

OpenCompass asks one model at a time. A sweep lets its inferencer ask once with nobody answering,
so that all questions are known; computes the N x S table in batches of its own choice; and lets the
inferencer ask again under each column. Questions that were not foreseen, as in dialogues where one
answer leads to the next prompt, are computed when they come, for all columns together.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from aim_plugins.engines.answers import Answer
from aim_plugins.engines.engine import Engine, Prompts, ScoreRequest, ScoreRow
from aim_plugins.harnesses.opencompass.config.modulations import describe
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.receipts import Receipt, check_receipt

_IGNORED_INPUTS = frozenset({"token_type_ids"})

_QUEUED_ROWS = 512
"""Rows of generation handed at a time to an engine that queues them; each batch is kept."""


@dataclass(frozen=True)
class GenerationOptions:
    """What besides the prompt decides a continuation.

    Attributes:
        max_new_tokens: Longest continuation, in tokens.
        stop: Strings after which a continuation is complete.
        settings: Further arguments of `generate`, as sorted pairs of name and `repr`.
        occurrence: How often the same prompt was asked before, where decoding samples.
    """

    max_new_tokens: int
    stop: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    occurrence: int = 0


@dataclass(frozen=True)
class Span:
    """Tokens whose log-likelihood is asked for: `tokens[start:]` after `tokens[:start]`."""

    tokens: tuple[int, ...]
    start: int


@dataclass
class AnswerTable:
    """N questions x S columns, filled on demand.

    Attributes:
        engine: Runs the model.
        columns: The modulations, S of them.
        batch_size: Prompts or contexts in a batch of `compute`; 0 leaves it to an engine that
            queues what it is given.
        name: What is being asked, for progress bars and errors.
        texts: What callers derived from texts, such as their token ids, kept for all columns.
        asked: Every span recorded, in order, repetitions included.
        rows: The scores so far.
        given: Receipts of the answers that were handed out, by column, in order.
        device: Where prompts go.
    """

    engine: Engine
    columns: Sequence[Column]
    batch_size: int = 1
    name: str = "OpenCompass"
    texts: dict[Hashable, Any] = field(default_factory=dict)
    asked: list[Span] = field(default_factory=list)
    rows: dict[Span, ScoreRow] = field(default_factory=dict)
    given: dict[int, list[Receipt]] = field(default_factory=lambda: defaultdict(list))
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _recording: bool = False
    _kwargs: dict[GenerationOptions, dict[str, Any]] = field(default_factory=dict)
    _prompts: dict[GenerationOptions, dict[tuple[int, ...], None]] = field(default_factory=dict)
    _continuations: dict[tuple[GenerationOptions, tuple[int, ...]], list[Answer]] = field(
        default_factory=dict
    )

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Notes every question instead of answering it; `compute` answers them all afterwards."""
        self._recording = True
        try:
            yield
        finally:
            self._recording = False

    def compute(self) -> None:
        """Answers what was recorded, in batches of similar lengths."""
        self._score(list(dict.fromkeys(self.asked)), self.batch_size, progress=True)
        for options, prompts in self._prompts.items():
            self._generate(options, list(prompts), self.batch_size, progress=True)
        self._prompts.clear()

    def continuations(
        self,
        prompts: Sequence[tuple[int, ...]],
        column: int,
        options: Sequence[GenerationOptions],
        kwargs: dict[str, Any],
    ) -> list[Answer]:
        """Continues prompts under one column.

        Args:
            prompts: Token ids of each prompt.
            column: Index of the column.
            options: What else decides each continuation.
            kwargs: The arguments of `generate` behind their `settings`.

        Returns:
            New token ids of each prompt; nothing while recording.
        """
        for option in options:
            self._kwargs.setdefault(option, kwargs)
        asked = list(zip(options, prompts, strict=True))
        if self._recording:
            for option, prompt in asked:
                self._prompts.setdefault(option, {})[prompt] = None
            return [Answer(()) for _ in asked]
        missing: dict[GenerationOptions, dict[tuple[int, ...], None]] = {}
        for option, prompt in asked:
            if (option, prompt) not in self._continuations:
                missing.setdefault(option, {})[prompt] = None
        for option, new in missing.items():
            self._generate(option, list(new), len(new))
        answers = [self._continuations[question][column] for question in asked]
        self.hand_out(column, [one.receipt for one in answers])
        return answers

    def scores(self, spans: Sequence[Span]) -> list[ScoreRow] | None:
        """Scores spans under every column.

        Returns:
            The table's row of each span; None while recording.
        """
        if self._recording:
            self.asked += spans
            return None
        missing = [span for span in dict.fromkeys(spans) if span not in self.rows]
        self._score(missing, len(missing))
        return [self.rows[span] for span in spans]

    def hand_out(self, column: int, receipts: Sequence[Receipt | None]) -> None:
        """Notes the receipts of answers under a column.

        Raises:
            ReceiptError: If one is missing, or another column's.
        """
        for receipt in receipts:
            check_receipt(receipt, self.columns[column], self.name)
            assert receipt is not None
            self.given[column].append(receipt)

    def _score(self, spans: Sequence[Span], batch_size: int, *, progress: bool = False) -> None:
        if not spans:
            return
        requests = [
            ScoreRequest(span.tokens[: span.start], span.tokens[span.start :], self.name)
            for span in spans
        ]
        rows = self.engine.score(requests, self.columns, batch_size=batch_size, progress=progress)
        self.rows.update(zip(spans, rows, strict=True))

    def _generate(
        self,
        options: GenerationOptions,
        prompts: list[tuple[int, ...]],
        batch_size: int,
        *,
        progress: bool = False,
    ) -> None:
        prompts.sort(key=lambda prompt: (-len(prompt), prompt))  # the longest shows first what fits
        with tqdm(
            total=len(prompts),
            disable=not progress,
            desc=f"Generating, {len(self.columns)} strengths x draws",
        ) as bar:
            step = batch_size or max(1, _QUEUED_ROWS // len(self.columns))
            for start in range(0, len(prompts), step):
                batch = prompts[start : start + step]
                padded = _left_padded(batch, self.device)
                answers = self.engine.generate(
                    padded,
                    self.columns,
                    max_length=padded.token_ids.shape[1] + options.max_new_tokens,
                    stop=options.stop,
                    occurrences=[options.occurrence] * len(batch),
                    **self._kwargs[options],
                )
                for prompt, rows in zip(batch, answers, strict=True):
                    self._continuations[options, prompt] = rows
                bar.update(len(batch))


class ColumnModel:
    """Stands where OpenCompass keeps its transformers model, and decodes under one column.

    Everything but `generate` and the call is the model's own.

    Args:
        model: The model that the engine runs.
        table: Answers for all columns.
        column: Index of the column.
    """

    def __init__(self, model: Any, table: AnswerTable, column: int) -> None:
        self._model = model
        self._table = table
        self._column = column
        self._asked: Counter[tuple[GenerationOptions, tuple[int, ...]]] = Counter()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked for while copying, before there is a model
            raise AttributeError(name)
        return getattr(self._model, name)

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self._table.device

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the model where nothing is modulated.

        Raises:
            NotImplementedError: If the column modulates: logits read past the engine would be
                those of the plain model. Or if the model shows no logits.
        """
        column = self._table.columns[self._column]
        if not column.is_identity:
            raise NotImplementedError(
                f"{describe(column)}: this inferencer reads the model's logits itself, past the "
                "modulation: use a generation, perplexity or log-likelihood inferencer"
            )
        if not callable(self._model):
            raise NotImplementedError(
                f"this inferencer reads logits, which {type(self._model).__name__} does not show: "
                "use a model of type HuggingFaceNoiseModel or HuggingFaceAcTModel"
            )
        return self._model(*args, **kwargs)

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        stopping_criteria: Sequence[Any] = (),
        max_new_tokens: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Continues prompts as `model.generate` does.

        Args:
            input_ids: Left-padded token ids [prompts, tokens].
            attention_mask: 1 for tokens, 0 for padding; None if nothing is padded.
            stopping_criteria: OpenCompass's own criteria, of which only the stop words are read.
            max_new_tokens: Longest continuation.
            **kwargs: Further arguments of `model.generate`.

        Returns:
            Prompts and continuations [prompts, tokens], padded at the end.

        Raises:
            ValueError: If the longest continuation is not given.
        """
        if max_new_tokens is None:
            raise ValueError(
                "max_out_len is missing: give it in the model's entry or in the data set's "
                "inferencer, such as max_out_len=256"
            )
        kwargs = {name: value for name, value in kwargs.items() if name not in _IGNORED_INPUTS}
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        prompts = [tuple(row.tolist()) for row in Prompts(input_ids, mask).unpadded()]
        plain = GenerationOptions(
            max_new_tokens=max_new_tokens,
            stop=tuple(sorted({word for c in stopping_criteria for word in c.stop_words})),
            settings=tuple(sorted((name, repr(value)) for name, value in kwargs.items())),
        )
        options = [self._numbered(plain, prompt, kwargs) for prompt in prompts]
        rows = self._table.continuations(prompts, self._column, options, kwargs)
        width = max((len(row) for row in rows), default=0)
        fill = kwargs.get("pad_token_id") or 0
        new = [row + [fill] * (width - len(row)) for row in rows]
        return torch.cat([input_ids, input_ids.new_tensor(new).reshape(len(new), width)], dim=1)

    def _numbered(
        self, options: GenerationOptions, prompt: tuple[int, ...], kwargs: dict[str, Any]
    ) -> GenerationOptions:
        """Tells repeated prompts apart where each is to get a sample of its own."""
        if not kwargs.get("do_sample"):
            return options
        occurrence = self._asked[options, prompt]
        self._asked[options, prompt] += 1
        return GenerationOptions(options.max_new_tokens, options.stop, options.settings, occurrence)


def _left_padded(prompts: Sequence[tuple[int, ...]], device: torch.device) -> Prompts:
    width = max(len(prompt) for prompt in prompts)
    token_ids = torch.zeros((len(prompts), width), dtype=torch.long)
    mask = torch.zeros_like(token_ids)
    for row, prompt in enumerate(prompts):
        token_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return Prompts(token_ids.to(device), mask.to(device))
