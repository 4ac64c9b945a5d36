"""What workers keep of prompts for conditions, and how an asynchronous engine waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm import SamplingParams
from vllm.exceptions import GenerationError, VLLMValidationError

from aim_plugins.core.errors import ReceiptError
from aim_plugins.engines.vllm import llm_arguments, probes
from aim_plugins.engines.vllm.conditions import (
    check_watched,
    configured_conditions,
    states_of,
    watched_widths,
)
from aim_plugins.engines.vllm.steps import Step
from aim_plugins.engines.vllm.worker_states import SLOT_ARGUMENT, SLOTS, WatchedStates
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.conditions import Condition
from aim_plugins.transport.conditions.artifact import ConditionMetadata, LearnedCondition

WIDTH = 5
TOKENS = 24
"""Tokens of the largest step."""


class Layer(torch.nn.Module):
    """A decoder layer of vLLM, which hands on its output as two summands."""

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return states / 4, 3 * states / 4


class Model(torch.nn.Module):
    """Twice the states behind the layer and once behind the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([Layer()])
        self.norm = torch.nn.Identity()

    def forward(self, states: torch.Tensor) -> None:
        self.layers[0](2 * states)
        self.norm(states)


WATCHED = [("layers.0", "mean"), ("norm", "last"), ("norm", "mean")]


@pytest.fixture()
def runner() -> SimpleNamespace:
    model = Model()
    return SimpleNamespace(
        vllm_config=SimpleNamespace(
            additional_config={}, model_config=SimpleNamespace(enforce_eager=True)
        ),
        max_num_tokens=TOKENS,
        device=torch.device("cpu"),
        get_model=lambda: model,
    )


class Prompts:
    """Prompts of random states that are computed in steps.

    Args:
        runner: The runner.
        lengths: Tokens of each; the prompt called "k" has slot k.
    """

    def __init__(self, runner: SimpleNamespace, lengths: list[int]) -> None:
        self.model = runner.get_model()
        self.watch = WatchedStates(runner, {"layers.0": WIDTH, "norm": WIDTH})
        generator = torch.Generator().manual_seed(0)
        self.states = [torch.randn(n, WIDTH, generator=generator) for n in lengths]
        for slot in range(len(lengths)):
            self.add(slot)

    def add(self, slot: int, *length: int) -> None:
        prompt = [0] * len(self.states[slot])
        self.watch.add_request(str(slot), {SLOT_ARGUMENT: [slot, *length]}, prompt)

    def run(self, spans: dict[int, tuple[int, int]], others: torch.Tensor | None = None) -> None:
        """One step of some tokens of each prompt, behind others, and with one that pads it."""
        others = torch.zeros(0, WIDTH) if others is None else others
        parts = [others, *(self.states[slot][first:stop] for slot, (first, stop) in spans.items())]
        rows = np.cumsum([0, *map(len, parts)])
        names, firsts = ["other", *map(str, spans)], [0, *(first for first, _ in spans.values())]
        self.watch.before_forward(Step(names, rows, np.array(firsts)))
        self.model(torch.cat([*parts, torch.full((1, WIDTH), torch.nan)]))

    def result(self, slots: list[int]) -> list[Any]:
        return self.watch.states(slots, WATCHED)

    def expected(self, slot: int, length: int | None = None) -> list[list[float]]:
        states = self.states[slot][:length]
        found = [2 * states.mean(dim=0), states[-1], states.mean(dim=0)]
        return [pytest.approx(one.tolist(), abs=1e-6) for one in found]


def test_states_are_those_of_the_whole_prompt_however_its_steps_are_cut(runner) -> None:
    generator = np.random.default_rng(0)
    prompts = Prompts(runner, [1, 2, 7, 16, 30])
    done = dict.fromkeys(range(5), 0)
    while any(done[slot] < len(states) for slot, states in enumerate(prompts.states)):
        spans = {}
        for slot in generator.permutation(5).tolist():
            if generator.random() < 0.2:  # a preemption
                done[slot] = 0
            left = len(prompts.states[slot]) - done[slot]
            if left and (count := int(generator.integers(0, min(left, 4) + 1))):
                spans[slot] = (done[slot], done[slot] + count)
                done[slot] += count
        prompts.run(spans, torch.full((2, WIDTH), torch.inf))
    assert prompts.result([*range(5)]) == [prompts.expected(slot) for slot in range(5)]


def test_tokens_behind_those_that_count_as_the_prompt_are_left_out(runner) -> None:
    prompts = Prompts(runner, [9])
    prompts.add(0, 4)
    prompts.run({0: (0, 3)})
    prompts.run({0: (3, 9)})
    assert prompts.result([0]) == [prompts.expected(0, 4)]


def test_a_slot_is_of_whoever_took_it_last(runner) -> None:
    prompts = Prompts(runner, [6, 3])
    prompts.run({0: (0, 4)})
    prompts.watch.add_request("1", {SLOT_ARGUMENT: [0]}, [0] * 3)
    prompts.run({0: (4, 6), 1: (0, 3)})  # the former was cancelled, and has a step left
    assert prompts.result([0]) == [prompts.expected(1)]


def test_a_prompt_that_was_not_whole_has_no_state(runner) -> None:
    prompts = Prompts(runner, [6, 4, 2])
    prompts.run({0: (2, 6), 1: (0, 3)})
    prompts.states[2][0, 0] = torch.inf
    prompts.run({2: (0, 2)})
    first, second, third = prompts.result([0, 1, 2])
    assert "of the 6 tokens of a prompt that count, 4 had finite states at 'layers.0'" in first
    assert "of the 4" in second and "of the 2" in third
    with pytest.raises(ReceiptError, match="could not be decided: of the 6 tokens"):
        states_of([[first]])


def test_a_step_without_a_slot_is_not_looked_at(runner) -> None:
    prompts = Prompts(runner, [3])
    prompts.run({0: (0, 3)})
    prompts.watch.remove_request("0")
    prompts.run({})  # clears what the step before wrote
    assert not prompts.watch.summed.any()
    prompts.watch.before_forward(None)  # type: ignore[arg-type]
    assert prompts.result([0]) == [prompts.expected(0)]


def test_a_removed_hook_is_found(runner) -> None:
    prompts = Prompts(runner, [3])
    runner.get_model().norm._forward_hooks.clear()
    prompts.run({0: (0, 3)})
    assert "of the 1 tokens of a prompt that count, 0 had" in prompts.result([0])[0]


def test_sites_of_another_width_or_name_are_refused(runner) -> None:
    with pytest.raises(ValueError, match=r"looks at 'nrom'.*nearest: 'norm'"):
        WatchedStates(runner, {"nrom": WIDTH})
    watch = WatchedStates(runner, {"norm": WIDTH + 1})
    watch.add_request("a", {SLOT_ARGUMENT: [0]}, [0])
    watch.before_forward(Step(["a"], np.array([0, 1]), np.array([0])))
    with pytest.raises(ValueError, match=r"'norm' has \[5\] neurons on this worker"):
        runner.get_model()(torch.zeros(1, WIDTH))


# Requests ---------------------------------------------------------------------------------------


class PretendedEngine:
    """An asynchronous engine whose probes end when they are let, with a state for each slot."""

    def __init__(self, conditions: dict[str, Condition]) -> None:
        self.input_processor = SimpleNamespace(
            aim_admission=SimpleNamespace(conditions=conditions, probes=None),
            validate_logits_processors_params=lambda parameters: self.checked.append(parameters),
        )
        self.checked: list[Any] = []
        self.asked: list[tuple[Any, Any, str, dict]] = []
        self.rpc: list[Any] = []
        self.state: Any = [[1.0, 0.0]]
        self.go = asyncio.Event()
        self.go.set()

    async def ask(self, prompt: Any, sampling_params: Any, request_id: str, **options: Any) -> Any:
        self.asked.append((prompt, sampling_params, request_id, options))
        if request_id.endswith("-probe"):
            await self.go.wait()
        yield request_id

    def answers(self, prompt: Any, given: dict, name: str = "r", **options: Any) -> Any:
        """What a request with these arguments yields."""
        asked = SamplingParams(max_tokens=7, extra_args=given)
        own = probes.Probes.of(self)
        return own.answers(self, self.ask, prompt, asked, name, **options)

    async def collective_rpc(self, method: str, args: tuple) -> list[Any]:
        self.rpc.append((method, *args))
        return [[self.state], [self.state]]


@pytest.fixture()
def harmful() -> Condition:
    return Condition("norm", torch.tensor([1.0, 0.0]), 0.5)


@pytest.fixture()
def engine(harmful) -> PretendedEngine:
    return PretendedEngine({"harmful": harmful})


def answer(engine: PretendedEngine, given: dict, prompt: Any = (5, 6), **options: Any) -> list[str]:
    async def run() -> list[str]:
        return [one async for one in engine.answers(prompt, given, **options)]

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "state", "left"),
    [
        ("harmful", [1.0, 0.0], {"aim_strength_sea": 1.0, "aim_window_sea": "last"}),
        ("not harmful", [1.0, 0.0], {}),
        ("harmful", [0.0, 1.0], {}),
        ("harmful<0.2", [0.0, 1.0], {"aim_strength_sea": 1.0, "aim_window_sea": "last"}),
    ],
)
def test_a_request_goes_on_as_one_without_a_condition(engine, text, state, left) -> None:
    engine.state = [state]
    given = {"aim_strength_sea": 1, "aim_window_sea": "last", "aim_condition_sea": text}
    others = {"aim_std": 0.5, "aim_prompt_length": 2, "own": "kept"}
    names = answer(engine, given | others, lora_request="adapter", trace_headers={"a": "b"})
    assert names == ["r"]
    (_, probe, _, shared), (prompt, decided, _, options) = engine.asked
    assert probe.extra_args == {SLOT_ARGUMENT: [0, 2]}
    assert (probe.max_tokens, probe.skip_reading_prefix_cache) == (1, True)
    assert shared == {"lora_request": "adapter"}
    assert (prompt, options["trace_headers"], decided.max_tokens) == ((5, 6), {"a": "b"}, 7)
    told = decided.extra_args.pop("_aim_decided")
    assert told["asked"] == given | others
    # cos(h, tanh(h)) of one axis is 1
    assert told["similarities"] == {"transport_sea": pytest.approx(state[0])}
    assert decided.extra_args == others | left
    assert engine.rpc == [("aim_states", [0], [("norm", "mean")])]


def test_nothing_is_computed_for_a_strength_that_changes_nothing(engine) -> None:
    assert answer(engine, {"aim_strength": 0, "aim_condition": "harmful"}) == ["r"]
    assert [name for _, _, name, _ in engine.asked] == ["r"]


def test_a_state_that_was_not_seen_is_refused_and_its_slot_freed(engine) -> None:
    engine.state = "of the 2 tokens of a prompt that count, 0 had finite states at 'norm'"
    asked = {"aim_strength": 1, "aim_condition": "harmful"}

    async def run() -> None:
        for _ in range(SLOTS + 1):
            with pytest.raises(GenerationError, match="could not be decided"):
                await anext(engine.answers([5], asked))

    asyncio.run(run())
    assert not any(name == "r" for _, _, name, _ in engine.asked)


def test_a_request_that_is_cancelled_frees_its_slot(engine) -> None:
    given = {"aim_strength": 1, "aim_condition": "harmful"}

    async def run() -> None:
        engine.go.clear()

        async def one(name: str) -> list[str]:
            return [out async for out in engine.answers([5], given, name)]

        tasks = [asyncio.create_task(one(str(number))) for number in range(SLOTS + 3)]
        while len(engine.asked) < SLOTS:
            await asyncio.sleep(0)
        assert len(engine.asked) == SLOTS  # the others wait for a slot
        for task in tasks[:SLOTS]:
            task.cancel()
        engine.go.set()
        assert await asyncio.gather(*tasks[SLOTS:]) == [[str(SLOTS + n)] for n in range(3)]
        for task in tasks[:SLOTS]:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(run())


def streamed() -> Any:
    async def chunks() -> Any:
        yield [5]

    return chunks()


@pytest.mark.parametrize(
    ("given", "prompt", "reason"),
    [
        ({"aim_strength": 1, "aim_condition": "harmfull"}, list, "did you mean 'harmful'"),
        ({"aim_strength": 1, "aim_condition": "harmful>2"}, list, "is no cosine"),
        ({"aim_strength": 1, "aim_condition": "harmful"}, streamed, "this one streams in"),
        ({"_aim_decided": {}}, list, "_aim_decided={} is no argument of a request"),
    ],
)
def test_what_cannot_be_decided_is_refused(
    engine, given: dict, prompt: Callable[[], Any], reason: str
) -> None:
    with pytest.raises(VLLMValidationError, match=reason):
        answer(engine, given, prompt())
    assert not engine.asked


# Configuration ----------------------------------------------------------------------------------


def configuration(entries: dict, **parallel: int) -> SimpleNamespace:
    one = {
        "pipeline_parallel_size": 1,
        "prefill_context_parallel_size": 1,
        "data_parallel_size": 1,
        "_api_process_count": 1,
        "use_ubatching": False,
    }
    return SimpleNamespace(
        additional_config=entries,
        speculative_config=None,
        parallel_config=SimpleNamespace(**one | parallel),
        cache_config=SimpleNamespace(kv_sharing_fast_prefill=False),
    )


def test_conditions_are_read_with_what_they_look_at(harmful, tmp_path) -> None:
    metadata = ConditionMetadata("cast", ["norm"], threshold=0.5)
    folder = LearnedCondition(harmful, metadata).save(tmp_path)
    config = configuration({"aim_conditions": {"harmful": str(folder)}, "aim_watched": {"a": 3}})
    found = configured_conditions(config)
    assert found["harmful"] == harmful
    widths = watched_widths(config, found)
    assert widths == {"norm": 2, "a": 3}
    check_watched([harmful], widths)
    with pytest.raises(ValueError, match="does not look at 2 neurons of 'norm'"):
        check_watched([harmful], {"norm": 3})


@pytest.mark.parametrize(
    ("watched", "names", "reason"),
    [
        ({}, ["a", "b"], "'a' looks at 2 neurons of 'norm' and 'b' at 3"),
        ({"norm": 3}, ["a"], "'aim_watched' looks at 3 neurons of 'norm' and 'a' at 2"),
    ],
)
def test_conditions_that_look_at_one_site_otherwise_are_refused(
    harmful, watched: dict, names: list[str], reason: str
) -> None:
    both = {"a": harmful, "b": replace(harmful, direction=torch.ones(3))}
    with pytest.raises(ValueError, match=reason):
        watched_widths(
            configuration({"aim_watched": watched}), {name: both[name] for name in names}
        )


def test_an_engine_for_columns_looks_where_their_conditions_do(
    small_checkpoint, small_transport, small_condition, condition_of_another_model
) -> None:
    def arguments(condition: Any) -> dict:
        named = {"transport": str(small_transport), "condition": str(condition)}
        return llm_arguments(str(small_checkpoint), columns_of(strength=1.0, **named))

    entries = arguments(f"not {small_condition.folder}")["additional_config"]
    assert entries["aim_watched"] == {"model.layers.0": 128}
    with pytest.raises(ValueError, match="the condition was learned on another model"):
        arguments(condition_of_another_model)


@pytest.mark.parametrize(
    ("parallel", "reason"),
    [
        ({"data_parallel_size": 2}, "one engine behind one API server"),
        ({"_api_process_count": 2}, "one engine behind one API server"),
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size=2"),
    ],
)
@pytest.mark.parametrize("entry", [{"aim_conditions": {"a": "DIR"}}, {"aim_watched": {"a": 3}}])
def test_engines_that_decide_no_conditions_say_why(entry, parallel, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        config = configuration(entry, **parallel)
        watched_widths(config, configured_conditions(config))


@pytest.mark.parametrize(
    ("named", "reason"), [("DIR", "names no folders"), ({"": "DIR"}, "'' is no name")]
)
def test_conditions_that_are_named_wrongly_are_refused(named: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        configured_conditions(configuration({"aim_conditions": named}))
