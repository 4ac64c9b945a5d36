"""What OpenCompass models under modulations share, whatever runs their weights.

OpenCompass's own classes build prompts, tokenise, stop and decode. `ColumnAnswers` takes their
place where the model is asked: one engine answers under many modulations, and each view of the
model reads one column. `TextScores` adds perplexities and log-likelihoods to base models.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig

from aim_plugins.core.devices import model_window
from aim_plugins.engines.engine import Engine, Journal, NoJournal, ScoreRow
from aim_plugins.harnesses.opencompass.config.modulations import split_modulation
from aim_plugins.harnesses.opencompass.run.replay import AnswerTable, ColumnModel, Span
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.receipts import Receipt


class ColumnAnswers(abc.ABC):
    """Lets an OpenCompass model answer from a table of columns; the other base decodes.

    Attributes:
        required: Arguments of modulations without which the class makes no sense.
        column: The modulation it answers under.

    Raises:
        ValueError: If an argument of the modulation is misspelt, malformed, missing, or given for
            several strengths, or something was learned on another model.
        FileNotFoundError: If an argument names files that are not there.
    """

    required: ClassVar[Sequence[str]] = ()
    column: Column
    path: str
    tokenizer: Any
    model: Any
    max_seq_len: int
    logger: Any

    def __init__(
        self,
        path: str,
        model_kwargs: dict[str, Any] | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        max_seq_len: int | None = None,
        tokenizer_only: bool = False,
        **settings: Any,
    ) -> None:
        given = {"generation_kwargs": dict(generation_kwargs or {}), **settings}
        split = split_modulation(given, self.required)
        self.column = split.column
        self._texts: dict[Hashable, Any] = {}
        # OpenCompass trusts remote code unless told otherwise.
        model_kwargs = {"trust_remote_code": False, **(model_kwargs or {})}
        tokenizer_kwargs = {"trust_remote_code": False, **(tokenizer_kwargs or {})}
        super().__init__(  # type: ignore[call-arg]
            path=path,
            model_kwargs=model_kwargs,
            tokenizer_kwargs=tokenizer_kwargs,
            max_seq_len=max_seq_len or self._longest_prompt(path, model_kwargs),
            tokenizer_only=tokenizer_only,
            **split.rest,
        )
        if not tokenizer_only:
            self._causal_model = self.model
            self._engine = self._make_engine()
            self._answer_from(self.table((self.column,)), 0)

    @abc.abstractmethod
    def _make_engine(self) -> Engine:
        """Runs the loaded model, which the modulation has to fit."""

    @property
    def _device(self) -> torch.device:
        """Where inputs go."""
        return torch.device("cpu")

    def _longest_prompt(self, path: str, model_kwargs: dict[str, Any]) -> int:
        """Tokens of the longest prompt where the entry does not say."""
        trust = model_kwargs["trust_remote_code"]
        window = model_window(AutoConfig.from_pretrained(path, trust_remote_code=trust))
        if window is None:
            raise ValueError(
                f"max_seq_len is missing, and the config of {path} names no window: give it"
            )
        return window

    def _load_tokenizer(self, *args: Any, **kwargs: Any) -> None:
        super()._load_tokenizer(*args, **kwargs)  # type: ignore[misc]
        # OpenCompass calls a method that transformers 5 has removed.
        if not hasattr(self.tokenizer, "batch_encode_plus"):
            self.tokenizer.batch_encode_plus = self.tokenizer.__call__

    def table(
        self,
        columns: Sequence[Column],
        *,
        batch_size: int = 1,
        name: str = "OpenCompass",
        journal: Journal | None = None,
    ) -> AnswerTable:
        """Starts a table of this model's answers under many modulations.

        Args:
            columns: The modulations, S of them.
            batch_size: Prompts or contexts in a batch.
            name: What will be asked, for progress bars and errors.
            journal: Keeps finished batches, so that an interrupted run goes on where it was.

        Raises:
            ValueError: If what a column has learned is not what the model was loaded with.
        """
        loaded = {change.fingerprint for change in self.column.changes}
        for change in {change for column in columns for change in column.forward}:
            if change.fingerprint and change.fingerprint not in loaded:
                raise ValueError(
                    f"the {change.name} was fitted anew after it was loaded: run the config again "
                    "with -r"
                )
        self._engine.journal = journal or NoJournal()
        return AnswerTable(self._engine, columns, batch_size, name, device=self._device)

    def under(self, table: AnswerTable, column: int) -> Any:
        """A view of this model that answers from one column of a table; the weights are shared."""
        view = copy.copy(self)
        view.column = table.columns[column]
        view._answer_from(table, column)
        return view

    def _answer_from(self, table: AnswerTable, column: int) -> None:
        self._table = table
        self._index = column
        self._texts = table.texts  # which all views of the table share
        self.model = ColumnModel(self._causal_model, table, column)

    def get_token_len(self, prompt: Any, *args: Any, **kwargs: Any) -> int:
        """Length of a prompt in tokens, as OpenCompass counts it."""
        key = ("length", repr(prompt), args, tuple(kwargs.items()))  # dialogues are lists
        if key not in self._texts:
            length = super().get_token_len(prompt, *args, **kwargs)  # type: ignore[misc]
            self._texts[key] = length
        return self._texts[key]


class TextScores(ColumnAnswers):
    """Adds perplexities and log-likelihoods of texts, which OpenCompass asks of base models."""

    drop_middle: bool

    def get_ppl(
        self, inputs: Sequence[Any], mask_length: Sequence[int] | None = None
    ) -> NDArray[np.float64]:
        """Mean negative log-likelihood per token of each input.

        The first token is given; the sum over the others is divided by the number of all tokens,
        the first included, as OpenCompass defines it. Neither padding nor other inputs of a batch
        enter it.

        Args:
            inputs: Prompts.
            mask_length: Tokens at the start of each prompt that are given and neither scored nor
                counted.

        Returns:
            One value for each prompt, in nats per token; lower wins.

        Raises:
            ValueError: If a mask covers a whole prompt.
        """
        masks = [0] * len(inputs) if mask_length is None else list(mask_length)
        tokens = [self._encode(str_of(item), truncation=True) for item in inputs]
        for item, ids, mask in zip(inputs, tokens, masks, strict=True):
            if mask >= len(ids):
                raise ValueError(
                    f"mask_length={mask} covers all {len(ids)} tokens of {str_of(item)[:80]!r}: "
                    "leave at least one to score"
                )
        sums = self._log_likelihoods(
            [Span(ids, max(1, mask)) for ids, mask in zip(tokens, masks, strict=True)]
        )
        counted = [len(ids) - mask for ids, mask in zip(tokens, masks, strict=True)]
        return (0.0 - sums) / np.array(counted)

    def get_loglikelihood(self, inputs: Sequence[Any], conts: Sequence[str]) -> NDArray[np.float64]:
        """Log-likelihood of the continuation that ends each input, given what stands before it.

        The continuation's tokens are those that the input has beyond its context alone, spaces
        before it included, as lm-evaluation-harness splits them, and at least the last one.

        Args:
            inputs: Texts that end with their continuation.
            conts: The continuations.

        Returns:
            Sums over the tokens of each continuation, in nats.

        Raises:
            ValueError: If an input does not end with its continuation.
        """
        return self._log_likelihoods(
            [
                self._continuation(str_of(item), cont)
                for item, cont in zip(inputs, conts, strict=True)
            ]
        )

    def _continuation(self, text: str, continuation: str) -> Span:
        if not continuation or not text.endswith(continuation):
            raise ValueError(
                f"cont={continuation!r} is not the end of {text[-80:]!r}: the data set's template "
                "has to end with the continuation"
            )
        context = text[: -len(continuation)].rstrip()
        tokens, start = self._encode(text), len(self._encode(context)) if context else 0
        # A continuation may melt into the last token of its context: that token is scored then.
        start = min(start, len(tokens) - 1)
        if start == 0:  # nothing stands before it: condition on the start of a text
            first = self.tokenizer.bos_token_id
            first = self.tokenizer.eos_token_id if first is None else first
            tokens, start = (tokens, 1) if tokens[:1] == (first,) else ((first, *tokens), 1)
        return Span(tokens, start)

    def _encode(self, text: str, *, truncation: bool = False) -> tuple[int, ...]:
        key = ("tokens", text, truncation)
        if key not in self._texts:
            cut = truncation and not self.drop_middle
            options = {"truncation": True, "max_length": self.max_seq_len} if cut else {}
            tokens = self.tokenizer(text, **options)["input_ids"]
            if truncation and len(tokens) > self.max_seq_len:  # only where the middle is dropped
                half = self.max_seq_len // 2
                tokens = tokens[:half] + tokens[-half:]
            self._texts[key] = tuple(tokens)
        return self._texts[key]

    def _log_likelihoods(self, spans: Sequence[Span]) -> NDArray[np.float64]:
        rows = self._table.scores([span for span in spans if span.start < len(span.tokens)])
        if rows is None:
            return np.zeros(len(spans))
        by_span: dict[Span, ScoreRow] = dict(
            zip([span for span in spans if span.start < len(span.tokens)], rows, strict=True)
        )
        nothing = Receipt.of_nothing(self.column)
        self._table.hand_out(
            self._index,
            [by_span[span].receipts[self._index] if span in by_span else nothing for span in spans],
        )
        # A prompt of one token has nothing to score.
        return np.array(
            [
                by_span[span].log_likelihoods[self._index] if span in by_span else 0.0
                for span in spans
            ]
        )


def str_of(prompt: Any) -> str:
    """A base model's prompt as text: OpenCompass hands in a string or a list of turns."""
    return prompt if isinstance(prompt, str) else "".join(turn["prompt"] for turn in prompt)
