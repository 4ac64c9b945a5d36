"""A model's fingerprint tells it from its likes, whatever holds its weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from aim_plugins.core.identity import model_fingerprint


def llama(**settings: Any) -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            **settings,
        )
        return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("name", ["weight at the end", "embedding", "norm"])
def test_another_weight_is_another_model(tiny_llama: Any, name: str) -> None:
    other = copy.deepcopy(tiny_llama)
    assert model_fingerprint(other) == model_fingerprint(tiny_llama)
    weights = {
        "weight at the end": other.model.layers[-1].mlp.up_proj.weight,
        "embedding": other.model.embed_tokens.weight,
        "norm": other.model.norm.weight,
    }
    weights[name].data.mul_(1.01)
    assert model_fingerprint(other) != model_fingerprint(tiny_llama)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 100, 127, 128, 1000])
def test_the_sample_reaches_all_over_a_tensor(size: int) -> None:
    module = torch.nn.LayerNorm(size)
    before = model_fingerprint(module)
    module.weight.data[size // 2 :] += 1
    assert model_fingerprint(module) != before


def test_settings_without_a_trace_in_the_weights_are_seen() -> None:
    plain = llama()
    for other in (
        llama(rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
        llama(rms_norm_eps=1e-2),
        llama(hidden_act="gelu"),
    ):
        assert str(other.state_dict()) == str(plain.state_dict())
        assert model_fingerprint(other) != model_fingerprint(plain)


def test_neither_training_nor_long_inputs_make_another_model() -> None:
    model = llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})
    before = model_fingerprint(model)
    model(torch.arange(40)[None])
    assert model.model.rotary_emb.max_seq_len_cached == 40
    assert model_fingerprint(model.train()) == before


class Packed(torch.nn.Module):
    """A layer with its weight in integers and settings beside it, as quantizers make it."""

    def __init__(self, settings: str) -> None:
        super().__init__()
        self.register_buffer("weight", torch.arange(100, dtype=torch.uint8))
        self._settings = settings

    def get_extra_state(self) -> str:
        return self._settings


def test_weights_that_are_offloaded_or_quantised_are_taken(tiny_llama: Any) -> None:
    def changed(settings: str) -> str:
        model = copy.deepcopy(tiny_llama)
        model.model.layers[0].mlp.to("meta")
        model.model.layers[1].mlp = Packed(settings)
        return model_fingerprint(model)

    assert changed("nf4") == changed("nf4") != changed("int8")


def test_a_model_that_accelerate_offloads_by_layers_is_the_same(tiny_llama: Any) -> None:
    accelerate = pytest.importorskip("accelerate")
    offloaded = copy.deepcopy(tiny_llama)
    accelerate.cpu_offload(offloaded, torch.device("cpu"))
    assert next(offloaded.parameters()).is_meta
    assert model_fingerprint(offloaded) == model_fingerprint(tiny_llama)
    other = copy.deepcopy(tiny_llama)
    other.model.layers[0].mlp.up_proj.weight.data += 1
    accelerate.cpu_offload(other, torch.device("cpu"))
    assert model_fingerprint(other) != model_fingerprint(tiny_llama)


def test_an_adapters_weights_are_part_of_the_model(tiny_llama: Any) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj"])
    adapted = peft.get_peft_model(copy.deepcopy(tiny_llama), config)
    before = model_fingerprint(adapted)
    adapted.base_model.model.model.layers[0].self_attn.q_proj.lora_B["default"].weight.data += 1
    assert model_fingerprint(adapted) != before != model_fingerprint(tiny_llama)
