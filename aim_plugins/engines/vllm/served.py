"""Receipts of the answers of `AsyncLLM`, and so of a server: none goes out without its own.

A request that asks for a change gets a number before it is admitted. Workers watch requests with a
number; when one has finished, what they saw of it is fetched, together with whatever else has
finished since the last call, and held against what it asked for. Requests that ask for nothing take
vLLM's own way.

Whatever else rewrites requests has to wrap `AsyncLLM.generate` after `watch_answers`, with
`functools.wraps`, see `plugin`.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import functools
import logging
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from aim_plugins.core.errors import ReceiptError
from aim_plugins.engines.answers import decoded_receipt
from aim_plugins.engines.vllm.conditions import DECIDED_ARGUMENT, named_condition
from aim_plugins.engines.vllm.parameters import PREFIX, RequestModulation, shown
from aim_plugins.engines.vllm.receipts import (
    check_maps_intact,
    map_sums,
    settle,
    that_ran,
    together,
)
from aim_plugins.engines.vllm.versions import changed_interface
from aim_plugins.engines.vllm.watching import NUMBER_ARGUMENT, Taken
from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.conditions import Condition
from aim_plugins.modulation.receipts import Receipt

_log = logging.getLogger(__name__)

RECEIPT = "aim_receipt"
"""Attribute of a finished output, and entry of a choice, that holds its receipt as JSON."""


def watch_answers() -> None:
    """Lets `AsyncLLM.generate` hand out no answer of a modulated request without its receipt.

    Raises:
        ImportError: If this release of vLLM generates elsewhere.
        RuntimeError: If conditions are decided within what would be watched.
    """
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.parallel_sampling import ParentRequest

    original = getattr(AsyncLLM, "generate", None)
    child = getattr(ParentRequest, "get_child_info", None)
    if original is None or child is None:
        raise changed_interface("AsyncLLM.generate or ParentRequest.get_child_info")
    if getattr(original, "watches_answers", False):
        return
    if getattr(original, "decides_conditions", False):
        raise RuntimeError(
            "AsyncLLM.generate decides conditions, whose probes would be taken for answers: call "
            "watch_answers before decide_requests"
        )

    @functools.wraps(original)
    def generate(
        self: Any, prompt: Any, sampling_params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        given = getattr(sampling_params, "extra_args", None) or {}
        if NUMBER_ARGUMENT in given:
            raise VLLMValidationError(
                f"{NUMBER_ARGUMENT}={shown(given[NUMBER_ARGUMENT])} is no argument of a request: "
                "leave it out"
            )
        if not any(name.startswith(PREFIX) or name == DECIDED_ARGUMENT for name in given):
            return original(self, prompt, sampling_params, request_id, **options)
        run = functools.partial(original, self, prompt, request_id=request_id, **options)
        return ServedAnswers.of(self).answers(run, sampling_params)

    @functools.wraps(child)
    def get_child_info(self: Any, index: int) -> tuple[str, Any]:
        name, parameters = child(self, index)
        if (number := (parameters.extra_args or {}).get(NUMBER_ARGUMENT)) is not None:
            parameters = _numbered(parameters, _of_choice(number, index))
        return name, parameters

    generate.watches_answers = True  # type: ignore[attr-defined]
    AsyncLLM.generate = generate
    ParentRequest.get_child_info = get_child_info


def _numbered(parameters: Any, number: str) -> Any:
    found = copy.copy(parameters)
    found.extra_args = {**parameters.extra_args, NUMBER_ARGUMENT: number}
    return found


def _of_choice(number: str, index: int) -> str:
    """The number of one of several answers to a request."""
    return f"{index}_{number}"


class ServedRequest:
    """A request whose answers are under way.

    Args:
        parameters: Its sampling parameters.
        maps: Maps that it may ask for, by name.
        conditions: Conditions that it may ask for, by name.

    Attributes:
        number: What its answers are told apart by.
        parameters: They, with the number.
        left: Numbers of the answers that are not taken yet.
    """

    def __init__(
        self,
        parameters: Any,
        maps: Mapping[str, ActivationMaps],
        conditions: Mapping[str, Condition],
    ) -> None:
        from vllm.sampling_params import RequestOutputKind

        self.number = uuid.uuid4().hex
        self.parameters = _numbered(parameters, self.number)
        self._maps = dict(maps)  # of now: they come and go
        self._conditions = conditions
        self._delta = parameters.output_kind == RequestOutputKind.DELTA
        self._decoded: Counter[int] = Counter()
        self.left = {self.answer(index) for index in range(parameters.n)}

    def answer(self, index: int) -> str:
        """The number of one of its answers."""
        return self.number if self.parameters.n == 1 else _of_choice(self.number, index)

    def finished(self, output: Any) -> list[Any]:
        """The answers that an output ends, each of which has a text to vouch for."""
        for one in output.outputs:
            known = self._decoded[one.index] if self._delta else 0
            self._decoded[one.index] = known + len(one.token_ids)
        return [one for one in output.outputs if one.finished() and self._decoded[one.index]]

    @functools.cached_property
    def _asked(self) -> RequestModulation:
        return RequestModulation.read(self.parameters.extra_args)

    @functools.cached_property
    def _column(self) -> Column:
        """What it asks for, its conditions decided, with the engine's maps."""
        return self._bound(self._asked.column)

    def _bound(self, column: Column) -> Column:
        """A request's column with the engine's maps and conditions."""

        def bound(change: Any) -> Any:
            own = self._maps.get(change.label) if change.acts_on == "activations" else None
            if own is not None:
                change = dataclasses.replace(change, fingerprint=own.fingerprint, maps=own)
            if change.condition is not None:
                condition = named_condition(change, self._conditions)
                change = dataclasses.replace(change, condition=condition)
            return change

        return Column(tuple(map(bound, column.changes)))

    @property
    def transports(self) -> set[str]:
        """Names of the transports that it asks for."""
        return set(self._asked.transports)

    def receipt(self, index: int, prompt: int, engines: Sequence[Sequence[Taken]]) -> Receipt:
        """The receipt of one of its answers.

        Args:
            index: Which.
            prompt: Tokens of the prompt.
            engines: What each worker of each replica has seen of it alone.

        Raises:
            ReceiptError: If it was not changed as it was asked to be.
        """
        workers = that_ran(engines)
        (seen,), names = together(workers)
        new, context = self._decoded[index], self._asked.prompt_length
        sites = settle(
            self._column,
            seen,
            transports=names,
            prompt=prompt,
            new=new,
            place=f"choice {index}",
            context=context,
        )
        maps = {name: self._maps[name] for name in self.transports}
        check_maps_intact(workers, map_sums(maps))
        found = decoded_receipt(self._column, sites, prompt=prompt, new=new, context=context)
        decided = self.parameters.extra_args.get(DECIDED_ARGUMENT)
        if decided is None:
            return found
        asked = self._bound(RequestModulation.read(decided["asked"]).column)
        similarities = {
            one.condition: decided["similarities"][one.name]
            for one in asked.effective.changes
            if one.condition is not None
        }
        return Receipt.of_decided(asked, found, similarities)


class ServedAnswers:
    """The answers of an engine that are under way.

    Args:
        core: The client of the engine's core, or of several replicas of it.
        maps: Maps that requests may ask for, by name; they may come and go.
        conditions: Conditions that requests may ask for, by name.

    Attributes:
        open: Numbers of the requests whose answers are under way.

    Raises:
        ImportError: If this release of vLLM calls its workers otherwise.
    """

    def __init__(
        self,
        core: Any,
        maps: Mapping[str, ActivationMaps],
        conditions: Mapping[str, Condition] | None = None,
    ) -> None:
        for name in ("core_engines", "_call_utility_async"):
            if not hasattr(core, name):
                raise changed_interface(f"{type(core).__name__}.{name}")
        self._core, self._maps, self._conditions = core, maps, conditions or {}
        self.open: set[str] = set()
        self._waiting: dict[str, tuple[set[str], asyncio.Future[list[list[Taken]]]]] = {}
        self._forgotten: list[str] = []
        self._fetching: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, engine: Any) -> ServedAnswers:
        """Those of an `AsyncLLM`, which nothing here holds: it ends when it is let go."""
        admission = engine.input_processor.aim_admission
        if admission.answers is None:
            admission.answers = cls(engine.engine_core, admission.maps, admission.conditions)
        return admission.answers

    async def answers(self, run: Any, parameters: Any) -> AsyncGenerator[Any, None]:
        """The outputs of a request, with the receipts of its answers.

        Args:
            run: Makes the outputs of the request from its parameters.
            parameters: Sampling parameters that ask for changes.

        Yields:
            vLLM's outputs; each finished one has its receipt as the attribute `RECEIPT`.

        Raises:
            GenerationError: If an answer was not changed as it was asked to be.
        """
        from vllm.exceptions import GracefulHTTPError, VLLMClientError

        request = ServedRequest(parameters, self._maps, self._conditions)
        self.open.add(request.number)
        try:
            outputs = run(sampling_params=request.parameters)
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    finished, prompt = request.finished(output), len(output.prompt_token_ids)
                    await asyncio.gather(*(self._give(request, one, prompt) for one in finished))
                    yield output
        except (VLLMClientError, GracefulHTTPError):  # not admitted, and so unknown to workers
            request.left.clear()
            raise
        finally:
            self.open.discard(request.number)
            if request.left:
                self._forgotten += request.left
                self._fetch()

    async def _give(self, request: ServedRequest, output: Any, prompt: int) -> None:
        """Gives an answer its receipt, or refuses it."""
        from vllm.exceptions import GenerationError

        number = request.answer(output.index)
        request.left.discard(number)
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = (request.transports, future)
        self._fetch()
        engines = await future
        try:
            receipt = request.receipt(output.index, prompt, engines)
        except ReceiptError as error:
            _log.error("an answer is refused: %s", error)
            raise GenerationError(str(error)) from error
        setattr(output, RECEIPT, receipt.to_json())

    def _fetch(self) -> None:
        """Sees to it that what is waited for is fetched."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.get_running_loop().create_task(self._fetch_all())

    async def _fetch_all(self) -> None:
        """Fetches what is waited for, in one call for all that have come during the last one."""
        from vllm.exceptions import GenerationError
        from vllm.v1.engine.exceptions import EngineDeadError

        while self._waiting or self._forgotten:
            waiting, self._waiting = self._waiting, {}
            forgotten, self._forgotten = self._forgotten, []
            names = sorted(set().union(*(own for own, _ in waiting.values())))
            try:
                engines = await self._call(list(waiting), forgotten, names)
            except Exception as error:
                reason = f"what workers saw of the answer could not be fetched: {error}"
                known = isinstance(error, EngineDeadError)
                _log.error(reason)
                for _, future in waiting.values():
                    if not future.done():
                        future.set_exception(error if known else GenerationError(reason))
                continue
            for place, (_, future) in enumerate(waiting.values()):
                if not future.done():
                    future.set_result(
                        [
                            [([own[place]], at, sums) for own, at, sums in workers]
                            for workers in engines
                        ]
                    )

    async def _call(self, *asked: Any) -> list[list[Taken]]:
        """Asks all workers of all replicas, as nothing says which of them has run a request."""
        call = functools.partial(self._core._call_utility_async, "collective_rpc")
        return await asyncio.gather(
            *(
                call("aim_take_answers", None, asked, None, engine=engine)
                for engine in self._core.core_engines
            )
        )
