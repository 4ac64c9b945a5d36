"""Columns that ablate components: an engine's table against models whose weights are scaled."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from aim_plugins.engines.engine import Prompts, ScoreRequest
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation.ablation import ablation_mask
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.component_kinds import find_components
from aim_plugins.modulation.edits import ComponentEdit

HEADS = (0, 5, 6)
"""Of two layers with four heads of eight features each."""
PROMPTS = Prompts(
    torch.tensor([[0, 0, 1, 44], [1, 5, 9, 20]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
)


def engine_of(model):
    return HuggingFaceEngine(model, None, max_length=64, softmax_dtype=torch.float32)


def scaled(model, heads, factor: float):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for head in heads:
            weight = other.model.layers[head // 4].self_attn.o_proj.weight
            weight[:, 8 * (head % 4) : 8 * (head % 4 + 1)] *= factor
    return other


@pytest.fixture(scope="module")
def edit(tiny_llama) -> ComponentEdit:
    heads = find_components(tiny_llama, "attention_heads").take(HEADS)
    return ComponentEdit.of_model(tiny_llama, heads, method="by hand")


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"use_cache": False}], ids=["greedy", "beams", "no cache"]
)
def test_strengths_are_decoded_as_rows_of_one_batch(tiny_llama, edit, options) -> None:
    options = {"max_length": 14, "do_sample": False, **options}
    columns = columns_of(edit=edit, edit_strength=[0, 0.5, 1])
    table = engine_of(tiny_llama).generate(PROMPTS, columns, **options)
    for index, strength in enumerate((0, 0.5, 1)):
        alone = engine_of(scaled(tiny_llama, HEADS, 1 - strength))
        wanted = alone.generate(PROMPTS, columns_of(), **options)
        assert [row[index] for row in table] == [row[0] for row in wanted]
    assert table[0][0] != table[0][2]


def test_draws_of_ablations_are_decoded_together_with_noise(tiny_llama) -> None:
    given = {"ablated_components": "attention_heads", "noise_std": 1.0}
    columns = columns_of(**given, ablated_share=[0, 0.5], noise_draws=2)
    options = {"max_length": 14, "do_sample": False}
    table = engine_of(tiny_llama).generate(PROMPTS, columns, **options)
    for index, column in enumerate(columns):
        heads = ablation_mask(8, (0.0, 0.5)[index // 2], column.seed).nonzero()[0]
        alone = engine_of(scaled(tiny_llama, heads, 0.0))
        noise = columns_of(noise_std=1.0, noise_seed=column.seed)
        wanted = alone.generate(PROMPTS, noise, **options)
        assert [row[index] for row in table] == [row[0] for row in wanted]


def test_an_adapter_on_the_heads_is_ablated_with_them(tiny_llama, edit) -> None:
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = LoraConfig(r=2, target_modules=["o_proj"], init_lora_weights=False)
        adapted = get_peft_model(copy.deepcopy(tiny_llama), config).eval()
    merged = scaled(copy.deepcopy(adapted).merge_and_unload(), HEADS, 0.0)
    tokens = torch.tensor([[1, 5, 9, 20, 7]])
    with torch.no_grad(), edit.applied(adapted, force=True):
        assert torch.allclose(adapted(tokens).logits, merged(tokens).logits, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
        ("gpt_neox", {"intermediate_size": 48}),
        ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64}),
        ("qwen3", {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 12}),
        ("gemma2", {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 12}),
        ("mixtral", {"intermediate_size": 48, "num_key_value_heads": 2}),
    ],
)
def test_families_answer_in_batches_as_one_by_one(name: str, settings: dict) -> None:
    shared = {} if name == "gpt2" else {"hidden_size": 32, "num_hidden_layers": 2}
    shared |= {} if name == "gpt2" else {"num_attention_heads": 4}
    config = AutoConfig.for_model(name, vocab_size=64, **shared, **settings)
    config.update({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.2)
    columns = columns_of(
        ablated_components="attention_heads", ablated_share=[0, 0.6], noise_draws=2
    )
    requests = [ScoreRequest([1, 5, 9, 20], [7, 8]), ScoreRequest([1, 44], [30, 31, 32])]
    together = engine_of(model).generate(PROMPTS, columns, max_length=10, do_sample=False)
    scores = engine_of(model).score(requests, columns, batch_size=2, progress=False)
    for index, column in enumerate(columns):
        alone = engine_of(model).generate(PROMPTS, [column], max_length=10, do_sample=False)
        assert [row[index] for row in together] == [row[0] for row in alone]
        lone = engine_of(model).score(requests, [column], batch_size=1, progress=False)
        found = [row.log_likelihoods[index] for row in scores]
        assert found == pytest.approx([row.log_likelihoods[0] for row in lone], abs=1e-4)
    assert scores[0].log_likelihoods[3] != scores[0].log_likelihoods[0]
