"""A model that vLLM's CPU build can run in seconds, and engines of it."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm", reason="make test-vllm runs these in an environment of their own")

SECOND_RUNNER = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether this run is of vLLM's second model runner, see `interpreted/sitecustomize.py`."""

# Before vLLM is imported: tests look into the worker, which must be this process.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

WINDOW = 160
"""Tokens of the engines' `max_model_len`."""

BLOCK_SIZE = 32


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves to the second runner what is marked for it: its kernels are interpreted."""
    if SECOND_RUNNER:
        marked = [item for item in items if item.get_closest_marker("second_runner")]
        config.hook.pytest_deselected(items=[item for item in items if item not in marked])
        items[:] = marked


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
def small_prompts(small_model: SimpleNamespace) -> list[list[int]]:
    """Prompts of several lengths, two of which begin alike."""
    import torch

    generator = torch.Generator().manual_seed(3)
    rows = [
        torch.randint(3, 300, (length,), generator=generator).tolist()
        for length in (1, 2, 5, 9, 17, 31, 47, 60, 75, 90)
    ]
    return [*rows, rows[-1][:64] + [7, 8]]


@pytest.fixture(scope="session")
def small_condition(
    small_model: SimpleNamespace,
    small_prompts: list[list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> SimpleNamespace:
    """A condition that about half of the prompts meet.

    Its folder; which prompts meet it, by the states that transformers returns and the cosine as it
    is written in the paper; and what transformers' states are of each prompt.
    """
    import torch

    from aim_plugins.modulation.conditions import Condition
    from aim_plugins.transport.conditions.artifact import ConditionMetadata, LearnedCondition

    direction = torch.randn(128, generator=torch.Generator().manual_seed(4))
    projection = torch.outer(direction, direction) / (direction @ direction)
    found = []
    for prompt in small_prompts:
        with torch.no_grad():
            output = small_model.model(torch.tensor([prompt]), output_hidden_states=True)
        state = output.hidden_states[1][0].mean(dim=0)  # behind the first layer
        found.append(torch.cosine_similarity(state, torch.tanh(projection @ state), dim=0).item())
    low, high = sorted(found)[len(found) // 2 - 1 : len(found) // 2 + 1]
    metadata = ConditionMetadata.of_model(
        small_model.model, sites=["model.layers.0"], method="cast", threshold=(low + high) / 2
    )
    condition = Condition("model.layers.0", direction, metadata.threshold)
    folder = tmp_path_factory.mktemp("small-condition")
    return SimpleNamespace(
        folder=LearnedCondition(condition, metadata).save(folder),
        similarities=found,
        met=[one > metadata.threshold for one in found],
    )


@pytest.fixture
def condition_of_another_model(small_condition: SimpleNamespace, tmp_path: Path) -> Path:
    """The folder of the condition, as if it had been learned on other weights."""
    from dataclasses import replace

    from aim_plugins.transport.conditions.artifact import LearnedCondition

    learned = LearnedCondition.load(small_condition.folder)
    signature = dict(learned.metadata.model_signature)
    signature["weights"] = {
        name: sample | {"values": [value + 1 for value in sample["values"]]}
        for name, sample in signature["weights"].items()
    }
    metadata = replace(learned.metadata, model_signature=signature)
    return replace(learned, metadata=metadata).save(tmp_path)


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


@pytest.fixture(scope="session")
def clients(small_checkpoint: Path, small_transport: Path, small_condition: SimpleNamespace):
    """Clients of two servers, which run for all tests that ask them."""
    from tests.vllm.servers import serving

    with serving(small_checkpoint, small_transport, small_condition.folder) as found:
        yield found


TOY_KINDS = """
from dataclasses import dataclass

from aim_plugins.core.strengths import Axis
from aim_plugins.modulation.changes import Change


@dataclass(frozen=True)
class Temperature(Change):
    name = "temperature"
    axis = Axis("temperature", "τ", "temperature", low=0.01)
    acts_on = "logits"
    arguments = {"logit_temperature": "what logits are divided by"}
    strength: float

    is_identity = property(lambda self: self.strength == 1)

    def modulate(self, logits, keys, scratch):
        return logits / self.strength


@dataclass(frozen=True)
class Pruning(Change):
    name = "pruning"
    axis = Axis("share", "p", "pruned share", low=0.0, high=1.0)
    acts_on = "weights"
    arguments = {"pruned_share": "share of the weights that are set to 0"}
    strength: float


@dataclass(frozen=True)
class Rotation(Change):
    name = "rotation"
    axis = Axis("angle", "φ", "angle", "rad")
    acts_on = "activations"
    arguments = {"rotation_angle": "angle that activations are turned by"}
    strength: float
"""


@pytest.fixture()
def toy_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that registers kinds of change of logits, weights and activations."""
    from aim_plugins.modulation import changes

    (tmp_path / "toy_kinds.py").write_text(TOY_KINDS, encoding="utf-8")
    metadata = tmp_path / "toy_kinds-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-kinds\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        f"[{changes.ENTRY_POINTS}]\n"
        "temperature = toy_kinds:Temperature\n"
        "pruning = toy_kinds:Pruning\n"
        "rotation = toy_kinds:Rotation\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(changes, "_kinds", dict(changes._kinds))
    monkeypatch.setattr(
        changes, "_load_entry_points", functools.cache(changes._load_entry_points.__wrapped__)
    )


@pytest.fixture()
def engine(llm):
    """The engine under test."""
    from aim_plugins.engines.vllm import VLLMEngine

    return VLLMEngine(llm)
