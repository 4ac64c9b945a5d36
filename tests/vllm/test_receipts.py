"""Receipts of the vLLM engine, and the faults by which they are refused.

Each test `test_caught_…` stands in the table of `docs/receipts.md` by its name. One engine serves
all: with a transport, a prefix cache, prefill in chunks and too few cache blocks for its requests.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from vllm import LLM, envs
from vllm.entrypoints.generate.generative_scoring.serving import GenerativeScoringRequest
from vllm.entrypoints.generate.structured_decisions.protocol import StructuredDecisionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.input_processor import InputProcessor

from aim_plugins.core.errors import ReceiptError
from aim_plugins.engines.engine import Prompts, ScoreRequest
from aim_plugins.engines.vllm import ChangesVLLMProcessor, VLLMEngine, llm_arguments, texts
from aim_plugins.engines.vllm.plugin import (
    refuse_lost_arguments,
    refuse_other_frontend,
    why_not,
)
from aim_plugins.engines.vllm.receipts import settle
from aim_plugins.engines.vllm.watching import AnswersSeen, looked_at
from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.gaussian import GaussianNoise
from aim_plugins.modulation.named_kinds import named_kind
from aim_plugins.modulation.receipts import Changed
from aim_plugins.modulation.windows import window_bounds
from aim_plugins.transport.change import Transport, read_transport

REQUESTS = [ScoreRequest([5, 6, 7, 8, 9], [10, 11]), ScoreRequest([5, 6], [12, 13, 14])]
SITES = 5
"""Norms of the small model's two layers, and its last layer."""


def prompts(*lengths: int) -> Prompts:
    generator = torch.Generator().manual_seed(0)
    width = max(lengths)
    rows = [torch.randint(3, 300, (length,), generator=generator).tolist() for length in lengths]
    return Prompts(
        torch.tensor([[0] * (width - len(row)) + row for row in rows]),
        torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    )


PROMPTS = prompts(5, 60, 100)


@pytest.fixture(scope="module")
def steering(small_checkpoint: Path, small_transport: Path):
    llm = LLM(
        str(small_checkpoint),
        dtype="float32",
        enforce_eager=True,
        max_model_len=160,
        max_num_seqs=24,
        max_num_batched_tokens=48,
        enable_prefix_caching=True,
        enable_chunked_prefill=True,
        block_size=32,
        kv_cache_memory_bytes=1 << 28,
        num_gpu_blocks_override=20,
        disable_log_stats=False,
        **llm_arguments(transports={"": small_transport}),
    )
    yield VLLMEngine(llm)
    llm.llm_engine.engine_core.shutdown()


@pytest.fixture(scope="module")
def columns(small_transport: Path) -> tuple[Column, ...]:
    learned, _ = read_transport(str(small_transport))
    return columns_of(noise_std=[0, 0.5], strength=[0, 0.7], transport=learned)


def decode(steering: VLLMEngine, columns, asked: Prompts = PROMPTS, new: int = 6):
    return steering.generate(asked, columns, max_length=asked.token_ids.shape[1] + new)


def score(steering: VLLMEngine, columns):
    return steering.score(REQUESTS, columns, progress=False)


def refused(reason: str):
    return pytest.raises(ReceiptError, match=reason)


def runner_of(steering: VLLMEngine):
    return steering.llm.collective_rpc(lambda worker: worker.model_runner)[0]


def preemptions(steering: VLLMEngine) -> int:
    metrics = steering.llm.get_metrics()
    return next(one.value for one in metrics if one.name == "vllm:num_preemptions")


def test_texts_say_what_was_changed_through_chunks_caches_and_preemption(steering, columns):
    before = preemptions(steering)
    for row, prompt in zip(decode(steering, columns, new=30), (5, 60, 100), strict=True):
        for answer, column in zip(row, columns, strict=True):
            noisy = Changed("noise", 0.5, 1, len(answer))
            moved = Changed("transport", 0.7, SITES, prompt + len(answer) - 1)
            wanted = {"noise": noisy, "transport": moved}
            names = [one.name for one in column.effective.changes]
            assert answer.receipt.changes == tuple(wanted[name] for name in names)
            assert answer.receipt.modulation == column.fingerprint
    assert preemptions(steering) > before


def test_scores_say_what_was_changed(steering, columns):
    for row, request in zip(score(steering, columns), REQUESTS, strict=True):
        scored = len(request.continuation)
        read = len(request.context) + scored - 1
        noisy, moved = Changed("noise", 0.5, 1, scored), Changed("transport", 0.7, SITES, read)
        found = [one.changes for one in row.receipts]
        assert found == [(), (noisy,), (moved,), (noisy, moved)]


@pytest.mark.parametrize("run", [score, decode])
def test_caught_hook_of_a_worker_removed(steering, columns, run):
    (module,) = [one for one in runner_of(steering).get_model().modules() if hooked(one)][:1]
    hooks = dict(module._forward_hooks)
    del module._forward_hooks[module.aim_moved_by]
    module.register_forward_hook(lambda *_: None)  # somebody else's
    try:
        with refused("model.layers.0.input_layernorm of the worker move activations no longer"):
            run(steering, columns[2:])
    finally:
        module._forward_hooks.update(hooks)


def hooked(module) -> bool:
    return hasattr(module, "aim_slope_0")


def test_caught_maps_of_a_worker_zeroed(steering, columns):
    (module,) = [one for one in runner_of(steering).get_model().modules() if hooked(one)][:1]
    kept = module.aim_slope_0.clone()
    module.aim_slope_0.zero_()
    try:
        with refused("model.layers.0.input_layernorm of the worker move activations no longer"):
            decode(steering, columns[2:])
    finally:
        module.aim_slope_0.copy_(kept)


@pytest.mark.parametrize("run", [score, decode])
def test_caught_strengths_of_a_worker_zeroed(steering, columns, run, monkeypatch):
    maps = runner_of(steering).aim_maps
    own = maps.before_forward

    def zeroing(step):
        own(step)
        maps.strengths.zero_()

    monkeypatch.setattr(maps, "before_forward", zeroing)
    with refused("asked for .*transport 0.7, and the strength at its token 0 was 0 instead of 0.7"):
        run(steering, columns[2:])
    maps._written[:] = 0  # so that the next step writes


def test_caught_worker_without_the_transport(steering, columns, monkeypatch):
    runner = runner_of(steering)
    maps = runner.aim_maps
    monkeypatch.setattr(maps, "before_forward", lambda step: None)
    monkeypatch.delattr(runner, "aim_maps")
    with refused("transport 0.7, and the strengths at its tokens were never seen"):
        decode(steering, columns[2:])


def test_caught_request_without_its_modulation(steering, columns, monkeypatch):
    monkeypatch.setattr(steering, "_check_columns", lambda columns: None)
    monkeypatch.setattr(texts, "extra_args", lambda *_: {})
    with refused("row 1 of 3: asked for noise 0.5, changed at 0 of 6 steps"):
        decode(steering, columns[1:2])
    with refused("row 1 of 3: asked for transport 0.7, and the strength at its token 4 was 0"):
        decode(steering, columns[2:3])


def test_caught_logits_processor_that_does_not_run(steering, columns, monkeypatch):
    monkeypatch.setattr(ChangesVLLMProcessor, "apply", lambda self, logits, ctx=None: logits)
    with refused("row 1 of 3: asked for noise 0.5, changed at 0 of 6 steps"):
        decode(steering, columns[1:2])


def test_caught_logits_left_as_they_were(steering, columns, monkeypatch):
    monkeypatch.setattr(GaussianNoise, "modulate_rows", lambda logits, *_, **__: logits)
    with refused("row 1 of 3: asked for noise 0.5, and its logits are what they were"):
        decode(steering, columns[1:2])


def test_caught_request_that_no_worker_saw(steering, columns, monkeypatch):
    monkeypatch.setattr(AnswersSeen, "add_request", lambda *_: None)
    with refused("asked for noise 0.5, and a worker has not seen the request"):
        decode(steering, columns[1:2])


def test_caught_tokens_that_were_never_computed():
    noisy = Column((GaussianNoise(0.5),))
    with refused("row 3: asked for noise 0.5, and 7 of its 14 tokens were computed"):
        settle(noisy, (0, 7, 5, True, []), transports=(), prompt=10, new=5, place="row 3")


def two_transports(praise: float, sea: float, window: str = "all") -> Column:
    maps = ActivationMaps({"model.norm": AffineMap.everywhere(torch.ones(4), torch.ones(4))})
    kinds = [named_kind(Transport, name) for name in ("praise", "sea")]
    return Column(
        tuple(
            kind(strength, maps.fingerprint, maps, window=window)
            for kind, strength in zip(kinds, (praise, sea), strict=True)
        )
    )


def ends_of(column: Column) -> list[int]:
    """Positions that are looked at of a prompt of 6 tokens."""
    return looked_at([window_bounds(one.positions, 6) for one in column.changes], 6)


def settled(column: Column, *strengths: list[float]):
    """The verdict on an answer of 4 tokens to a prompt of 6."""
    seen = (0, 9, 0, True, list(strengths))
    return settle(column, seen, transports=("praise", "sea"), prompt=6, new=4, place="row 1")


def test_opposite_strengths_of_two_transports_are_no_fault():
    column = two_transports(1.0, -1.0)
    ends = [[position, 1.0, -1.0] for position in ends_of(column)]
    assert set(settled(column, *ends).values()) == {1}


def test_caught_strengths_of_two_transports_swapped():
    column = two_transports(0.5, 1.0)
    ends = [[position, 1.0, 0.5] for position in ends_of(column)]
    with refused("that of praise at its token 0 was 1 instead of 0.5"):
        settled(column, *ends)


@pytest.mark.parametrize(
    ("window", "within"),
    [("prompt", [0, 5]), ("generation", [6]), ("last", [5, 6]), ("2-7", [2, 5, 6, 7])],
)
def test_caught_strengths_zeroed_in_a_window(window, within):
    column = two_transports(0.5, 1.0, window)
    ends = ends_of(column)
    inside = [one for one in ends if one in within]
    assert inside == within
    kept = [[one, *((0.5, 1.0) if one in within else (0.0, 0.0))] for one in ends]
    assert len(settled(column, *kept)) == 2
    with refused(f"that of praise at its token {within[0]} was 0 instead of 0.5"):
        settled(column, *[[one, 0.0, 0.0] for one in ends])
    with refused("the strengths at its tokens were never seen"):
        settled(column, *[row for row in kept if row[0] != within[-1]])


def test_caught_plugin_left_out(steering, monkeypatch):
    """Without it requests of different strengths would share cached keys and values."""
    own = InputProcessor.__init__.__wrapped__
    monkeypatch.setattr(InputProcessor, "__init__", own)
    with pytest.raises(ValueError, match="has not loaded the plugin.*VLLM_PLUGINS"):
        VLLMEngine(steering.llm)


def test_caught_worker_extension_left_out(steering, monkeypatch):
    parallel = steering.llm.llm_engine.vllm_config.parallel_config
    monkeypatch.setattr(parallel, "worker_extension_cls", "")
    with pytest.raises(ValueError, match="made without the worker extension"):
        VLLMEngine(steering.llm)


def test_caught_strengths_of_a_plain_row():
    kept = [[0, 0.0, 0.0], [5, 0.0, 0.0]]
    assert settled(Column(), *kept) == {}
    with refused("asked for the plain model, and that of sea at its token 5 was 0.5 instead of 0"):
        settled(Column(), *kept, [5, 0.0, 0.5])


def test_caught_frontend_that_asks_for_no_receipts(monkeypatch):
    refuse_other_frontend()
    monkeypatch.setattr(envs, "VLLM_USE_RUST_FRONTEND", True)
    with pytest.raises(ValueError, match="VLLM_USE_RUST_FRONTEND=1 takes requests past"):
        refuse_other_frontend()


def test_caught_draft_model():
    config = SimpleNamespace(speculative_config=object(), model_config=SimpleNamespace())
    assert "modulation would be silently off" in str(why_not(config))


LOST = {"vllm_xargs": {"aim_std": 0.5}}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (SimpleNamespace(model_extra={"aim_std": 0.5}), "aim_std=0.5 stands at the top"),
        (SimpleNamespace(**LOST, use_beam_search=True), "leaves aim_std=0.5 out"),
        (
            GenerativeScoringRequest(query="a", items=["b"], label_token_ids=[5], **LOST),
            "aim_std=0.5 would be left out, as this endpoint",
        ),
        (
            StructuredDecisionRequest(state="a", questions={}, **LOST),
            "aim_std=0.5 would be left out, as this endpoint",
        ),
    ],
)
def test_caught_body_whose_modulation_would_be_lost(body, reason):
    with pytest.raises(VLLMValidationError, match=reason):
        refuse_lost_arguments(body)


def test_bodies_that_hold_their_modulation_are_taken():
    refuse_lost_arguments(CompletionRequest(prompt="a", **LOST))
    refuse_lost_arguments(StructuredDecisionRequest(state="a", questions={}, vllm_xargs={"b": 1}))
