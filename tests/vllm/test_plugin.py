"""What an engine that cannot modulate answers, and which vLLM is too old."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from vllm import LLM

from aim_plugins.engines.vllm import ChangesVLLMProcessor, llm_arguments
from aim_plugins.engines.vllm.plugin import why_not
from aim_plugins.engines.vllm.versions import require_supported


def configuration(**changed: object) -> SimpleNamespace:
    """An engine's configuration as far as it matters; names are those of its parts' fields."""
    model = {
        "is_encoder_decoder": False,
        "enable_prompt_embeds": False,
        "logits_processors": None,
    }
    model |= {name: changed.pop(name) for name in list(changed) if name in model}
    asynchronous = changed.pop("async_scheduling", False)
    sharded = changed.pop("enable_batch_sharded_sampling", None)
    return SimpleNamespace(
        model_config=SimpleNamespace(**model),
        scheduler_config=SimpleNamespace(async_scheduling=asynchronous),
        parallel_config=SimpleNamespace(enable_batch_sharded_sampling=sharded),
        **{"speculative_config": None, "use_v2_model_runner": False} | changed,
    )


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"speculative_config": object()}, "decodes speculatively"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"enable_prompt_embeds": True}, "embeddings"),
        ({"async_scheduling": True}, "--no-async-scheduling"),
        ({"enable_batch_sharded_sampling": True}, "--enable-batch-sharded-sampling"),
    ],
)
def test_engine_that_cannot_modulate_says_why(changed: dict, reason: str) -> None:
    assert reason in (why_not(configuration(**changed)) or "")


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"async_scheduling": True, "logits_processors": ["named"]},
        {"async_scheduling": True, "use_v2_model_runner": True},
    ],
)
def test_engine_that_sees_its_tokens_may_modulate(changed: dict) -> None:
    assert why_not(configuration(**changed)) is None


@pytest.mark.parametrize("version", ["0.10.2", "0.30.1", "0.33.0", "1.0.0"])
def test_vllm_whose_runners_are_unknown_is_named(version: str) -> None:
    with pytest.raises(ImportError, match=f"vLLM {version} is not supported.* 0.31 to 0.32"):
        require_supported(version)


@pytest.mark.parametrize("version", ["0.31.0", "0.32.0+cpu", "dev"])
def test_vllm_of_today_is_taken(version: str) -> None:
    require_supported(version)


def test_installed_processor_is_loaded_once(
    small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, make = [], ChangesVLLMProcessor.__init__

    def noted(self: ChangesVLLMProcessor, *arguments: object) -> None:
        made.append(arguments[0])
        make(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ChangesVLLMProcessor, "__init__", noted)
    llm = LLM(
        str(small_checkpoint),
        dtype="float32",
        enforce_eager=True,
        max_model_len=64,
        max_num_seqs=2,
        kv_cache_memory_bytes=1 << 26,
    )
    config = llm.llm_engine.vllm_config
    llm.llm_engine.engine_core.shutdown()
    assert [one is config for one in made] == [True]


def test_speculative_decoding_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match="speculative_config=.* silently turn modulation off"):
        llm_arguments(speculative_config={"method": "ngram"})


def test_worker_extension_of_ones_own_is_refused() -> None:
    with pytest.raises(ValueError, match="worker_extension_cls='my.Extension'"):
        llm_arguments(worker_extension_cls="my.Extension")


def answers_while_decoding_speculatively(checkpoint: Path) -> tuple[str, int, str]:
    """Why noise is refused, how many tokens a plain request gets, and why an engine is refused."""
    from vllm import LLM, SamplingParams
    from vllm.exceptions import VLLMValidationError

    from aim_plugins.engines.vllm import VLLMEngine

    llm = LLM(
        str(checkpoint),
        dtype="float32",
        enforce_eager=True,
        max_model_len=64,
        max_num_seqs=2,
        kv_cache_memory_bytes=1 << 26,
        speculative_config={
            "method": "ngram",
            "num_speculative_tokens": 2,
            "prompt_lookup_max": 2,
        },
    )
    with pytest.raises(VLLMValidationError) as noise:
        llm.generate("the capital", SamplingParams(extra_args={"aim_std": 0.5}), use_tqdm=False)
    plain = SamplingParams(max_tokens=3, temperature=0.0)
    (output,) = llm.generate("the capital", plain, use_tqdm=False)
    with pytest.raises(ValueError) as engine:
        VLLMEngine(llm)
    return str(noise.value), len(output.outputs[0].token_ids), str(engine.value)


def test_engine_that_decodes_speculatively_refuses_noise_and_serves_the_rest(
    small_checkpoint: Path,
) -> None:
    # In a process of its own: ngram imports numba, after which vLLM 0.32 starts no other engine
    # on a CPU (its search for Triton kernels stumbles over llvmlite's functions).
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        answers = processes.submit(answers_while_decoding_speculatively, small_checkpoint).result()
    noise, tokens, engine = answers
    assert "decodes speculatively" in noise
    assert tokens == 3
    assert "decodes speculatively" in engine
