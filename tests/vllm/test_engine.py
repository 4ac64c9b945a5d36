"""`VLLMEngine` against the Hugging Face engine: the same model, prompts, seeds and strengths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm import LLM, SamplingParams, envs
from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.core_client import InprocClient

from aim_plugins.engines.engine import Journal, Prompts, ScoreRequest
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.engines.vllm import VLLMEngine, llm_arguments, worker
from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.modulation.arguments import columns_of

BOTH_RUNNERS = pytest.mark.second_runner

WINDOW = 160  # of the fixture llm
COLUMNS = columns_of(noise_std="0,0.3,1,4", noise_mean=0.5, noise_seed=11, noise_draws=2)


def padded(rows: list[list[int]]) -> Prompts:
    """Prompts padded on the left."""
    width = max(map(len, rows))
    return Prompts(
        torch.tensor([[0] * (width - len(row)) + row for row in rows]),
        torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    )


def random_rows(lengths: list[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 300, (n,), generator=generator).tolist() for n in lengths]


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    """Prompts of many lengths; some begin alike, for the prefix cache."""
    rows = random_rows([1, 3, 17, 40, 63, 90])
    return padded([*rows, rows[4][:48] + [5, 6], rows[5][:70] + [9]])


@pytest.fixture(scope="module")
def requests() -> list[ScoreRequest]:
    """Continuations of one and of many tokens, several after one context, some beyond the window"""
    contexts = random_rows([1, 5, 33, 70, WINDOW - 3, WINDOW + 20], seed=1)
    ends = random_rows([1, 1, 4, 30], seed=2)
    made = [
        ScoreRequest(context, end, f"request {n}")
        for n, context in enumerate(contexts)
        for end in ends
    ]
    # As tokenizers split a text in two places.
    return [*made, ScoreRequest(contexts[2] + ends[3][:10], ends[3][10:], "split elsewhere")]


def preemptions(llm: LLM) -> int:
    return next(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions")


def prefix_cache_hits(llm: LLM) -> int:
    return next(m.value for m in llm.get_metrics() if m.name == "vllm:prefix_cache_hits")


@BOTH_RUNNERS
def test_greedy_tokens_are_those_of_transformers_with_caching_chunks_and_preemption(
    llm: LLM, engine: VLLMEngine, reference_engine: HuggingFaceEngine, prompts: Prompts
) -> None:
    before = preemptions(llm), prefix_cache_hits(llm)
    length = prompts.token_ids.shape[1] + 40
    options = {"max_length": length, "do_sample": False, "pad_token_id": 0}
    expected = reference_engine.generate(prompts, COLUMNS, **options)
    given = engine.generate(prompts, COLUMNS, **options)
    assert preemptions(llm) > before[0], "the cache was meant to be too small for the batch"
    assert prefix_cache_hits(llm) > before[1]
    for row, wanted in zip(given, expected, strict=True):
        for tokens, reference in zip(row, wanted, strict=True):
            assert tokens == reference[: len(tokens)]
            assert len(tokens) == len(reference) or tokens[-1] == 2  # the end token
    assert len({tuple(tokens) for row in given for tokens in row}) > 40, "strengths differ"


@BOTH_RUNNERS
def test_request_has_its_tokens_alone_and_in_any_batch(
    engine: VLLMEngine, prompts: Prompts
) -> None:
    length = prompts.token_ids.shape[1] + 12
    together = engine.generate(prompts, COLUMNS, max_length=length)
    alone = engine.generate(prompts[3:4], COLUMNS[5:6], max_length=length)
    assert alone[0][0] == together[3][5]


@BOTH_RUNNERS
def test_log_likelihoods_are_those_of_transformers(
    engine: VLLMEngine, reference_engine: HuggingFaceEngine, requests: list[ScoreRequest]
) -> None:
    expected = reference_engine.score(requests, COLUMNS, batch_size=4, progress=False)
    given = engine.score(requests, COLUMNS, progress=False)
    for row, wanted in zip(given, expected, strict=True):
        assert row.log_likelihoods == pytest.approx(wanted.log_likelihoods, abs=1e-3)
        assert row.clean == pytest.approx(wanted.clean, abs=1e-3)
        assert row.is_greedy == wanted.is_greedy
        assert (row.context_key, list(row.tokens)) == (wanted.context_key, list(wanted.tokens))


@BOTH_RUNNERS
def test_scoring_a_few_positions_at_a_time_changes_nothing(
    engine: VLLMEngine, requests: list[ScoreRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = engine.score(requests, COLUMNS, progress=False)
    model = engine.llm.collective_rpc(lambda w: w.model_runner.model)[0]
    monkeypatch.setattr(worker, "_LOGITS_AT_A_TIME", 5 * model.config.vocab_size)
    largest = 0
    compute = model.compute_logits

    def counting(hidden_states: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, len(hidden_states))
        return compute(hidden_states)

    monkeypatch.setattr(model, "compute_logits", counting)
    pieces = engine.score(requests[:8], COLUMNS, progress=False)
    assert largest <= 5
    for row, wanted in zip(pieces, whole, strict=False):
        assert row.log_likelihoods == pytest.approx(wanted.log_likelihoods, abs=1e-4)


@BOTH_RUNNERS
def test_scoring_leaves_generation_as_it_was(
    engine: VLLMEngine, prompts: Prompts, requests: list[ScoreRequest]
) -> None:
    before = engine.generate(prompts, COLUMNS[3:4], max_length=prompts.token_ids.shape[1] + 5)
    engine.score(requests[:5], COLUMNS, progress=False)
    after = engine.generate(prompts, COLUMNS[3:4], max_length=prompts.token_ids.shape[1] + 5)
    assert before == after


@BOTH_RUNNERS
def test_logits_that_are_not_numbers_name_the_request(
    engine: VLLMEngine, requests: list[ScoreRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = engine.llm.collective_rpc(lambda w: w.model_runner.model)[0]
    compute = model.compute_logits
    monkeypatch.setattr(model, "compute_logits", lambda hidden: compute(hidden) * float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite logits for request 1: try dtype"):
        engine.score(requests[4:5], COLUMNS, progress=False)


def test_empty_continuation_is_refused(engine: VLLMEngine) -> None:
    with pytest.raises(ValueError, match="this one has an empty continuation"):
        engine.score([ScoreRequest([1], [], "this one")], COLUMNS)


def test_finished_batches_are_not_computed_again(
    llm: LLM,
    prompts: Prompts,
    requests: list[ScoreRequest],
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = VLLMEngine(llm, journal=journal)
    length = prompts.token_ids.shape[1] + 4

    def run() -> Any:
        return (
            engine.score(requests[:6], COLUMNS, batch_size=2, progress=False),
            engine.generate(prompts, COLUMNS, max_length=length),
        )

    first = run()
    monkeypatch.setattr(llm, "generate", lambda *_, **__: pytest.fail("computed again"))
    assert run() == first


@BOTH_RUNNERS
def test_stop_string_ends_a_continuation(
    engine: VLLMEngine, small_model: SimpleNamespace, prompts: Prompts
) -> None:
    length = prompts.token_ids.shape[1] + 20
    free = engine.generate(prompts[2:3], COLUMNS[:1], max_length=length)[0][0]
    stop = small_model.tokenizer.decode(free[4:6])
    assert stop
    ended = engine.generate(prompts[2:3], COLUMNS[:1], max_length=length, stop=[stop])[0][0]
    assert len(ended) <= 6
    assert ended == free[: len(ended)]
    at_once = engine.generate(prompts[2:3], COLUMNS[:1], max_length=length, stop=[stop, ""])[0][0]
    assert at_once == free[:1]


@pytest.mark.parametrize("option", ["num_beams", "repetition_penalty"])
def test_option_that_vllm_carries_out_otherwise_is_refused(
    engine: VLLMEngine, prompts: Prompts, option: str
) -> None:
    with pytest.raises(ValueError, match=f"{option}=2 cannot be given"):
        engine.generate(prompts, COLUMNS, max_length=200, **{option: 2})


def test_options_without_effect_are_taken(engine: VLLMEngine, prompts: Prompts) -> None:
    length = prompts.token_ids.shape[1] + 5
    neutral = {"repetition_penalty": 1.0, "num_return_sequences": 1, "num_beams": 1}
    plain = engine.generate(prompts, COLUMNS, max_length=length)
    assert engine.generate(prompts, COLUMNS, max_length=length, **neutral) == plain


@BOTH_RUNNERS
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.5},
        {"temperature": 3.0, "top_k": 20, "top_p": 0.9},
        {"top_k": 0, "min_p": 0.001, "typical_p": 0.95},
    ],
    ids=str,
)
def test_sampled_texts_are_those_of_transformers(
    engine: VLLMEngine, reference_engine: HuggingFaceEngine, prompts: Prompts, options: dict
) -> None:
    columns = columns_of(noise_std=[0, 1], noise_draws=2)
    asked = options | {"max_length": prompts.token_ids.shape[1] + 8, "do_sample": True}
    occurrences = [0, 1] * (len(prompts.token_ids) // 2)
    found = engine.generate(prompts, columns, occurrences=occurrences, **asked)
    wanted = reference_engine.generate(
        prompts, columns, occurrences=occurrences, pad_token_id=0, **asked
    )
    assert found == [
        [tokens[: len(mine)] for mine, tokens in zip(row, texts, strict=True)]
        for row, texts in zip(found, wanted, strict=True)
    ]
    # Every column is drawn apart, and so is a prompt that is asked anew.
    assert all(len(set(map(tuple, row))) == len(columns) for row in found)
    again = engine.generate(prompts[:1], columns, occurrences=[1], **asked)
    assert again[0] != found[0]


@BOTH_RUNNERS
def test_a_change_that_a_package_registers_is_that_of_transformers(
    engine: VLLMEngine,
    reference_engine: HuggingFaceEngine,
    prompts: Prompts,
    requests: list[ScoreRequest],
    toy_kinds: None,
) -> None:
    columns = columns_of(noise_std=[0, 1], logit_temperature=[0.5, 1, 4], noise_seed=3)
    asked = {"max_length": prompts.token_ids.shape[1] + 8, "do_sample": True}
    found = engine.generate(prompts, columns, **asked)
    wanted = reference_engine.generate(prompts, columns, pad_token_id=0, **asked)
    assert found == [
        [tokens[: len(mine)] for mine, tokens in zip(row, texts, strict=True)]
        for row, texts in zip(found, wanted, strict=True)
    ]
    assert all(len(set(map(tuple, row))) > 3 for row in found)
    given = engine.score(requests[:4], columns, progress=False)
    expected = reference_engine.score(requests[:4], columns, batch_size=4, progress=False)
    for row, reference in zip(given, expected, strict=True):
        assert row.log_likelihoods == pytest.approx(reference.log_likelihoods, abs=1e-3)
        assert len(set(row.log_likelihoods)) == len(columns)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"pruned_share": 0.5}, "aim_share=0.5 changes weights.*fold the pruning"),
        ({"rotation_angle": 0.5}, "aim_angle=0.5 changes activations by other than affine maps"),
    ],
)
def test_a_change_beyond_vllm_is_refused_with_the_reason(
    engine: VLLMEngine, prompts: Prompts, toy_kinds: None, given: dict, reason: str
) -> None:
    columns = columns_of(noise_std=1, **given)
    with pytest.raises(ValueError, match=reason):
        engine.generate(prompts, columns, max_length=200)
    with pytest.raises(ValueError, match=reason):
        engine.score([ScoreRequest([1], [2])], columns)


def test_changes_in_another_order_than_their_requests_are_refused(
    engine: VLLMEngine, prompts: Prompts, toy_kinds: None
) -> None:
    (column,) = columns_of(noise_std=1, logit_temperature=2)
    turned = replace(column, changes=column.changes[::-1])
    with pytest.raises(ValueError, match="order of their registration"):
        engine.generate(prompts, [column, turned], max_length=200)


def test_settings_of_the_models_own_config_shape_its_sampling(
    llm: LLM, engine: VLLMEngine, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict = {"max_length": prompts.token_ids.shape[1] + 8, "do_sample": True}
    expected = engine.generate(prompts, COLUMNS[:1], temperature=2.0, top_k=7, **asked)
    model_config = llm.llm_engine.vllm_config.model_config
    own = {"do_sample": True, "temperature": 2.0, "top_k": 5}
    monkeypatch.setattr(model_config, "try_get_generation_config", lambda: own, raising=False)
    assert engine.generate(prompts, COLUMNS[:1], top_k=7, **asked) == expected
    assert engine.generate(prompts, COLUMNS[:1], **asked) != expected
    del asked["do_sample"]
    assert engine.generate(prompts, COLUMNS[:1], top_k=7, **asked) == expected
    assert engine.generate(prompts, COLUMNS[:1], do_sample=False, **asked) != expected


def test_finished_samples_are_recalled_each_for_its_own_occurrence(
    llm: LLM, prompts: Prompts, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = VLLMEngine(llm, journal=journal)
    length = prompts.token_ids.shape[1] + 8

    def sample(occurrence: int) -> list[list[list[int]]]:
        return engine.generate(
            prompts,
            COLUMNS[:2],
            max_length=length,
            occurrences=[occurrence] * len(prompts.token_ids),
            do_sample=True,
        )

    first, second = sample(0), sample(1)
    assert first != second
    monkeypatch.setattr(llm, "generate", lambda *_, **__: pytest.fail("computed again"))
    assert (sample(0), sample(1)) == (first, second)


def test_sampling_out_of_range_is_refused_before_it_starts(
    engine: VLLMEngine, prompts: Prompts
) -> None:
    with pytest.raises(ValueError, match="temperature"):
        engine.generate(prompts, COLUMNS, max_length=200, do_sample=True, temperature=0.0)


def test_a_penalty_of_the_models_own_config_is_named(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = llm.llm_engine.vllm_config.model_config
    monkeypatch.setattr(model, "try_get_generation_config", lambda: {"repetition_penalty": 1.5})
    VLLMEngine(llm)
    assert "repetition_penalty=1.5, which is left out" in caplog.text


@BOTH_RUNNERS
def test_a_strength_without_a_transport_is_refused(
    llm: LLM, engine: VLLMEngine, prompts: Prompts
) -> None:
    maps = ActivationMaps({"model.norm": AffineMap.everywhere(torch.ones(2), torch.ones(2))})
    columns = columns_of(strength=0.5, transport=maps)
    with pytest.raises(ValueError, match=r"this engine has no transport: make it with LLM"):
        engine.generate(prompts, columns, max_length=200)
    with pytest.raises(ValueError, match=r"llm_arguments\(transports="):
        engine.score([ScoreRequest([1], [2])], columns)
    asked = SamplingParams(extra_args={"aim_strength": 0.5})
    with pytest.raises(VLLMValidationError, match="no transport.*--additional-config"):
        llm.generate(["a"], asked, use_tqdm=False)


def test_unknown_argument_of_a_request_is_refused(llm: LLM) -> None:
    with pytest.raises(VLLMValidationError, match="aim_strenght=1 is no argument"):
        llm.generate("a", SamplingParams(extra_args={"aim_strenght": 1}), use_tqdm=False)


def test_window_of_the_engine_bounds_the_length(llm: LLM) -> None:
    assert VLLMEngine(llm).max_length == WINDOW - 1
    with pytest.raises(ValueError, match=f"max_length={WINDOW} is outside 1 to {WINDOW - 1}"):
        VLLMEngine(llm, max_length=WINDOW)


def test_fingerprint_tells_checkpoints_apart_and_not_their_folders(
    engine: VLLMEngine, llm: LLM, small_checkpoint: Path, tmp_path: Path
) -> None:
    import shutil

    config = llm.llm_engine.model_config
    copy = shutil.copytree(small_checkpoint, tmp_path / "copy")
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(config, "model", str(copy))
        assert VLLMEngine(llm).fingerprint == engine.fingerprint
        weights = copy / "model.safetensors"
        content = bytearray(weights.read_bytes())
        middle, stretch = len(content) // 2, len(content) // 50
        content[middle : middle + stretch] = bytes(stretch)
        weights.write_bytes(content)
        assert VLLMEngine(llm).fingerprint != engine.fingerprint


def test_engine_in_a_process_of_its_own_answers_the_same(
    engine: VLLMEngine,
    small_checkpoint: Path,
    prompts: Prompts,
    requests: list[ScoreRequest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    envs.disable_envs_cache()  # vLLM has read it for the first engine
    apart = LLM(
        str(small_checkpoint),
        dtype="float32",
        enforce_eager=True,
        max_model_len=WINDOW,
        max_num_seqs=16,
        kv_cache_memory_bytes=1 << 28,
        **llm_arguments(),
    )
    try:
        assert not isinstance(apart.llm_engine.engine_core, InprocClient)
        other = VLLMEngine(apart)
        length = prompts.token_ids.shape[1] + 6
        assert other.generate(prompts, COLUMNS, max_length=length) == engine.generate(
            prompts, COLUMNS, max_length=length
        )
        given = other.score(requests[:8], COLUMNS, progress=False)
        expected = engine.score(requests[:8], COLUMNS, progress=False)
        for row, wanted in zip(given, expected, strict=True):
            assert row.log_likelihoods == pytest.approx(wanted.log_likelihoods, abs=1e-4)
            assert row.context_key == wanted.context_key
        assert other.fingerprint == engine.fingerprint
    finally:
        apart.llm_engine.engine_core.shutdown()
