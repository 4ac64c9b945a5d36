"""`aim_vllm` and `act_vllm`: lm-evaluation-harness's vLLM backend, modulated.

    lm_eval --model aim_vllm --model_args pretrained=MODEL,noise_std=0:3:0.25 --tasks gsm8k
    lm_eval --model act_vllm --model_args pretrained=MODEL,transport=DIR,strength=0:1:0.1 \\
        --tasks gsm8k --batch_size auto

The class takes everything that `vllm` takes, and the changes of `aim_hf`. All columns of a
generation task decode in one continuous batch, and log-likelihoods of all columns come from one
forward pass for each change of activations.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.utils import resolve_max_length

from aim_plugins.engines import vllm as vllm_engine
from aim_plugins.engines.engine import (
    Engine,
    Prompts,
    ScoreRow,
)
from aim_plugins.engines.vllm.versions import require_supported
from aim_plugins.harnesses.lm_eval import replay
from aim_plugins.harnesses.lm_eval.columns import ColumnAnswers

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

logger = logging.getLogger(__name__)


def _import_backend() -> ModuleType:
    """lm-eval's vLLM backend, which asks for the version of a distribution named "vllm".

    vLLM's builds for other devices have other names.

    Raises:
        ImportError: If vLLM is missing or too old, with the command that installs it.
    """
    require_supported()
    name = "lm_eval.models.vllm_causallms"
    try:
        importlib.metadata.version("vllm")
        return importlib.import_module(name)
    except importlib.metadata.PackageNotFoundError:
        pass
    import vllm
    from vllm.platforms import current_platform  # noqa: F401 - it, too, looks at the names

    ask = importlib.metadata.version

    def version(distribution_name: str) -> str:
        return vllm.__version__ if distribution_name == "vllm" else ask(distribution_name)

    importlib.metadata.version = version
    try:
        return importlib.import_module(name)
    finally:
        importlib.metadata.version = ask


_Backend: Any = _import_backend().VLLM


class AimVLLM(ColumnAnswers, _Backend):
    """A causal language model of vLLM under changes of its logits or activations.

    Args:
        pretrained: As for `vllm`.
        max_length: Longest input in tokens, as for `hf`. vLLM's own `max_model_len`, which may be
            given instead, counts the token that vLLM always decodes as well; without either, inputs
            may have a token less than the model's window.
        batch_size: Requests handed to vLLM at a time; "auto" hands over all.
        **kwargs: Every other argument of `vllm`, and those of every kind of change, see `AimHFLM`.

    Attributes:
        columns: The columns that requests are answered under.
        engine: Runs the model.

    Raises:
        ValueError: If an argument of a change is misspelt, malformed or missing, the change was
            made for another model, or an argument asks for what vLLM cannot modulate.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        max_length: int | None = None,
        max_model_len: int | None = None,
        batch_size: int | str = "auto",
        **kwargs: Any,
    ) -> None:
        kwargs = self.take_arguments(kwargs)
        if int(kwargs.get("data_parallel_size", 1)) > 1:
            raise ValueError(
                f"data_parallel_size={kwargs['data_parallel_size']} makes a new engine for every "
                "call: use tensor_parallel_size, or one run for each part of the tasks"
            )
        if max_length is not None and max_model_len is not None:
            raise ValueError(
                f"max_length={max_length} and max_model_len={max_model_len} are both given: give "
                "one of them"
            )
        if max_length is not None:
            max_model_len = _model_window(pretrained, int(max_length), kwargs)
        super().__init__(
            pretrained,
            max_model_len=max_model_len,
            batch_size=batch_size,
            **vllm_engine.llm_arguments(pretrained, self.columns, **kwargs),
        )
        if self.batch_size == 1:
            logger.warning("batch_size=1 hands vLLM one request at a time: use --batch_size auto")
        for change in dict.fromkeys(change for column in self.columns for change in column.changes):
            if change.learned is not None:
                change.learned.check_tokenizer(self.tokenizer)
        self.batch_sizes: dict[int, int] = {}
        self.engine: Engine = vllm_engine.VLLMEngine(self.model, lora_request=self.lora_request)
        replay.install()

    @property
    def max_length(self) -> int:
        """Longest input in tokens."""
        return self.engine.max_length

    # Tables -------------------------------------------------------------------------------------

    def score(self, requests: list[Instance], disable_tqdm: bool = False) -> list[ScoreRow]:
        """Log-likelihoods of the requests' continuations, [N] rows of [S]."""
        self.check("loglikelihood", requests)
        return _Backend.loglikelihood(self, requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
    ) -> list[ScoreRow]:
        size = 0 if self.batch_size == "auto" else self.batch_size
        return self._score_tokens(requests, size, progress=not disable_tqdm)

    def score_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[list[float]]:
        """Log-likelihoods of whole texts, [N] rows of [S], in nats."""
        windows, owners = self._rolling_windows(requests)
        rows = self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm)
        return self._rolling_totals(requests, owners, rows)

    def generate(self, requests: list[Instance], disable_tqdm: bool = False) -> list[list[str]]:
        """Texts that continue the requests' contexts, [N] rows of [S]."""
        order = self._order_to_generate(requests)
        size = 0 if self.batch_size == "auto" else self.batch_size
        rows: list[list[str]] = []
        for batch in order.get_batched(n=size):
            rows += self._generate_batch(batch, not disable_tqdm)
        return order.get_original(rows)

    def _generate_batch(
        self, batch: Sequence[tuple[str, dict[str, Any], int]], progress: bool
    ) -> list[list[str]]:
        end = self.tokenizer.decode(self.eot_token_id) or self.tokenizer.eos_token or ""
        asked = self._read_generation_arguments(batch[0][1], end)
        room = self.max_length - asked.new_tokens
        prompts = self._prompts([context for context, *_ in batch], room)
        options = dict(asked.options)
        table = self.engine.generate(
            prompts,
            self.columns,
            max_length=options.pop("max_length", prompts.token_ids.shape[1] + asked.new_tokens),
            stop=asked.ends,
            occurrences=[occurrence for *_, occurrence in batch],
            progress=progress,
            **options,
        )
        return self._finish_batch(batch, table, asked.stop)

    def _prompts(self, contexts: list[str], room: int) -> Prompts:
        """Token ids of the contexts' ends, padded on the left."""
        encoded = [self.tok_encode(context)[-room:] for context in contexts]
        rows = [torch.tensor(tokens or [self.prefix_token_id]) for tokens in encoded]
        pad = torch.nn.utils.rnn.pad_sequence
        return Prompts(
            pad(rows, batch_first=True, padding_side="left"),
            pad([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left"),
        )

    def _text_settings(self) -> dict[str, Any]:
        names = ("add_bos_token", "custom_prefix_token_id", "truncation_side", "think_end_token")
        return {
            **{name: repr(getattr(self, name)) for name in names},
            "max_gen_toks": self.max_gen_toks,
            "tokenizer": [self.tokenizer.name_or_path, len(self.tokenizer)],
        }


class ActVLLM(AimVLLM):
    """`AimVLLM` under the name that asks for a transport of activations."""

    required = ("transport",)


def _model_window(pretrained: str, max_length: int, options: dict[str, Any]) -> int:
    """vLLM's `max_model_len` for inputs of `max_length` tokens, as far as the model allows."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        pretrained,
        revision=options.get("revision"),
        trust_remote_code=bool(options.get("trust_remote_code", False)),
    )
    largest = resolve_max_length(config, default=max_length + 1)
    if max_length == largest:
        logger.warning(
            "max_length=%d is the model's whole window, of which vLLM needs a token for what it "
            "decodes: longer inputs lose one more token of their start than with aim_hf",
            max_length,
        )
        return largest
    return max_length + 1
