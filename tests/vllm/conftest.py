"""A model that vLLM's CPU build can run in seconds, and engines of it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm", reason="make test-vllm runs these in an environment of their own")

# Before vLLM is imported: tests look into the worker, which must be this process.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

WINDOW = 160
"""Tokens of the engines' `max_model_len`."""

BLOCK_SIZE = 32


@pytest.fixture(scope="session")
def small_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Llama; its heads have a width that vLLM takes."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("small-llama")
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(std=0.12)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_model(small_checkpoint: Path) -> SimpleNamespace:
    """The same model in transformers, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return SimpleNamespace(
        model=AutoModelForCausalLM.from_pretrained(small_checkpoint, dtype="float32").eval(),
        tokenizer=AutoTokenizer.from_pretrained(small_checkpoint),
    )


@pytest.fixture(scope="session")
def small_transport(small_model: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random transport of the model's norms and its last layer."""
    import torch

    from aim_plugins.modulation.activations import ActivationMaps, AffineMap
    from aim_plugins.modulation.hooks import choose_sites
    from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata

    generator = torch.Generator().manual_seed(0)

    def vector(mean: float) -> torch.Tensor:
        return mean + 0.2 * torch.randn(128, generator=generator)

    sites = choose_sites(small_model.model, [r".*layernorm", r"model\.layers\.1"])
    maps = {site: AffineMap.everywhere(vector(1.0), vector(0.0)) for site in sites}
    metadata = TransportMetadata.describe(
        small_model.model, small_model.tokenizer, method="linear", sites=sites
    )
    folder = tmp_path_factory.mktemp("small-transport")
    return LearnedTransport(ActivationMaps(maps), metadata).save(folder)


@pytest.fixture(scope="session")
def reference_engine(small_model: SimpleNamespace):
    """The Hugging Face engine of the model."""
    from aim_plugins.engines.huggingface import HuggingFaceEngine

    return HuggingFaceEngine(small_model.model, small_model.tokenizer, max_length=WINDOW - 1)


@pytest.fixture(scope="module")
def llm(small_checkpoint: Path):
    """vLLM with prefix caching, prefill in chunks, and too few cache blocks for its requests.

    Of a module, as all engines are: ending one takes away the process groups of the others.
    """
    from vllm import LLM

    from aim_plugins.engines.vllm import llm_arguments

    llm = LLM(
        str(small_checkpoint),
        dtype="float32",
        enforce_eager=True,
        max_model_len=WINDOW,
        max_num_seqs=24,
        max_num_batched_tokens=48,
        enable_prefix_caching=True,
        enable_chunked_prefill=True,
        block_size=BLOCK_SIZE,
        kv_cache_memory_bytes=1 << 28,
        num_gpu_blocks_override=28,
        disable_log_stats=False,
        **llm_arguments(),
    )
    yield llm
    llm.llm_engine.engine_core.shutdown()


@pytest.fixture()
def engine(llm):
    """The engine under test."""
    from aim_plugins.engines.vllm import VLLMEngine

    return VLLMEngine(llm)
