"""Activation transport in vLLM against the Hugging Face engine, and what it refuses."""

from __future__ import annotations

import asyncio
import inspect
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm import LLM, SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.platforms.cpu import CpuPlatform
from vllm.v1.engine.async_llm import AsyncLLM

from aim_plugins.core.errors import ReceiptError
from aim_plugins.engines.engine import Prompts, ScoreRequest
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.engines.vllm import VLLMEngine, llm_arguments, worker_maps, worker_states
from aim_plugins.engines.vllm.parameters import RequestModulation
from aim_plugins.engines.vllm.plugin import _Admission
from aim_plugins.engines.vllm.steps import Step
from aim_plugins.engines.vllm.tables import RequestTable
from aim_plugins.engines.vllm.transports import cache_salt, check_maps, configured_folders, why_not
from aim_plugins.engines.vllm.worker_maps import token_strengths
from aim_plugins.engines.vllm.worker_states import SLOTS
from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.conditions import Condition
from aim_plugins.modulation.hooks import choose_sites
from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata
from aim_plugins.transport.change import Transport

WINDOW = 160
STRENGTHS = (0.0, 0.5, 1.0)
MODULES = [r".*layernorm", r".*\.mlp", r".*o_proj", r"model\.layers\.1"]
WATCHED = ("model.layers.1", "model.norm", "model.layers.1.input_layernorm", "model.layers.0.mlp")


def random_transport(
    small_model: SimpleNamespace,
    positions: str = "all",
    modules: list[str] = MODULES,
    seed: int = 0,
) -> LearnedTransport:
    """Maps that move a random model; those of the norms have a support."""
    generator = torch.Generator().manual_seed(seed)
    sites = choose_sites(small_model.model, modules)
    maps = {}
    for index, site in enumerate(sites):
        scale = 1 + 0.1 * torch.randn(128, generator=generator)
        shift = 0.1 * torch.randn(128, generator=generator)
        ends = torch.full_like(scale, 1.5)
        maps[site] = (
            AffineMap(scale, shift, -ends, ends, clip=index % 4 == 0)
            if site.endswith("layernorm")
            else AffineMap.everywhere(scale, shift)
        )
    metadata = TransportMetadata.describe(
        small_model.model, small_model.tokenizer, method="mean", sites=sites, positions=positions
    )
    return LearnedTransport(ActivationMaps(maps, positions), metadata)


def ones_of(site: str, positions: str = "all") -> ActivationMaps:
    """Maps of one site, of which no engine was made."""
    return ActivationMaps({site: AffineMap.everywhere(torch.ones(2), torch.ones(2))}, positions)


def make_llm(checkpoint: Path, transports: dict[str, Path], **options: object) -> LLM:
    settings: dict = {"enforce_eager": True, "max_num_batched_tokens": 48} | options
    return LLM(
        str(checkpoint),
        dtype="float32",
        max_model_len=WINDOW,
        max_num_seqs=24,
        enable_prefix_caching=True,
        enable_chunked_prefill=True,
        block_size=32,
        kv_cache_memory_bytes=1 << 28,
        disable_log_stats=False,
        **llm_arguments(transports=transports, **settings),
    )


BOTH_RUNNERS = pytest.mark.second_runner
SECOND_RUNNER = os.environ.get("TRITON_INTERPRET") == "1"


def schedule_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets vLLM schedule a step before it knows the tokens of the last one, as it does on GPUs."""
    check = CpuPlatform.check_and_update_config

    def check_all_but_that(vllm_config: Any) -> None:
        check(vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    monkeypatch.setattr(CpuPlatform, "check_and_update_config", staticmethod(check_all_but_that))


@pytest.fixture(
    scope="module",
    params=[
        "all",
        "last",
        pytest.param("last, asynchronous", marks=BOTH_RUNNERS),
        pytest.param("compiled", marks=BOTH_RUNNERS),
    ],
)
def steered(request, small_model, small_checkpoint, small_condition, tmp_path_factory):
    """Two transports, one of them named, and the engines of vLLM and Hugging Face that run them.

    That of vLLM looks at sites of every kind, too.
    """
    positions = "last" if request.param.startswith("last") else "all"
    monkeypatch = pytest.MonkeyPatch()
    request.addfinalizer(monkeypatch.undo)
    if request.param.endswith("asynchronous"):
        if not SECOND_RUNNER:
            pytest.skip("on a CPU the second model runner alone can schedule asynchronously")
        schedule_ahead(monkeypatch)
    transport = random_transport(small_model, positions)
    other = "last" if positions == "all" else "all"
    sea = random_transport(small_model, other, [r".*layernorm", r"model\.layers\.1"], seed=1)
    folders = {
        "": transport.save(tmp_path_factory.mktemp("transport")),
        "sea": sea.save(tmp_path_factory.mktemp("sea")),
    }
    loading = {"folder": str(folders["sea"].parent), "slots": 1, "sites": MODULES}
    options: dict = {
        "num_gpu_blocks_override": 28,
        "additional_config": {"aim_loading": loading, "aim_watched": dict.fromkeys(WATCHED, 128)},
        "conditions": {"harmful": small_condition.folder},
    }
    if request.param == "compiled":
        options["enforce_eager"] = False
        # The shape checks of the test run cannot be compiled.
        monkeypatch.setattr(worker_maps, "displace", inspect.unwrap(worker_maps.displace))
    llm = make_llm(small_checkpoint, folders, **options)
    config = llm.llm_engine.vllm_config
    assert config.use_v2_model_runner == SECOND_RUNNER
    assert config.scheduler_config.async_scheduling == request.param.endswith("asynchronous")
    yield SimpleNamespace(
        transport=transport,
        sea=sea,
        folders=folders,
        engine=VLLMEngine(llm),
        reference=HuggingFaceEngine(
            small_model.model,
            small_model.tokenizer,
            max_length=WINDOW - 1,
            softmax_dtype=torch.float32,
        ),
    )
    llm.llm_engine.engine_core.shutdown()


def rows_of(lengths: list[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 300, (n,), generator=generator).tolist() for n in lengths]


def padded(rows: list[list[int]]) -> Prompts:
    width = max(map(len, rows))
    return Prompts(
        torch.tensor([[0] * (width - len(row)) + row for row in rows]),
        torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    )


def text(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(2)] if 2 in tokens else tokens


def columns_to_ask(steered: SimpleNamespace) -> list[Column]:
    """Strengths of one transport, with noise, of another one, of both, and within windows."""
    praise, sea = {"transport": steered.transport}, {"transport_sea": steered.sea}
    both = praise | sea
    return [
        *columns_of(strength=STRENGTHS, **praise),
        *columns_of(noise_std=0.5, noise_seed=7, strength=0.5, **praise),
        *columns_of(strength=0.5, strength_sea=0.7, **both),
        *columns_of(strength_sea=-0.4, **sea),
        *columns_of(strength=1.0, window="prompt", **praise),
        *columns_of(strength=1.0, window="generation", strength_sea=1, window_sea="3-20", **both),
    ]


def test_greedy_tokens_at_every_strength_are_those_of_transformers(steered) -> None:
    rows = rows_of([2, 17, 60, 90])
    prompts = padded([*rows, rows[3][:70] + [9]])
    columns = columns_to_ask(steered)
    options = {"max_length": prompts.token_ids.shape[1] + 24, "do_sample": False}
    given = steered.engine.generate(prompts, columns, **options)
    expected = steered.reference.generate(prompts, columns, pad_token_id=0, **options)
    for row, wanted in zip(given, expected, strict=True):
        assert [text(tokens) for tokens in row] == [text(tokens) for tokens in wanted]
    assert len({tuple(tokens) for tokens in expected[0]}) == len(columns)


def test_log_likelihoods_at_every_strength_are_those_of_transformers(steered) -> None:
    contexts, ends = rows_of([1, 5, 70], seed=1), rows_of([1, 4, 30], seed=2)
    requests = [ScoreRequest(c, e, "a request") for c in contexts for e in ends]
    columns = columns_to_ask(steered)
    given = steered.engine.score(requests, columns, progress=False)
    expected = steered.reference.score(requests, columns, batch_size=4, progress=False)
    for row, wanted in zip(given, expected, strict=True):
        assert row.log_likelihoods == pytest.approx(wanted.log_likelihoods, abs=1e-3)
        assert row.is_greedy == wanted.is_greedy
        assert row.clean == pytest.approx(wanted.clean, abs=1e-3)


def test_cached_prefixes_are_shared_within_a_strength_and_not_between(steered) -> None:
    llm = steered.engine.llm
    prompt = {"prompt_token_ids": rows_of([100], seed=5)[0]}

    def hits() -> int:
        return next(m.value for m in llm.get_metrics() if m.name == "vllm:prefix_cache_hits")

    def decode(strength: float) -> list[int]:
        asked = SamplingParams(temperature=0, max_tokens=8, extra_args={"aim_strength": strength})
        return list(llm.generate([prompt], asked, use_tqdm=False)[0].outputs[0].token_ids)

    first, before = decode(0.5), hits()
    other = decode(1.0)
    assert hits() == before
    assert decode(0.5) == first and hits() > before
    assert decode(1.0) == other != first


def states_in(model: Any, prompt: list[int], sites: Sequence[str]) -> dict[str, torch.Tensor]:
    """What modules of a model of transformers return for each token of a prompt."""
    found: dict[str, torch.Tensor] = {}

    def note(site: str, output: Any) -> None:
        found[site] = (output[0] if isinstance(output, tuple) else output).reshape(len(prompt), -1)

    hooks = [
        model.get_submodule(site).register_forward_hook(
            lambda module, inputs, output, site=site: note(site, output)
        )
        for site in sites
    ]
    with torch.no_grad():
        model(torch.tensor([prompt]))
    for hook in hooks:
        hook.remove()
    return found


def test_states_of_prompts_are_those_of_transformers(steered, small_model) -> None:
    engine, sites = steered.engine, list(steered.engine.watched)
    assert {*sites} == {*WATCHED, "model.layers.0"}
    rows = rows_of([1, 2, 17, 48, 60, 100, 150] * 5, seed=11)  # more than slots, and than a step
    assert len(rows) > SLOTS
    watched = [(site, summary) for summary in ("last", "mean") for site in sites]
    given = engine.states(rows, watched)
    again = engine.states(rows[-3:], watched)  # whose blocks are cached
    for prompt, states in zip([*rows, *rows[-3:]], [*given, *again], strict=True):
        found = states_in(small_model.model, prompt, sites)
        expected = [found[site][-1] for site in sites] + [found[site].mean(0) for site in sites]
        torch.testing.assert_close(states, expected, atol=1e-4, rtol=0)


def test_a_plain_request_goes_on_from_what_deciding_has_cached(steered) -> None:
    llm, prompt = steered.engine.llm, rows_of([100], seed=12)[0]

    def hits() -> int:
        return next(m.value for m in llm.get_metrics() if m.name == "vllm:prefix_cache_hits")

    before = hits()
    steered.engine.states([prompt], [("model.norm", "mean")])
    assert hits() == before
    asked = SamplingParams(temperature=0, max_tokens=2)
    llm.generate([{"prompt_token_ids": prompt}], asked, use_tqdm=False)
    assert hits() == before + 96  # all whole blocks


def test_states_that_were_not_summed_are_refused(steered, monkeypatch) -> None:
    monkeypatch.setattr(
        worker_states, "to_device", lambda values, device: torch.zeros(values.shape)
    )
    with pytest.raises(ReceiptError, match="of the 3 tokens of a prompt that count, 0 had"):
        steered.engine.states([[5, 6, 7]], [("model.norm", "mean")])


def conditional_columns(steered: SimpleNamespace, folder: Path) -> list[Column]:
    """Transports that act on some prompts: the same ones, the others, and beside one without."""
    praise, sea = {"transport": steered.transport}, {"transport_sea": steered.sea}
    met, other = {"condition": str(folder)}, {"condition_sea": f"not {folder}"}
    return [
        *columns_of(strength=1.0, **praise, **met),
        *columns_of(strength=1.0, window="generation", **praise, **met, strength_sea=1, **sea),
        *columns_of(strength=(0.0, 0.5), **praise, **met, strength_sea=1, **sea, **other),
    ]


def test_conditions_are_decided_as_by_transformers(
    steered, small_prompts: list[list[int]], small_condition: SimpleNamespace
) -> None:
    columns, prompts = conditional_columns(steered, small_condition.folder), padded(small_prompts)
    options = {"max_length": prompts.token_ids.shape[1] + 8, "do_sample": False}
    given = steered.engine.generate(prompts, columns, **options)
    expected = steered.reference.generate(prompts, columns, pad_token_id=0, **options)
    for row, wanted, met in zip(given, expected, small_condition.met, strict=True):
        assert [text(answer) for answer in row] == [text(answer) for answer in wanted]
        assert [one.held for one in row[-1].receipt.changes] == [met, not met]
        for answer, reference in zip(row, wanted, strict=True):
            for one, other in zip(answer.receipt.changes, reference.receipt.changes, strict=True):
                assert (one.kind, one.held, one.sites) == (other.kind, other.held, other.sites)
                assert one.similarity == pytest.approx(other.similarity, abs=1e-5)
    assert {*small_condition.met} == {True, False}


def test_scores_are_conditional_on_their_contexts(
    steered, small_prompts: list[list[int]], small_condition: SimpleNamespace
) -> None:
    columns = conditional_columns(steered, small_condition.folder)
    requests = [ScoreRequest(prompt, end, "a") for prompt in small_prompts for end in ([5, 6], [9])]
    given = steered.engine.score(requests, columns, progress=False)
    expected = steered.reference.score(requests, columns, batch_size=4, progress=False)
    for row, wanted in zip(given, expected, strict=True):
        assert row.log_likelihoods == pytest.approx(wanted.log_likelihoods, abs=1e-3)


def test_conditions_at_sites_that_the_engine_does_not_look_at_are_refused(steered) -> None:
    condition = Condition("model.layers.1.mlp", torch.ones(128), 0.0)
    columns = columns_of(strength=1.0, transport=steered.transport, condition=condition)
    with pytest.raises(ValueError, match="does not look at 128 neurons of 'model.layers.1.mlp'"):
        steered.engine.generate(padded([[5, 6]]), columns, max_length=8)


def test_a_condition_that_nobody_decides_is_refused(steered) -> None:
    given = {"aim_strength": 1.0, "aim_condition": "harmful"}
    asked = SamplingParams(max_tokens=2, extra_args=given)
    with pytest.raises(VLLMValidationError, match="aim_condition='harmful' is decided ahead"):
        steered.engine.llm.generate([{"prompt_token_ids": [5, 6]}], asked, use_tqdm=False)


def test_a_transport_in_a_slot_does_what_it_does_from_the_start(steered) -> None:
    llm = steered.engine.llm
    maps = llm.llm_engine.input_processor.aim_admission.maps
    prompt = {"prompt_token_ids": rows_of([20], seed=8)[0]}

    def decode(**asked: float) -> list[int]:
        parameters = SamplingParams(temperature=0, max_tokens=6, extra_args=asked)
        return list(llm.generate([prompt], parameters, use_tqdm=False)[0].outputs[0].token_ids)

    wanted, plain = decode(aim_strength=0.9), decode()
    fingerprint = steered.transport.maps.fingerprint
    loading = ("storm", str(steered.folders[""]), fingerprint)
    assert llm.collective_rpc("aim_load_transport", args=loading) == [None]
    maps["storm"] = steered.transport.maps
    try:
        assert decode(aim_strength_storm=0.9) == wanted != plain
        assert decode() == plain
    finally:
        del maps["storm"]
        llm.collective_rpc("aim_unload_transport", args=("storm",))


def test_activations_that_run_over_disturb_no_other_request(steered, monkeypatch) -> None:
    llm = steered.engine.llm
    # As a transport whose maps multiply more would run over within the bound.
    monkeypatch.setattr(Transport, "request_limit", math.inf)
    short, long = rows_of([3] * 40, seed=6), rows_of([100], seed=7)

    def decode(prompts: list[list[int]], strengths: list[float]) -> list[list[int]]:
        given = llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            [
                SamplingParams(temperature=0, max_tokens=4, extra_args={"aim_strength": strength})
                for strength in strengths
            ],
            use_tqdm=False,
        )
        return [list(output.outputs[0].token_ids) for output in given]

    before = decode(short, [0.0] * 40)
    beside = decode([*long, *short], [1e30] + [0.0] * 40)
    assert beside[1:] == before
    # In blocks that the one before has left.
    assert decode(short, [0.0] * 40) == before


def test_asynchronous_engines_keep_strengths_apart_in_their_cache(
    small_checkpoint, small_transport
) -> None:
    prompt = {"prompt_token_ids": rows_of([100], seed=5)[0]}

    async def answers() -> list[tuple[list[int], int]]:
        engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                str(small_checkpoint),
                dtype="float32",
                enforce_eager=True,
                max_model_len=WINDOW,
                max_num_seqs=4,
                block_size=32,
                enable_prefix_caching=True,
                kv_cache_memory_bytes=1 << 26,
                **llm_arguments(transports={"": small_transport}),
            )
        )
        given = []
        try:
            for number, strength in enumerate((0.0, 1.0, 1.0)):
                asked = SamplingParams(
                    temperature=0, max_tokens=8, extra_args={"aim_strength": strength}
                )
                async for output in engine.generate(prompt, asked, str(number)):
                    last = output
                given.append((list(last.outputs[0].token_ids), last.num_cached_tokens))
        finally:
            engine.shutdown()
        return given

    (_, _), (first, cached), (again, cached_again) = asyncio.run(answers())
    assert cached == 0
    assert (again, cached_again) == (first, 96)


@pytest.mark.parametrize("value", [float("nan"), "much", True])
def test_a_strength_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="aim_strength"):
        RequestModulation.read({"aim_strength": value})


def test_columns_of_another_transport_are_refused(steered) -> None:
    columns = columns_of(strength=1.0, transport=ones_of("model.norm"))
    with pytest.raises(ValueError, match="another one than the engine was made with"):
        steered.engine.generate(padded([[5, 6]]), columns, max_length=8)


def test_a_transport_of_another_model_is_refused(small_model, small_checkpoint, tmp_path) -> None:
    transport = random_transport(small_model)
    signature = dict(transport.metadata.model_signature)
    signature["weights"] = {
        name: sample | {"values": [value + 1 for value in sample["values"]]}
        for name, sample in signature["weights"].items()
    }
    other = LearnedTransport(transport.maps, replace(transport.metadata, model_signature=signature))
    with pytest.raises(ValueError, match="learned on another model"):
        make_llm(small_checkpoint, {"sea": other.save(tmp_path)})


def test_a_condition_of_another_model_is_refused(
    small_checkpoint, condition_of_another_model
) -> None:
    with pytest.raises(ValueError, match="the condition was learned on another model"):
        make_llm(small_checkpoint, {}, conditions={"harmful": condition_of_another_model})


def test_modules_that_vllm_fuses_are_named(small_model, small_checkpoint, tmp_path) -> None:
    transport = random_transport(small_model, modules=[r".*q_proj"])
    with pytest.raises(ValueError, match="q_proj.*vLLM fuses"):
        make_llm(small_checkpoint, {"sea": transport.save(tmp_path)})


def test_a_damaged_transport_is_refused_before_the_model_is_loaded(
    small_checkpoint, tmp_path
) -> None:
    with pytest.raises(ValueError, match="has no file"):
        make_llm(small_checkpoint, {"sea": tmp_path})


def configuration(**changed: object) -> SimpleNamespace:
    parallel = {
        "pipeline_parallel_size": 1,
        "prefill_context_parallel_size": 1,
        "use_ubatching": False,
    }
    parallel |= {name: changed.pop(name) for name in list(changed) if name in parallel}
    fast = changed.pop("kv_sharing_fast_prefill", False)
    return SimpleNamespace(
        parallel_config=SimpleNamespace(**parallel),
        cache_config=SimpleNamespace(kv_sharing_fast_prefill=fast),
        **{"speculative_config": None} | changed,
    )


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size=2"),
        ({"prefill_context_parallel_size": 2}, "part a step's tokens"),
        ({"use_ubatching": True}, "part a step's tokens"),
        ({"kv_sharing_fast_prefill": True}, "a prompt's last token alone"),
        ({"speculative_config": object()}, "draft model"),
    ],
)
def test_engines_that_cannot_transport_say_why(changed: dict, reason: str) -> None:
    assert why_not(configuration()) is None
    assert reason in (why_not(configuration(**changed)) or "")


def test_every_token_of_a_step_has_the_strengths_of_its_request() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        counts = generator.integers(1, 9, size=generator.integers(1, 7))
        positions = generator.integers(0, 9, size=len(counts))
        strengths = generator.normal(size=(len(counts), 2)).astype(np.float32)
        firsts = generator.integers(0, 12, size=(len(counts), 2))
        stops = np.where(generator.random((len(counts), 2)) < 0.5, np.inf, firsts + 3)
        expected = [
            [
                strengths[row, k] if firsts[row, k] <= position + token < stops[row, k] else 0
                for k in range(2)
            ]
            for row, (count, position) in enumerate(zip(counts, positions, strict=True))
            for token in range(count)
        ]
        step = Step(["some"] * len(counts), np.append(0, counts.cumsum()), positions)
        given = token_strengths(step, np.stack([strengths, firsts, stops], axis=1))
        assert given.tolist() == expected


def test_a_table_of_requests_knows_those_that_are_there() -> None:
    table, known = RequestTable((2,)), {}
    for number in range(50):
        table[str(number)] = known[str(number)] = np.array([number, -number])
        if number % 3 == 0:
            del table[str(number)], known[str(number)]
    table["4"] = known["4"] = np.array([7, 7])
    assert table.of(list(known)).tolist() == np.stack(list(known.values())).tolist()
    there = table.rows(["3", "4"])
    assert there[0] == -1 and table.values[there[1]].tolist() == [7, 7]
    assert "4" in table and "3" not in table
    del table["never"]
    with pytest.raises(KeyError):
        table.of(["3"])


def test_salts_tell_strengths_transports_and_beginnings_apart() -> None:
    everywhere, last = {"": ones_of("a")}, {"": ones_of("a", "last")}
    both = {"": ones_of("a"), "sea": ones_of("b")}
    asked = RequestModulation.read({"aim_strength": 0.5})
    also = {"aim_strength_sea": 0.5}
    given = {"aim_strength": 0.5, "aim_window": "prompt"}
    sea = RequestModulation.read(also)
    salts = {
        cache_salt(None, everywhere, asked, 5),
        cache_salt(None, everywhere, RequestModulation.read({"aim_strength": 0.25}), 5),
        cache_salt("own", everywhere, asked, 5),
        cache_salt(None, last, asked, 5),
        cache_salt(None, last, asked, 6),
        cache_salt(None, last, replace(asked, prompt_length=3), 6),
        cache_salt(None, both, sea, 5),
        cache_salt(None, everywhere, RequestModulation.read(given), 5),
        cache_salt(None, everywhere, RequestModulation.read(given), 6),
        cache_salt(None, both, RequestModulation.read({"aim_strength": 0.5} | also), 5),
    }
    assert len(salts) == 10
    assert cache_salt(None, everywhere, asked, 9) in salts
    assert cache_salt(None, both, asked, 9) in salts
    assert cache_salt(None, last, RequestModulation(), 5) is None
    assert cache_salt(None, both, RequestModulation.read({"aim_strength_sea": 0.0}), 5) is None


def test_no_salt_of_a_client_is_that_of_a_strength() -> None:
    maps = {"": ones_of("a")}
    plain, asked = RequestModulation(), RequestModulation.read({"aim_strength": 0.5})
    given = [cache_salt(salt, maps, asked, 5) for salt in (None, "own", "null", '"own", ')]
    imitated = [cache_salt(salt, maps, plain, 5) for salt in (*given, "own", "null", '["own"]')]
    assert len({*given, *imitated, None}) == len(given) + len(imitated) + 1


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("DIR", "names no folders"),
        ({"praise": 1}, "names no folders"),
        ({"the sea": "DIR"}, "'the sea' is no name"),
        ({"a" * 65: "DIR"}, "is no name"),
    ],
)
def test_transports_that_are_named_wrongly_are_refused(named: object, reason: str) -> None:
    config = SimpleNamespace(additional_config={"aim_transports": named})
    with pytest.raises(ValueError, match=reason):
        configured_folders(config)


def test_a_name_that_the_engine_has_not_is_refused_beside_the_nearest() -> None:
    asked = RequestModulation.read({"aim_strength_prase": 0.5})
    with pytest.raises(ValueError, match="did you mean 'aim_strength_praise'"):
        check_maps(asked.column.changes, {"praise": ones_of("a"), "sea": ones_of("a")})


def test_what_is_loaded_and_unloaded_later_leaves_salts_and_errors_sound() -> None:
    admission = _Admission.__new__(_Admission)
    admission.maps, admission.loading = {}, object()
    admission._check_maps, admission._salt = check_maps, cache_salt

    def salt(given: str | None, **asked: float) -> str | None:
        parameters = SimpleNamespace(extra_args=asked)
        request = SimpleNamespace(
            sampling_params=parameters, cache_salt=given, prompt_token_ids=[1, 2]
        )
        return admission.salt(request).cache_salt

    later = cache_salt(
        None, {"sea": ones_of("a")}, RequestModulation.read({"aim_strength_sea": 1.0}), 2
    )
    assert salt(later) != later
    assert salt(None) is None
    with pytest.raises(VLLMValidationError, match="no transport"):
        salt(None, aim_strength_sea=1.0)
