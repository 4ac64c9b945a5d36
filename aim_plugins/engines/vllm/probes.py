"""Probes of prompts: requests whose states workers keep, so that conditions can be decided.

`AsyncLLM.generate`, through which a server asks its engine, waits for the probe of a request that
has a condition, and goes on with one that has none, see `conditions`.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import inspect
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from torch import Tensor
from vllm import LLM, SamplingParams, TokensPrompt
from vllm.exceptions import GenerationError, VLLMValidationError
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from aim_plugins.core.errors import ReceiptError
from aim_plugins.engines.vllm.conditions import (
    DECIDED_ARGUMENT,
    decided_arguments,
    named_condition,
    states_of,
)
from aim_plugins.engines.vllm.parameters import RequestModulation, shown
from aim_plugins.engines.vllm.versions import changed_interface
from aim_plugins.engines.vllm.worker_states import SLOT_ARGUMENT, SLOTS
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.conditions import Condition, Summary
from aim_plugins.transport.change import Transport

_CONDITION = Transport.request_names()[-1]
_OWN = (SLOT_ARGUMENT, DECIDED_ARGUMENT)

_SHARED = ("lora_request", "tokenization_kwargs", "priority")
"""Arguments of `AsyncLLM.generate` that a probe has of its request."""


def probe_parameters(slot: int, length: int | None = None) -> SamplingParams:
    """Parameters of a request that has its prompt watched.

    Args:
        slot: Where its states are kept.
        length: How many of its tokens count, if not all.
    """
    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        # What comes from the cache has no states; what is computed goes there.
        skip_reading_prefix_cache=True,
        extra_args={SLOT_ARGUMENT: [slot] if length is None else [slot, length]},
    )


def prompt_states(
    llm: LLM,
    prompts: Sequence[Sequence[int]],
    watched: Sequence[tuple[str, Summary]],
    lora_request: Any = None,
) -> list[list[Tensor]]:
    """The states of prompts in the plain model, from probes of them.

    Args:
        llm: The engine.
        prompts: Token ids of each.
        watched: Sites, each with how the states of a prompt's tokens become one.
        lora_request: Adapter that the probes use.

    Returns:
        For each prompt and pair the state [neurons], in float32 on the CPU.

    Raises:
        ReceiptError: If workers have not seen a whole prompt.
    """
    found: list[list[Tensor]] = []
    for start in range(0, len(prompts), SLOTS):
        part = prompts[start : start + SLOTS]
        slots = list(range(len(part)))
        llm.generate(
            [TokensPrompt(prompt_token_ids=list(tokens)) for tokens in part],
            [probe_parameters(slot) for slot in slots],
            use_tqdm=False,
            lora_request=lora_request,
        )
        found += states_of(llm.collective_rpc("aim_states", args=(slots, list(watched))))
    return found


def decide_requests() -> None:
    """Lets `AsyncLLM.generate` decide conditions; a second call changes nothing.

    Raises:
        ImportError: If this release of vLLM takes requests elsewhere.
    """
    original: Any = getattr(AsyncLLM, "generate", None)
    if getattr(original, "decides_conditions", False):
        return
    taken = inspect.signature(original).parameters if original else ()
    if [*taken][1:4] != ["prompt", "sampling_params", "request_id"] or not {*_SHARED} <= {*taken}:
        raise changed_interface("AsyncLLM.generate(prompt, sampling_params, request_id)")

    @functools.wraps(original)
    def generate(
        self: Any, prompt: Any, sampling_params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        ask = functools.partial(original, self)
        names = sampling_params.extra_args or ()
        if not any(name.startswith(_CONDITION) or name in _OWN for name in names):
            return ask(prompt, sampling_params, request_id, **options)
        return Probes.of(self).answers(self, ask, prompt, sampling_params, request_id, **options)

    generate.decides_conditions = True  # type: ignore[attr-defined]
    AsyncLLM.generate = generate


class Probes:
    """Decides the conditions of an engine's requests, as many at a time as workers have slots.

    Args:
        conditions: Those that requests may ask for, by name.
    """

    def __init__(self, conditions: Mapping[str, Condition]) -> None:
        self._conditions = conditions
        # The one that was freed first is taken first: a request that was cancelled, whose last step
        # may be running still, has time to leave.
        self._free: asyncio.Queue[int] = asyncio.Queue()
        for slot in range(SLOTS):
            self._free.put_nowait(slot)

    @classmethod
    def of(cls, engine: Any) -> Probes:
        """Those of an `AsyncLLM`, which nothing here holds: it ends when it is let go."""
        admission = engine.input_processor.aim_admission
        if admission.probes is None:
            admission.probes = cls(admission.conditions)
        return admission.probes

    async def answers(
        self, engine: Any, ask: Any, prompt: Any, parameters: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        """As `AsyncLLM.generate`, of a request with conditions.

        Args:
            engine: The engine.
            ask: Its `generate`, as it is without this.
            prompt: The prompt.
            parameters: Sampling parameters.
            request_id: Name of the request.
            **options: Further arguments.

        Raises:
            VLLMValidationError: If the request asks for what the engine has not.
            GenerationError: If workers have not seen its whole prompt.
        """
        given = parameters.extra_args
        if own := next((name for name in _OWN if name in given), None):
            raise VLLMValidationError(f"{own}={shown(given[own])} is no argument of a request")
        if isinstance(prompt, AsyncGenerator):
            raise VLLMValidationError(
                "a condition is decided of a whole prompt, and this one streams in: leave one out"
            )
        shared = {name: options[name] for name in _SHARED if name in options}
        probe = functools.partial(ask, prompt, request_id=f"{request_id}-probe", **shared)
        decided = await self._decided(engine, probe, parameters)
        async with contextlib.aclosing(ask(prompt, decided, request_id, **options)) as outputs:
            async for output in outputs:
                yield output

    async def _decided(self, engine: Any, probe: Any, parameters: Any) -> Any:
        """The parameters of a request without its conditions."""
        given = parameters.extra_args
        try:
            asked = RequestModulation.read(given)
            own = [one for one in asked.column.changes if one.condition is not None]
            conditions = {one: named_condition(one, self._conditions) for one in own}
        except ValueError as error:
            raise VLLMValidationError(str(error)) from error
        decided = copy.copy(parameters)
        decided.extra_args = decided_arguments(given, dict.fromkeys(conditions, True))
        # Whatever is wrong with it is said before anything is computed.
        engine.input_processor.validate_logits_processors_params(decided)
        acting = {one: of for one, of in conditions.items() if not one.is_identity}
        found = await self._similarities(engine, probe, acting, asked.prompt_length)
        held = {one: one in found and of.holds(found[one]) for one, of in conditions.items()}
        decided.extra_args = decided_arguments(given, held)
        decided.extra_args[DECIDED_ARGUMENT] = {
            "asked": given,
            "similarities": {one.name: similarity for one, similarity in found.items()},
        }
        return decided

    async def _similarities(
        self, engine: Any, probe: Any, conditions: Mapping[Change, Condition], length: int | None
    ) -> dict[Change, float]:
        """The similarities of a prompt to conditions, from a probe of it."""
        watched = list(dict.fromkeys(one.watched for one in conditions.values()))
        if not watched:
            return {}
        slot = await self._free.get()
        try:
            async for _ in probe(sampling_params=probe_parameters(slot, length)):
                pass
            workers = await engine.collective_rpc("aim_states", args=([slot], watched))
        finally:
            self._free.put_nowait(slot)
        try:
            (states,) = states_of(workers)
            found = dict(zip(watched, states, strict=True))
            return {one: float(of.similarity(found[of.watched])) for one, of in conditions.items()}
        except (ReceiptError, ValueError) as error:  # a failure of the engine, not of the request
            raise GenerationError(str(error)) from error
