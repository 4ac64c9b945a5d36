"""Changes of logits as a logits processor of vLLM, each request at its own strengths.

    llm.generate(prompt, SamplingParams(extra_args={"aim_std": 0.5, "aim_seed": 3}))

Keyed sampling is done here too, since its draws take the same keys: the processor then leaves one
token, which vLLM's greedy decoding takes.

What the changes draw is keyed by all tokens before, so that a request gets the same noise alone
and in any batch, with prefix caching, chunked prefill and preemption. vLLM has two model runners
with an interface each, and loads processors of either from one entry point: the class here serves
both.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from aim_plugins.engines.scoring import WITNESSES
from aim_plugins.engines.vllm.parameters import (
    RequestModulation,
    asked_for,
    shown,
)
from aim_plugins.engines.vllm.steps import to_device
from aim_plugins.engines.vllm.versions import changed_interface, require_supported
from aim_plugins.engines.vllm.watching import NUMBER_ARGUMENT, LogitsSeen
from aim_plugins.modulation.columns import by_kind
from aim_plugins.modulation.noise import COMPILE_VARIABLE, extend_keys, prefix_keys, sequence_keys
from aim_plugins.modulation.sampling import draw_tokens

require_supported()

try:
    from vllm.v1.sample.logits_processor import LogitsProcessor as FirstRunnerProcessor
    from vllm.v1.sample.logits_processor.builtin import process_dict_updates
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SecondRunnerProcessor
except ImportError as error:
    raise changed_interface(str(error.name)) from error

logger = logging.getLogger(__name__)

_NO_TOKENS: Any = None
"""The tokens so far, which no warper looks at."""


@dataclass
class _Request:
    """A request of the first runner and the key of its tokens so far.

    Attributes:
        asked: What the request asks for.
        prompt: Token ids of the prompt.
        output: Token ids decoded so far; the runner appends to this very list.
        number: Which answer it is, if it is watched, see `LogitsSeen`.
        key: Key of the first `length` tokens.
        length: Tokens hashed so far.
    """

    asked: RequestModulation
    prompt: list[int]
    output: list[int]
    number: Hashable | None = None
    key: int = 0
    length: int = 0

    @property
    def waiting(self) -> int:
        """Number of tokens that are not in the key yet."""
        return len(self.prompt) + len(self.output) - self.length

    def token(self) -> int:
        """The first token that is not in the key yet."""
        beyond = self.length - len(self.prompt)
        return self.prompt[self.length] if beyond < 0 else self.output[beyond]


class _Plan:
    """What is done to some rows of logits, for as long as the requests of a batch stay the same.

    Args:
        rows: The rows, ascending.
        asked: What the request of each row asks for.
        numbers: Which answer each is, if any.
        device: Where the logits are.
    """

    def __init__(
        self,
        rows: np.ndarray,
        asked: list[RequestModulation],
        numbers: list[Hashable | None],
        device: torch.device,
    ) -> None:
        self._device = device
        self._numbers = [
            number if one.logits else None for number, one in zip(numbers, asked, strict=True)
        ]
        self.rows = self._index(rows)
        self._changes = []
        for kind, changes in by_kind([request.logits for request in asked]):
            places = [place for place, change in enumerate(changes) if change is not None]
            own = [changes[place] for place in places]
            self._changes.append((kind, self._index(places), own, rows[places].tolist()))
        alike: dict[Any, list[int]] = {}
        for place, request in enumerate(asked):
            if request.sampling is not None:
                alike.setdefault(request.sampling.settings, []).append(place)
        self._draws = []
        for places in alike.values():
            sampling = [one for place in places if (one := asked[place].sampling)]
            seeds = self._index([one.seed for one in sampling])
            self._draws.append((self._index(places), seeds, sampling[0].warpers()))

    def _index(self, values: Any) -> Int64[Tensor, " values"]:
        return to_device(np.array(values, dtype=np.int64), self._device)

    def apply(
        self,
        logits: Float[Tensor, "rows vocab"],
        keys: Int64[Tensor, " modulated"],
        *,
        compiled: bool | None,
        seen: LogitsSeen,
    ) -> Float[Tensor, "rows vocab"]:
        """Changes the rows in place, then draws tokens where they ask for it.

        Args:
            logits: Logits of the batch.
            keys: Prefix key of each of the rows.
            compiled: As in `Change.modulate_rows`.
            seen: Is told of rows that are answers with a number.
        """
        due, step = seen.count(self._numbers), max(1, logits.shape[1] // WITNESSES)
        looked_at = self.rows[self._index(due)] if due else None
        before = None if looked_at is None else logits[looked_at, ::step]
        for kind, places, changes, own in self._changes:
            kind.modulate_rows(logits, keys[places], changes, rows=own, compiled=compiled)
        if before is not None:
            # Where a grammar has left none of them, they tell nothing.
            moved = (logits[looked_at, ::step] != before).any(1) | before.isinf().all(1)
            seen.look([self._numbers[place] for place in due], moved)
        for places, seeds, warpers in self._draws:
            rows = self.rows[places]
            scores = logits[rows]
            for warper in warpers:
                scores = warper(_NO_TOKENS, scores)
            tokens = draw_tokens(keys[places], scores, seeds, compiled=compiled)
            # One token is left in each row.
            logits[rows] = -torch.inf
            logits[rows, tokens] = 0.0
        return logits


class ChangesVLLMProcessor(FirstRunnerProcessor, SecondRunnerProcessor):
    """Changes the logits of the requests that ask for it.

    A request asks with `extra_args` (`vllm_xargs` in the body sent to a server), for noise with
    `aim_std`, `aim_mean` and `aim_seed`; with `aim_sampling` its tokens are drawn by keys.
    Installing aim-plugins is enough for vLLM to load the class; where it is named in
    `logits_processors` as well, the second instance stays idle.

    Where vLLM compiles the model the changes are compiled too; `AIM_PLUGINS_COMPILE` decides
    otherwise.

    Args:
        vllm_config: The engine's configuration.
        state: The device (first runner) or the runner's tokens (second runner).
        is_pin_memory: Of the first runner alone; unused.
    """

    _in_use: weakref.WeakValueDictionary[int, ChangesVLLMProcessor] = weakref.WeakValueDictionary()
    """The working instance of each configuration, by its id."""

    def __init__(self, vllm_config: Any, state: Any, is_pin_memory: bool | None = None) -> None:
        self._config = vllm_config  # kept alive, so that its id stays its own
        self._idle = self._in_use.setdefault(id(vllm_config), self) is not self
        if self._idle:
            logger.info("noise processor is loaded already; the second instance stays idle")
        asked = os.environ.get(COMPILE_VARIABLE)
        self._compiled = None if asked else not vllm_config.model_config.enforce_eager
        self.seen = LogitsSeen()
        self._requests: dict[int, _Request] = {}
        self._plan: _Plan | None = None
        if not isinstance(state, torch.device):
            self._state = state
            self._slots = [RequestModulation()] * state.max_num_reqs
            self._numbers: list[Hashable | None] = [None] * state.max_num_reqs
            self._concerned = np.zeros(state.max_num_reqs, dtype=bool)
            self._planned = np.empty(0, dtype=np.int64)

    @classmethod
    def working(cls, vllm_config: Any) -> ChangesVLLMProcessor | None:
        """The instance that an engine with this configuration runs, if any."""
        return cls._in_use.get(id(vllm_config))

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Checks a request before it is admitted.

        Raises:
            ValueError: If an argument is unknown or out of range, vLLM would change a keyed draw,
                or log-likelihoods of the prompt are asked for, which vLLM computes without its
                logits processors.
        """
        asked = RequestModulation.read(sampling_params.extra_args)
        if asked.sampling is not None:
            _refuse_beside_keyed_sampling(sampling_params)
        for name in ("prompt_logprobs", "prompt_logprob_token_ids"):
            wanted = getattr(sampling_params, name)
            if asked.logits and wanted is not None:
                raise ValueError(
                    f"{asked_for(asked.logits[0])} does not reach {name}={shown(wanted)}, which "
                    "vLLM computes from clean logits: score prompts with "
                    "aim_plugins.engines.vllm.VLLMEngine, or leave one of the two out"
                )

    def is_argmax_invariant(self) -> bool:
        """No: without it vLLM would leave greedy requests unmodulated."""
        return False

    # First runner -------------------------------------------------------------------------------

    def update_state(self, batch_update: Any) -> None:
        """Follows requests as they join, leave and change their row."""
        if not self._idle and process_dict_updates(self._requests, batch_update, self._new_request):
            self._plan = None

    def _new_request(
        self, sampling_params: Any, prompt: list[int] | None, output: list[int]
    ) -> _Request | None:
        asked = RequestModulation.read(sampling_params.extra_args)
        if not asked.concerns_logits:
            return None
        if prompt is None:
            raise RuntimeError(
                "noise and keyed sampling need the prompt's token ids; this prompt came as "
                "embeddings"
            )
        self.seen.begin(number := _number(sampling_params))
        return _Request(asked, prompt, output, number)

    def _apply_to_rows(self, logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
        if not self._requests:
            return logits
        rows = sorted(self._requests)
        requests = [self._requests[row] for row in rows]
        _hash_new_tokens(requests)
        keys = torch.tensor([request.key for request in requests], device=logits.device)
        if self._plan is None:
            asked = [request.asked for request in requests]
            numbers = [request.number for request in requests]
            self._plan = _Plan(np.array(rows), asked, numbers, logits.device)
        return self._plan.apply(logits, keys, compiled=self._compiled, seen=self.seen)

    # Second runner ------------------------------------------------------------------------------

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Notes what the request that moves into a slot asks for; tells whether it does."""
        asked = RequestModulation.read(sampling_params.extra_args)
        self._slots[req_idx] = asked
        self._numbers[req_idx] = _number(sampling_params)
        self._concerned[req_idx] = asked.concerns_logits and not self._idle
        if self._concerned[req_idx]:
            self.seen.begin(self._numbers[req_idx])
        self._plan = None
        return bool(self._concerned[req_idx])

    def _apply_to_slots(
        self, logits: Float[Tensor, "rows vocab"], context: Any
    ) -> Float[Tensor, "rows vocab"]:
        # One row for each request, as speculative decoding is refused: the host knows the rows.
        slots = context.idx_mapping_np[: len(logits)]
        rows = np.flatnonzero(self._concerned[slots])
        if not len(rows):
            return logits
        if self._plan is None or not np.array_equal(slots, self._planned):
            asked = [self._slots[slot] for slot in slots[rows]]
            numbers = [self._numbers[slot] for slot in slots[rows]]
            self._plan, self._planned = _Plan(rows, asked, numbers, logits.device), slots.copy()
        lengths = context.pos[self._plan.rows] + 1
        # The longest of the lengths, without waiting for the device.
        width = int(context.seq_lens_upper_bound_np[rows].max())
        tokens = self._state.all_token_ids.gpu[context.idx_mapping[self._plan.rows], :width]
        within = torch.arange(width, device=logits.device) < lengths[:, None]
        keys = sequence_keys(tokens, within)
        return self._plan.apply(logits, keys, compiled=self._compiled, seen=self.seen)

    # Both ---------------------------------------------------------------------------------------

    def apply(
        self, logits: Float[Tensor, "rows vocab"], ctx: Any = None
    ) -> Float[Tensor, "rows vocab"]:
        """Modulates the logits of one step in place.

        Args:
            logits: Clean logits, one row for each request of the batch.
            ctx: The second runner's layout of the batch.
        """
        return self._apply_to_rows(logits) if ctx is None else self._apply_to_slots(logits, ctx)


def _refuse_beside_keyed_sampling(parameters: Any) -> None:
    """Refuses what vLLM would do to logits of which one token is left."""
    if parameters.temperature > 0:
        raise ValueError(
            f"aim_sampling and temperature={parameters.temperature}: vLLM would draw once more; "
            "give temperature=0, and the temperature within aim_sampling"
        )
    penalties = {"repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
    for name, neutral in penalties.items():
        if (value := getattr(parameters, name)) != neutral:
            raise ValueError(
                f"aim_sampling and {name}={value}: vLLM penalises tokens after the draw, which "
                f"changes nothing; leave {name} out"
            )


def _number(sampling_params: Any) -> Hashable | None:
    return (sampling_params.extra_args or {}).get(NUMBER_ARGUMENT)


def _hash_new_tokens(requests: list[_Request]) -> None:
    """Brings the keys of requests up to date: new prompts in one go, then a token at a time."""
    for request in requests:
        if request.waiting > 1:
            tokens = [*request.prompt, *request.output]
            _refuse_placeholder(min(tokens))
            request.key = int(prefix_keys(torch.tensor([tokens]))[0, -1])
            request.length = len(tokens)
    growing = [request for request in requests if request.waiting]
    if not growing:
        return
    tokens = [request.token() for request in growing]
    _refuse_placeholder(min(tokens))
    keys = extend_keys(
        torch.tensor([request.key for request in growing]),
        torch.tensor([request.length for request in growing]),
        torch.tensor(tokens),
    )
    for request, key in zip(growing, keys.tolist(), strict=True):
        request.key = key
        request.length += 1


def _refuse_placeholder(smallest: int) -> None:
    if smallest < 0:
        raise RuntimeError(
            f"token id {smallest} is a placeholder of vLLM's asynchronous scheduling, and keyed "
            "noise needs the token: start vLLM with async_scheduling=False "
            "(--no-async-scheduling), or name the processor in logits_processors "
            "(--logits-processors) as well, which makes vLLM hand over the tokens"
        )
