"""`aim_hf` and `act_hf`: lm-evaluation-harness's Hugging Face backend, modulated.

    lm_eval --model aim_hf --model_args pretrained=MODEL,noise_std=0.5 --tasks gsm8k
    lm_eval --model act_hf --model_args pretrained=MODEL,transport=DIR,strength=0.5 --tasks gsm8k

The class takes everything that `hf` takes. It only translates: requests become token rows, the
engine answers them under every column, and one column goes back to the harness. Several strengths
or draws make a table of columns, which `replay` hands to the harness one column at a time.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate import find_executable_batch_size
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.models.utils_hf import clear_torch_cache, stop_sequences_criteria
from tqdm import tqdm

from aim_plugins.engines.engine import (
    Engine,
    Prompts,
    ScoreRow,
)
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.engines.loading import causal_class
from aim_plugins.harnesses.lm_eval import replay
from aim_plugins.harnesses.lm_eval.columns import ColumnAnswers

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

logger = logging.getLogger(__name__)


class AimHFLM(ColumnAnswers, HFLM):
    """A causal language model under changes of its logits, activations or weights.

    Args:
        pretrained: As for `hf`.
        **kwargs: Every argument of `hf`, and those of every kind of change: `noise_std`,
            `noise_mean`, `noise_seed` and `noise_draws`; `transport`, `strength` and
            `force_transport`; and what other packages register. A strength is a number, a list, or
            a grid such as "0:3:0.25"; where all leave the model as it is, the results are those of
            `hf`, to the bit.

    Attributes:
        columns: The columns that requests are answered under.
        engine: Runs the model.

    Raises:
        ValueError: If an argument of a change is misspelt, malformed or missing, or the change was
            made for another model.
        NotImplementedError: If the model is an encoder-decoder.
    """

    def __init__(self, pretrained: Any, **kwargs: Any) -> None:
        super().__init__(pretrained, **self.take_arguments(kwargs))
        self._join_processes()
        self.check_model(self.model, self.tokenizer)
        self.engine: Engine = HuggingFaceEngine(
            self.model,
            self.tokenizer,
            max_length=self.max_length,
            softmax_dtype=self.softmax_dtype,
            autocast_dtype=self.mixed_precision_dtype,
            device=self.device,
            share_contexts=self.logits_cache,
        )
        replay.install()

    def _get_backend(self, config: Any, backend: Any = "default", **kwargs: Any) -> None:
        super()._get_backend(config, backend=backend, **kwargs)
        if self.backend != "causal":
            raise NotImplementedError(
                "aim_hf modulates causal language models. The noise of an encoder-decoder would "
                "have to be keyed by its source text as well as by the decoded prefix, or "
                "documents would share their noise; use --model hf for this model."
            )
        self.AUTO_MODEL_CLASS = causal_class(config)

    def _join_processes(self) -> None:
        # hf splits documents over GPUs only; on CPU every process would do all the work.
        accelerator = getattr(self, "accelerator", None)
        if accelerator is not None and self.world_size == 1 and accelerator.num_processes > 1:
            self._rank = accelerator.process_index
            self._world_size = accelerator.num_processes

    # Tables -------------------------------------------------------------------------------------

    def score(self, requests: list[Instance], disable_tqdm: bool = False) -> list[ScoreRow]:
        """Log-likelihoods of the requests' continuations, [N] rows of [S]."""
        self.check("loglikelihood", requests)
        return HFLM.loglikelihood(self, requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[ScoreRow]:
        auto = self.batch_size == "auto" and not override_bs
        if auto:
            self.batch_sizes: dict[int, int] = {}

        return self._score_tokens(
            requests,
            self._batch_scheduler if auto else override_bs or self.batch_size,
            progress=not disable_tqdm and self.rank == 0,
        )

    def score_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[list[float]]:
        """Log-likelihoods of whole texts, [N] rows of [S], in nats."""
        windows, owners = self._rolling_windows(requests)
        size = self._detect_batch_size() if self.batch_size == "auto" else self.batch_size
        rows: list[ScoreRow] = []
        starts = range(0, len(windows), size)
        for start in tqdm(starts, disable=disable_tqdm or self.rank != 0, desc="Rolling windows"):
            batch = windows[start : start + size]
            rows += self._loglikelihood_tokens(batch, disable_tqdm=True, override_bs=len(batch))
        return self._rolling_totals(requests, owners, rows)

    def generate(self, requests: list[Instance], disable_tqdm: bool = False) -> list[list[str]]:
        """Texts that continue the requests' contexts, [N] rows of [S]."""
        order = self._order_to_generate(requests)
        size = (
            self._detect_generation_batch_size(requests)
            if self.batch_size == "auto"
            else self.batch_size
        )
        rows: list[list[str]] = []
        with tqdm(
            total=len(requests),
            disable=disable_tqdm or self.rank != 0,
            desc=f"Generating, {len(self.columns)} strengths x draws",
        ) as bar:
            for batch in order.get_batched(n=size):
                rows += self._generate_batch(batch)
                bar.update(len(batch))
        return order.get_original(rows)

    def _generate_batch(self, batch: Sequence[tuple[str, dict[str, Any], int]]) -> list[list[str]]:
        contexts = [context for context, *_ in batch]
        end = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        asked = self._read_generation_arguments(batch[0][1], end)
        token_ids, mask = self.tok_batch_encode(
            contexts,
            left_truncate_len=self.max_length - asked.new_tokens,
            truncation=self.truncation,
        )
        options = {"pad_token_id": self.tokenizer.pad_token_id, "use_cache": True}
        options = asked.options | options
        table = self.engine.generate(
            Prompts(token_ids.to(self.device), mask.to(self.device)),
            self.columns,
            max_length=options.pop("max_length", token_ids.shape[1] + asked.new_tokens),
            stop=asked.ends,
            stopping_factory=functools.partial(stop_sequences_criteria, self.tokenizer, asked.ends),
            occurrences=[occurrence for *_, occurrence in batch],
            **options,
        )
        return self._finish_batch(batch, table, asked.stop)

    # Batch sizes --------------------------------------------------------------------------------

    def _detect_batch_size(self, requests: Sequence[Any] | None = None, pos: int = 0) -> int:
        """Halves the batch until a forward pass of the longest request fits."""
        length = self.max_length
        if requests:
            _, context, continuation = requests[pos]
            length = len([*context, *continuation][-(self.max_length + 1) :][:-1])
        return self._largest_batch(length, generation=False)

    def _detect_generation_batch_size(self, requests: list[Instance]) -> int:
        """Halves the batch until decoding the longest request under every column fits."""
        longest = max((len(self.tok_encode(request.args[0])) for request in requests), default=1)
        new_tokens = max(
            (
                normalize_gen_kwargs(request.args[1], self.max_gen_toks)["max_gen_toks"]
                for request in requests
            ),
            default=1,
        )
        return self._largest_batch(min(self.max_length, longest + new_tokens), generation=True)

    def _largest_batch(self, length: int, *, generation: bool) -> int:
        @find_executable_batch_size(starting_batch_size=self.max_batch_size)
        def largest(batch_size: int) -> int:
            self.engine.probe(batch_size, length, self.columns, generation=generation)
            return batch_size

        try:
            size = int(largest())
        except RuntimeError as error:
            if "No executable batch size found" not in str(error):
                raise
            size = 1
        if self.world_size > 1:
            sizes = self.all_gather(torch.tensor([size], device=self.device))
            size = int(sizes.min())
        clear_torch_cache()
        logger.info("batch_size=auto: %d for sequences of %d tokens", size, length)
        return size

    def _text_settings(self) -> dict[str, Any]:
        """How text becomes tokens and tokens become text, as far as `hf` can be told."""
        names = ("add_bos_token", "custom_prefix_token_id", "truncation", "think_end_token")
        return {
            **{name: repr(getattr(self, name)) for name in names},
            "max_gen_toks": self.max_gen_toks,
            "tokenizer": [self.tokenizer.name_or_path, len(self.tokenizer)],
        }


class ActHFLM(AimHFLM):
    """`AimHFLM` under the name that asks for a transport of activations."""

    required = ("transport",)
