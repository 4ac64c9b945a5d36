"""`aim/hf/MODEL`: models of Inspect that answer under a modulation, run by transformers.

    inspect eval TASK --model aim/hf/MODEL -M noise_std=0.5
    inspect eval TASK --model aim/hf/MODEL -M transport=DIR -M strength=0.5

Inspect keeps its own logs; one run has one strength of each change. Requests that wait together are
decoded as one batch, and no answer depends on which these were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from inspect_ai.model import ModelAPI, ModelOutput, ModelUsage, modelapi

from aim_plugins.core.errors import did_you_mean
from aim_plugins.modulation.arguments import describe_columns, read_columns, split_arguments
from aim_plugins.modulation.columns import Column

if TYPE_CHECKING:
    from inspect_ai.model import ChatMessage, GenerateConfig
    from inspect_ai.tool import ToolChoice, ToolInfo

_LOADING = ("dtype", "device", "max_length", "trust_remote_code")
_UNANSWERED = ["logprobs", "prompt_logprobs", "frequency_penalty", "presence_penalty", "logit_bias"]
_UNANSWERED += ["best_of", "response_schema", "extra_body"]
"""Options that would change an answer, or add to it, and that this provider does not have."""

_GATHERING = 0.1
"""Seconds before a batch starts, in which requests of other samples come in."""


@dataclass(eq=False)
class _Request:
    """A prompt that waits, and in the end its answer's tokens or why there are none."""

    tokens: list[int]
    options: tuple[tuple[str, Any], ...]
    occurrence: int
    answer: Sequence[int] | Exception = ()


@modelapi(name="aim")
class AimModelAPI(ModelAPI):
    """A chat model of transformers under one modulation.

    Args:
        model_name: "hf/" and the model: a folder, a name on the hub, or "demo:smollm2".
        config: Inspect's options of generation, which come again with every request.
        **given: Arguments of every kind of change, such as `noise_std` and `transport`, and
            `dtype`, `device`, `max_length` and `trust_remote_code` as of `load_engine`.

    Raises:
        ValueError: If an argument is unknown or has several strengths, or the model does not fit.
    """

    def __init__(self, model_name: str, config: GenerateConfig, **given: Any) -> None:
        kind, _, path = model_name.partition("/")
        # Inspect looks facts up of a model that it makes again, with a key: that one is not loaded.
        if kind != "hf" or not path or given.pop("api_key", None):
            raise ValueError(f"aim/{model_name} is unknown: write aim/hf/MODEL, without API key")
        self.column, loading = _read_arguments(given)
        from aim_plugins.engines.engine import NoJournal
        from aim_plugins.engines.loading import load_engine

        self.engine = load_engine(path, argument="model", **loading)
        self.engine.journal = NoJournal()  # so that samples are keyed at strength 0 too
        for change in self.column.changes:
            change.check_model(self.engine.model, self.engine.tokenizer)
        if not self.engine.tokenizer.chat_template:
            raise ValueError(f"model={path!r} has no chat template: take lm_eval --model aim_hf")
        # Inspect keys the answers it caches by name and address, and by no argument of the model.
        address = f"aim:{self.engine.fingerprint}:{self.column.fingerprint}:{self.column.seed}"
        super().__init__(model_name, address, config=config)
        self._waiting: list[_Request] = []
        self._running = anyio.Lock()
        self._asked: Counter[tuple[Any, ...]] = Counter()

    def max_tokens(self) -> int | None:
        return 2048  # as of Inspect's own hf

    def max_connections(self) -> int:
        return 32  # as of Inspect's own hf: the requests that can wait for one batch

    def collapse_user_messages(self) -> bool:
        return True  # many chat templates want turns to alternate

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Waits for the model; whoever gets it answers all that wait for the like."""
        tokens = self._encode(input)
        if (room := self.engine.max_length - len(tokens)) < 1:
            return ModelOutput.from_content(self.model_name, "", "model_length", "no room left")
        options = _read_options(config, tools, room)
        prompt = (*tokens, *options)
        request = _Request(tokens, options, occurrence=self._asked[prompt])
        self._asked[prompt] += 1
        self._waiting.append(request)
        async with self._running:
            if request in self._waiting:  # else another's batch had it
                await anyio.sleep(_GATHERING)
                batch = [one for one in self._waiting if one.options == options]
                self._waiting = [one for one in self._waiting if one not in batch]
                await anyio.to_thread.run_sync(self._answer, batch)
        if isinstance(request.answer, Exception):
            raise request.answer
        full = "max_tokens" if config.max_tokens and config.max_tokens <= room else "model_length"
        return self._output(len(tokens), request.answer, config.stop_seqs or (), full)

    def _encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        for message in messages:
            parts = [] if isinstance(message.content, str) else message.content
            if other := [part.type for part in parts if part.type not in ("text", "reasoning")]:
                raise ValueError(f"a message holds {other[0]}, and aim/hf reads text: leave it out")
        turns = [{"role": message.role, "content": message.text} for message in messages]
        tokenizer = self.engine.tokenizer
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return list(tokenizer(text, add_special_tokens=False).input_ids)  # the template wrote them

    def _answer(self, batch: Sequence[_Request]) -> None:
        from aim_plugins.engines.engine import Prompts, pad_left
        from aim_plugins.modulation.receipts import check_receipt

        device, options = self.engine.device, dict(batch[0].options)
        padding = self.engine.tokenizer.pad_token_id or 0
        column = replace(self.column, seed=self.column.seed + options.pop("seed"))
        try:
            rows = pad_left([request.tokens for request in batch], padding)
            table = self.engine.generate(
                Prompts(rows.token_ids.to(device), rows.mask.to(device)),
                [column],
                max_length=rows.token_ids.shape[1] + options.pop("new_tokens"),
                occurrences=[request.occurrence for request in batch],
                pad_token_id=padding,
                **options,
            )
            for request, [answer] in zip(batch, table, strict=True):
                check_receipt(answer.receipt, column, "a request")
                request.answer = answer
        except Exception as error:
            for request in batch:
                request.answer = error

    def _output(self, read: int, answer: Any, stop: Sequence[str], full: Any) -> ModelOutput:
        from aim_plugins.engines.stopping import end_tokens

        tokenizer, new = self.engine.tokenizer, len(answer)
        ended = any(term in tokenizer.decode(answer) for term in stop)
        ended = ended or not end_tokens(self.engine.model, {}).isdisjoint(answer[-1:])
        text = tokenizer.decode(answer, skip_special_tokens=True)
        stops = [text.find(term) for term in stop if term in text]
        text = text[: min(stops, default=None)]
        output = ModelOutput.from_content(self.model_name, text, "stop" if ended else full)
        output.usage = ModelUsage(input_tokens=read, output_tokens=new, total_tokens=read + new)
        output.metadata = {
            "model_fingerprint": self.engine.fingerprint,
            "modulation_fingerprint": self.column.fingerprint,
            "modulation": describe_columns([self.column]),
            "receipt": answer.receipt.to_json(),
        }
        return output


def _read_arguments(given: Mapping[str, Any]) -> tuple[Column, dict[str, Any]]:
    """The modulation that the model's arguments ask for, and those of loading."""
    ours, rest = split_arguments(given)
    loading = {name: rest[name] for name in rest.keys() - {"base_url", "api_key"}}
    if unknown := sorted(loading.keys() - set(_LOADING)):
        meant = did_you_mean(unknown[0], _LOADING)
        raise ValueError(f"-M {unknown[0]}={loading[unknown[0]]!r} is unknown: {meant}")
    columns = read_columns(ours)
    # Inspect reads arguments as YAML 1.1, to which 0:3:0.25 is 180.25, a number to the base 60.
    high = any(abs(change.strength) >= 60 for change in columns[0].changes)
    if len(columns) > 1 or high:
        raise ValueError(
            f"{ours} asks for more than one strength below 60 and one draw, which a run of Inspect "
            "has: start one for each, or sweep with `aim-plugins sweep lm-eval`"
        )
    return columns[0], loading


def _read_options(config: GenerateConfig, tools: Sequence[ToolInfo], room: int) -> tuple[Any, ...]:
    """Greedy decoding, unless a temperature above 0 is given; refuses what has no answer."""
    asked = [name for name in _UNANSWERED if getattr(config, name)]
    asked += ["num_choices"] * ((config.num_choices or 1) > 1) + ["tools"] * bool(tools)
    if asked:
        raise ValueError(f"{asked[0]} is nothing that aim/hf answers: leave it out of the task")
    options: dict[str, Any] = {"seed": config.seed or 0, "do_sample": bool(config.temperature)}
    options["new_tokens"] = min(config.max_tokens or room, room)
    options["stop"] = tuple(config.stop_seqs or ())
    for name in ("temperature", "top_p", "top_k") if config.temperature else ():
        options |= {} if getattr(config, name) is None else {name: getattr(config, name)}
    return tuple(options.items())
