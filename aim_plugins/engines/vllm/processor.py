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
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from aim_plugins.engines.vllm.parameters import (
    KeyedSampling,
    RequestModulation,
    asked_for,
    shown,
)
from aim_plugins.engines.vllm.steps import to_device
from aim_plugins.engines.vllm.versions import changed_interface, require_supported
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
        key: Key of the first `length` tokens.
        length: Tokens hashed so far.
    """

    asked: RequestModulation
    prompt: list[int]
    output: list[int]
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
        self._requests: dict[int, _Request] = {}
        if not isinstance(state, torch.device):
            self._state = state
            self._slots = [RequestModulation()] * state.max_num_reqs
            self._concerned = np.zeros(state.max_num_reqs, dtype=bool)

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
        if not self._idle:
            process_dict_updates(self._requests, batch_update, _new_request)

    def _apply_to_rows(self, logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
        if not self._requests:
            return logits
        rows = sorted(self._requests)
        requests = [self._requests[row] for row in rows]
        _hash_new_tokens(requests)
        keys = torch.tensor([request.key for request in requests], device=logits.device)
        return self._modulate(logits, rows, keys, [request.asked for request in requests])

    # Second runner ------------------------------------------------------------------------------

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Notes what the request that moves into a slot asks for; tells whether it does."""
        asked = RequestModulation.read(sampling_params.extra_args)
        self._slots[req_idx] = asked
        self._concerned[req_idx] = asked.concerns_logits and not self._idle
        return bool(self._concerned[req_idx])

    def _apply_to_slots(
        self, logits: Float[Tensor, "rows vocab"], context: Any
    ) -> Float[Tensor, "rows vocab"]:
        # One row for each request, as speculative decoding is refused: the host knows the rows.
        slots = context.idx_mapping_np[: len(logits)]
        rows = np.flatnonzero(self._concerned[slots])
        if not len(rows):
            return logits
        chosen = slots[rows]
        index = to_device(rows, logits.device)
        lengths = context.pos[index] + 1
        # The longest of the lengths, without waiting for the device.
        width = int(context.seq_lens_upper_bound_np[rows].max())
        tokens = self._state.all_token_ids.gpu[to_device(chosen, logits.device), :width]
        within = torch.arange(width, device=logits.device) < lengths[:, None]
        asked = [self._slots[slot] for slot in chosen]
        return self._modulate(logits, rows.tolist(), sequence_keys(tokens, within), asked)

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

    def _modulate(
        self,
        logits: Float[Tensor, "rows vocab"],
        rows: list[int],  # ascending
        keys: Int64[Tensor, " modulated"],
        asked: list[RequestModulation],
    ) -> Float[Tensor, "rows vocab"]:
        """Changes the given rows of the logits, then draws tokens, where they ask for it."""
        for kind, changes in by_kind([request.logits for request in asked]):
            places = [place for place, change in enumerate(changes) if change is not None]
            kind.modulate_rows(
                logits,
                keys[places],
                [changes[place] for place in places],
                rows=[rows[place] for place in places],
                compiled=self._compiled,
            )
        alike: dict[Any, list[int]] = {}
        for place, request in enumerate(asked):
            if request.sampling is not None:
                alike.setdefault(request.sampling.settings, []).append(place)
        for places in alike.values():
            self._draw(
                logits,
                torch.tensor([rows[place] for place in places], device=logits.device),
                keys[places],
                [sampling for place in places if (sampling := asked[place].sampling)],
            )
        return logits

    def _draw(
        self,
        logits: Float[Tensor, "rows vocab"],
        rows: Int64[Tensor, " drawn"],
        keys: Int64[Tensor, " drawn"],
        sampling: list[KeyedSampling],  # of the same settings
    ) -> None:
        """Leaves one token in each of the rows."""
        scores = logits[rows]
        for warper in sampling[0].warpers():
            scores = warper(_NO_TOKENS, scores)
        seeds = torch.tensor([request.seed for request in sampling], device=logits.device)
        tokens = draw_tokens(keys, scores, seeds, compiled=self._compiled)
        logits[rows] = -torch.inf
        logits[rows, tokens] = 0.0


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


def _new_request(
    sampling_params: Any, prompt: list[int] | None, output: list[int]
) -> _Request | None:
    asked = RequestModulation.read(sampling_params.extra_args)
    if not asked.concerns_logits:
        return None
    if prompt is None:
        raise RuntimeError(
            "noise and keyed sampling need the prompt's token ids; this prompt came as embeddings"
        )
    return _Request(asked, prompt, output)


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
