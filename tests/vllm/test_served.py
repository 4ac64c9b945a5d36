"""How what workers saw of answers comes to the server that waits for it, without an engine."""

from __future__ import annotations

import asyncio
import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.exceptions import GenerationError, VLLMValidationError
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.parallel_sampling import ParentRequest

from aim_plugins.engines.vllm.probes import decide_requests
from aim_plugins.engines.vllm.responses import Receipts
from aim_plugins.engines.vllm.served import RECEIPT, ServedAnswers, watch_answers

PROMPT = [5, 6, 7]
NEW = 2
SEEN = (0, len(PROMPT) + NEW - 1, NEW, True, [])
"""What a worker sees of such an answer to a request for noise."""


class Core:
    """The client of an engine's core, or of several replicas, which answers when it is told to.

    Args:
        *replicas: What each has seen of an answer, a list where its workers differ.
    """

    def __init__(self, *replicas: Any) -> None:
        self.core_engines = list(range(len(replicas)))
        self._replicas = replicas
        self.asked: list[tuple[list[str], list[str]]] = []
        self.let = asyncio.Event()

    async def _call_utility_async(self, *call: Any, engine: int) -> Any:
        kind, method, _, (numbers, forgotten, _), _ = call
        assert (kind, method) == ("collective_rpc", "aim_take_answers")
        if engine == 0:
            self.asked.append((numbers, forgotten))
        await self.let.wait()
        seen = self._replicas[engine]
        if isinstance(seen, Exception):
            raise seen
        workers = seen if isinstance(seen, list) else [seen]
        return [[[one for _ in numbers], [], {}] for one in workers]


def parameters(**options: Any) -> SamplingParams:
    return SamplingParams(
        extra_args={"aim_std": 0.5}, output_kind=RequestOutputKind.FINAL_ONLY, **options
    )


async def run(sampling_params: SamplingParams, closed: list[str] | None = None) -> Any:
    """An engine's outputs: a first token of each answer, and the last."""
    delta = sampling_params.output_kind == RequestOutputKind.DELTA
    try:
        for reason in (None, "length"):
            tokens = [8] * (1 if delta or reason is None else NEW)
            choices = [
                CompletionOutput(index, "a", tokens, None, None, finish_reason=reason)
                for index in range(sampling_params.n)
            ]
            yield RequestOutput("r", None, PROMPT, None, choices, reason is not None)
    finally:
        if closed is not None:
            closed.append("closed")


async def last_of(answers: Any) -> list[CompletionOutput]:
    return [output async for output in answers][-1].outputs


@pytest.mark.parametrize("kind", RequestOutputKind)
def test_every_answer_has_its_receipt_however_it_is_handed_out(kind: RequestOutputKind) -> None:
    async def ask() -> None:
        core = Core(SEEN)
        core.let.set()
        asked = parameters(n=2)
        asked.output_kind = kind
        for one in await last_of(ServedAnswers(core, {}).answers(run, asked)):
            (change,) = getattr(one, RECEIPT)["changes"]
            assert change == {"kind": "noise", "strength": 0.5, "sites": 1, "tokens": NEW}
        assert asked.extra_args == {"aim_std": 0.5}
        assert [len(numbers) for numbers, _ in core.asked] == [2]

    asyncio.run(ask())


def test_what_comes_during_a_call_is_fetched_by_the_next_one() -> None:
    async def ask() -> None:
        core = Core(SEEN)
        answers = ServedAnswers(core, {})
        first = asyncio.ensure_future(last_of(answers.answers(run, parameters())))
        while not core.asked:
            await asyncio.sleep(0)
        others = [
            asyncio.ensure_future(last_of(answers.answers(run, parameters()))) for _ in range(20)
        ]
        while len(answers._waiting) < 20:
            await asyncio.sleep(0)
        core.let.set()
        await asyncio.gather(first, *others)
        assert [len(numbers) for numbers, _ in core.asked] == [1, 20]
        assert not answers.open and not answers._waiting

    asyncio.run(ask())


@pytest.mark.parametrize("seen_by", [0, 1])
def test_any_replica_may_have_run_a_request(seen_by: int) -> None:
    async def ask() -> None:
        core = Core(*(SEEN if place == seen_by else None for place in range(2)))
        core.let.set()
        (one,) = await last_of(ServedAnswers(core, {}).answers(run, parameters()))
        assert getattr(one, RECEIPT)["changes"]

    asyncio.run(ask())


def test_an_answer_that_two_replicas_ran_is_refused() -> None:
    async def ask() -> None:
        core = Core(SEEN, SEEN)
        core.let.set()
        with pytest.raises(GenerationError, match="2 replicas of the engine have run one answer"):
            await last_of(ServedAnswers(core, {}).answers(run, parameters()))

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (None, "choice 0: asked for noise 0.5, and a worker has not seen the request"),
        ([SEEN, None], "a worker has not seen the request"),
        ((0, 4, 1, True, []), "changed at 1 of 2 steps"),
        ((0, 3, 2, True, []), "3 of its 4 tokens were computed"),
        ((0, 4, 2, False, []), "its logits are what they were"),
        (RuntimeError("no such method"), "could not be fetched: no such method"),
    ],
)
def test_an_answer_of_which_too_little_was_seen_is_refused(seen: Any, reason: str) -> None:
    async def ask() -> None:
        core, closed = Core(seen), []
        core.let.set()
        answers = ServedAnswers(core, {})
        with pytest.raises(GenerationError, match=reason):
            await last_of(answers.answers(lambda **how: run(**how, closed=closed), parameters()))
        assert closed and not answers.open and not answers._waiting

    asyncio.run(ask())


def test_a_dead_engine_is_what_vllm_says_it_is() -> None:
    async def ask() -> None:
        core = Core(EngineDeadError())
        core.let.set()
        with pytest.raises(EngineDeadError):
            await last_of(ServedAnswers(core, {}).answers(run, parameters()))

    asyncio.run(ask())


@pytest.mark.parametrize("given_up", ["while it is decoded", "while its receipt is fetched"])
def test_of_a_request_that_is_given_up_nothing_is_kept(given_up: str) -> None:
    async def ask() -> None:
        core, closed = Core(SEEN), []
        answers = ServedAnswers(core, {})
        outputs = answers.answers(lambda **how: run(**how, closed=closed), parameters(n=2))
        await anext(outputs)
        (number,) = answers.open
        if given_up == "while it is decoded":
            await outputs.aclose()
        else:
            waiting = asyncio.ensure_future(anext(outputs))
            while not core.asked:
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert closed and not answers.open
        core.let.set()
        while answers._fetching and not answers._fetching.done():
            await asyncio.sleep(0)
        taken = {name for numbers, forgotten in core.asked for name in (*numbers, *forgotten)}
        assert taken == {f"0_{number}", f"1_{number}"}
        assert not answers._waiting and not answers._forgotten

    asyncio.run(ask())


def test_of_a_request_that_is_not_admitted_workers_hear_nothing() -> None:
    async def refused(sampling_params: SamplingParams) -> Any:
        raise VLLMValidationError("aim_std=-1 is negative")
        yield

    async def ask() -> None:
        core = Core(SEEN)
        answers = ServedAnswers(core, {})
        with pytest.raises(VLLMValidationError, match="is negative"):
            await last_of(answers.answers(refused, parameters()))
        assert not answers.open and answers._fetching is None

    asyncio.run(ask())


def test_an_answer_without_a_token_asks_for_no_receipt() -> None:
    async def aborted(sampling_params: SamplingParams) -> Any:
        choice = CompletionOutput(0, "", [], None, None, finish_reason="abort")
        yield RequestOutput("r", None, PROMPT, None, [choice], True)

    async def ask() -> None:
        core = Core(SEEN)
        (one,) = await last_of(ServedAnswers(core, {}).answers(aborted, parameters()))
        assert not hasattr(one, RECEIPT)

    asyncio.run(ask())


def test_plain_requests_go_vllms_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    own, asked = object(), []
    monkeypatch.setattr(AsyncLLM, "generate", lambda *given, **options: asked.append(given) or own)
    monkeypatch.setattr(ParentRequest, "get_child_info", ParentRequest.get_child_info)
    watch_answers()
    plain = SamplingParams(extra_args={"other": 1})
    assert AsyncLLM.generate(None, PROMPT, plain, "r") is own  # type: ignore[arg-type]
    assert asked == [(None, PROMPT, plain, "r")]
    named = SamplingParams(extra_args={"_aim_answer": "1"})
    with pytest.raises(VLLMValidationError, match="_aim_answer='1' is no argument"):
        AsyncLLM.generate(None, PROMPT, named, "r")  # type: ignore[arg-type]


def test_answers_are_watched_within_what_decides_conditions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As it is without the plugin, which may be loaded.
    monkeypatch.setattr(AsyncLLM, "generate", inspect.unwrap(AsyncLLM.generate))
    monkeypatch.setattr(ParentRequest, "get_child_info", ParentRequest.get_child_info)
    decide_requests()
    with pytest.raises(RuntimeError, match="watch_answers before decide_requests"):
        watch_answers()


def test_a_chunk_without_an_end_stays_as_it_is() -> None:
    async def chunks() -> Any:
        yield 'data: {"choices": [{"index": 0, "finish_reason": null}]}\n\n'
        receipts.note(SimpleNamespace(outputs=[SimpleNamespace(index=0, aim_receipt={"a": "é"})]))
        yield ": keep-alive\n\n"
        yield 'data: {"choices": [{"index": 1, "finish_reason": "stop"}]}\n\n'
        yield 'data: {"choices":[{"index":0,"finish_reason":"stop"}]}\n\n'
        yield "data: [DONE]\n\n"

    receipts = Receipts()

    async def read() -> list[str]:
        return [chunk async for chunk in receipts.given(chunks())]

    first, alive, other, ended, done = asyncio.run(read())
    assert first == 'data: {"choices": [{"index": 0, "finish_reason": null}]}\n\n'
    assert alive == ": keep-alive\n\n"
    assert other == 'data: {"choices": [{"index": 1, "finish_reason": "stop"}]}\n\n'
    assert ended == (
        'data: {"choices":[{"index":0,"finish_reason":"stop","aim_receipt":{"a":"é"}}]}\n\n'
    )
    assert done == "data: [DONE]\n\n"
