"""Language models that people use, built small from their configs: for tests and benchmarks.

A name is the `model_type` of transformers. Weights are random, and wider than a training would
begin with, so that the most likely token means something.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

SMALL: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
TOKENS = {name: SMALL[name] for name in SMALL if name.endswith("_id") or name == "vocab_size"}
TWO = {**SMALL, "num_hidden_layers": 2}
HEADS = {**TWO, "head_dim": 8}
WINDOW = {**SMALL, "head_dim": 8, "sliding_window": 6}
NUMBERED = {**TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
MIXED = {**HEADS, "layer_types": ["linear_attention", "full_attention"]}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8}
DELTA = {
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 8},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
ONE_EXPERT = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
LATENT = {
    **{"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4},
    **{"qk_nope_head_dim": 4, "v_head_dim": 8, "num_key_value_heads": 4},
}
TOWER = {
    **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "image_size": 16, "patch_size": 8},
}
SECTIONS = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
IMAGES = {
    **{"image_token_id": 90, "video_token_id": 91},
    **{"vision_start_token_id": 92, "vision_end_token_id": 93},
}
FREE_STEPS = {"time_step_min": 1e-9}
"""Of models whose cached steps in transformers leave the bound on time steps out."""
PATCHES = {"depth": 1, "num_heads": 2, "patch_size": 8}

DENSE, SPARSE, SEES = "attention", "mixture of experts", "text tower of a multimodal model"
HYBRID, STATE = "hybrid", "state space"


@dataclass(frozen=True)
class Architecture:
    """A model class of transformers.

    Attributes:
        kind: What sort of model it is.
        used_by: Models of it that people use.
        settings: Of its small config.
        tower: Pattern of the names before those of the text tower's modules.
    """

    kind: str
    used_by: str
    settings: Mapping[str, Any]
    tower: str = ""


def _seeing(used_by: str, text: Mapping[str, Any], eyes: Mapping[str, Any], **own: Any) -> Any:
    settings = {"text_config": dict(text), "vision_config": dict(eyes), **own}
    return Architecture(SEES, used_by, settings, tower=r".*language_model\.")


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(DENSE, "Llama 2 and 3, SmolLM2, Yi", SMALL),
    "mistral": Architecture(DENSE, "Mistral 7B", {**SMALL, "sliding_window": 6}),
    "qwen2": Architecture(DENSE, "Qwen2, Qwen2.5, R1 distilled", SMALL),
    "qwen3": Architecture(DENSE, "Qwen3", HEADS),
    "gemma": Architecture(DENSE, "Gemma", HEADS),
    "gemma2": Architecture(DENSE, "Gemma 2", WINDOW),
    "gemma3_text": Architecture(DENSE, "Gemma 3 of 1B", {**WINDOW, "query_pre_attn_scalar": 8}),
    "phi": Architecture(DENSE, "Phi-1, Phi-2", {**TWO, "num_key_value_heads": 4}),
    "phi3": Architecture(DENSE, "Phi-3, Phi-4", TWO),
    "gpt2": Architecture(DENSE, "GPT-2", NUMBERED),
    "gpt_neox": Architecture(DENSE, "Pythia", TWO),
    "gptj": Architecture(DENSE, "GPT-J", {**NUMBERED, "rotary_dim": 4}),
    "opt": Architecture(DENSE, "OPT", {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bloom": Architecture(DENSE, "BLOOM", {**TOKENS, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": Architecture(DENSE, "Falcon", {**TWO, "new_decoder_architecture": False}),
    "mpt": Architecture(
        DENSE, "MPT", {**TOKENS, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}
    ),
    "stablelm": Architecture(DENSE, "StableLM 2", TWO),
    "starcoder2": Architecture(DENSE, "StarCoder2", TWO),
    "cohere": Architecture(DENSE, "Command R", {**TWO, "use_qk_norm": True}),
    "olmo2": Architecture(DENSE, "OLMo 2", TWO),
    "granite": Architecture(DENSE, "Granite 3", TWO),
    "smollm3": Architecture(DENSE, "SmolLM3", {**SMALL, "no_rope_layer_interval": 2}),
    "glm4": Architecture(DENSE, "GLM-4", HEADS),
    "deepseek_v3": Architecture(
        SPARSE,
        "DeepSeek-V3 and R1, Kimi K2",
        {
            **{**TWO, **LATENT, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2},
            **{"topk_group": 1, "first_k_dense_replace": 1, "moe_intermediate_size": 16},
        },
    ),
    "mixtral": Architecture(SPARSE, "Mixtral", {**TWO, **LOCAL_EXPERTS}),
    "qwen2_moe": Architecture(
        SPARSE, "Qwen1.5-MoE", {**TWO, **EXPERTS, "shared_expert_intermediate_size": 16}
    ),
    "qwen3_moe": Architecture(SPARSE, "Qwen3-30B-A3B", {**HEADS, **EXPERTS}),
    "olmoe": Architecture(SPARSE, "OLMoE", {**TWO, **EXPERTS}),
    "gpt_oss": Architecture(
        SPARSE, "gpt-oss", {**HEADS, **LOCAL_EXPERTS, "sliding_window": 6, "rope_parameters": None}
    ),
    "phimoe": Architecture(SPARSE, "Phi-3.5-MoE", {**TWO, **LOCAL_EXPERTS}),
    "granitemoe": Architecture(SPARSE, "Granite 3 MoE", {**TWO, **LOCAL_EXPERTS}),
    "glm4_moe": Architecture(
        SPARSE,
        "GLM-4.5",
        {**HEADS, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
    "llama4_text": Architecture(
        SPARSE,
        "Llama 4",
        {**HEADS, **LOCAL_EXPERTS, "intermediate_size_mlp": 48, "attention_chunk_size": 16},
    ),
    "gemma3": _seeing(
        "Gemma 3",
        {**WINDOW, "query_pre_attn_scalar": 8},
        TOWER,
        **{"mm_tokens_per_image": 4, "image_token_index": 90},
        **{"boi_token_index": 92, "eoi_token_index": 93},
    ),
    "llava": _seeing(
        "LLaVA 1.5",
        {**TWO, "model_type": "llama"},
        {**TOWER, "model_type": "clip_vision_model"},
        image_token_index=90,
    ),
    "mistral3": _seeing(
        "Mistral Small 3.1",
        {**HEADS, "model_type": "mistral"},
        {**TOWER, "model_type": "pixtral"},
        image_token_index=90,
    ),
    "qwen2_vl": _seeing(
        "Qwen2-VL",
        {**TWO, "rope_parameters": SECTIONS},
        {**PATCHES, "embed_dim": 16, "hidden_size": 32},
        **IMAGES,
    ),
    "qwen3_vl": _seeing(
        "Qwen3-VL",
        {**HEADS, "rope_parameters": {**SECTIONS, "mrope_interleaved": True}},
        {
            **{**PATCHES, "hidden_size": 16, "intermediate_size": 16, "out_hidden_size": 32},
            **{"num_position_embeddings": 4, "deepstack_visual_indexes": [0]},
        },
        **IMAGES,
    ),
    "jamba": Architecture(
        HYBRID,
        "Jamba",
        {
            **{**SMALL, **ONE_EXPERT, "attn_layer_offset": 1, "attn_layer_period": 2},
            **{"use_mamba_kernels": False, "mamba_d_state": 8, "mamba_dt_rank": 4},
        },
    ),
    "bamba": Architecture(
        HYBRID, "Bamba", {**TWO, **MAMBA, "attn_layer_indices": [1], "mamba_chunk_size": 8}
    ),
    "zamba2": Architecture(
        HYBRID,
        "Zamba2",
        {
            **{**SMALL, "layers_block_type": ["mamba", "hybrid"] * 2, "num_key_value_heads": 4},
            **{"mamba_d_state": 8, "mamba_ngroups": 1, "n_mamba_heads": 4, "mamba_headdim": 16},
            **{"attention_hidden_size": 64, "num_mem_blocks": 1, "chunk_size": 8, **FREE_STEPS},
            "use_mamba_kernels": False,
        },
    ),
    "falcon_h1": Architecture(
        HYBRID,
        "Falcon-H1",
        {**HEADS, **MAMBA, "mamba_d_ssm": 64, "mamba_chunk_size": 8},
    ),
    "nemotron_h": Architecture(
        HYBRID,
        "Nemotron-H, Nemotron Nano 2",
        {
            **{**SMALL, "hybrid_override_pattern": "M*M-", "mamba_num_heads": 4, "head_dim": 8},
            **{"mamba_head_dim": 16, "n_groups": 1, "ssm_state_size": 8, "chunk_size": 8},
            **{"use_mamba_kernels": False, **FREE_STEPS},
        },
    ),
    "recurrent_gemma": Architecture(
        HYBRID,
        "RecurrentGemma",
        {
            **{**SMALL, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 16},
            **{"head_dim": 8, "block_types": ["recurrent", "recurrent", "attention"]},
        },
    ),
    "qwen3_next": Architecture(
        HYBRID,
        "Qwen3-Next",
        {**MIXED, **DELTA, **ONE_EXPERT, "shared_expert_intermediate_size": 16},
    ),
    "lfm2": Architecture(
        HYBRID,
        "LFM2",
        {
            **SMALL,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
            "block_multiple_of": 16,
        },
    ),
    "minimax": Architecture(
        HYBRID,
        "MiniMax-Text-01",
        {**MIXED, "num_local_experts": 2, "num_experts_per_tok": 1, "block_size": 16},
    ),
    "olmo_hybrid": Architecture(HYBRID, "OLMo Hybrid", {**MIXED, **DELTA}),
    "kimi_linear": Architecture(
        HYBRID,
        "Kimi Linear",
        {
            **{**MIXED, "linear_head_dim": 8, "linear_num_heads": 4, "num_key_value_heads": 4},
            **{"kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8},
            **{"num_local_experts": 2, "num_experts_per_token": 1, "moe_intermediate_size": 16},
        },
    ),
    "mamba": Architecture(STATE, "Mamba", {**TWO, "state_size": 8}),
    "mamba2": Architecture(
        STATE, "Mamba-2", {**TWO, "state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 2}
    ),
    "falcon_mamba": Architecture(STATE, "Falcon Mamba", {**TWO, "state_size": 8}),
    "rwkv": Architecture(STATE, "RWKV-4", {**TWO, "attention_hidden_size": 32}),
}
"""Architectures by the name of transformers, the most used of a kind first."""


WIDE = {"hidden_size": 128}
WIDE_HEADS = {**WIDE, "head_dim": 32}
IN_VLLM: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "phi3", "mixtral"), WIDE),
    **dict.fromkeys(("qwen3", "gemma3_text", "qwen3_moe"), WIDE_HEADS),
    "gpt2": {"n_embd": 128},
}
"""Architectures that are tried in vLLM too, with settings for heads of a width that it takes."""


def build_small(name: str, **settings: Any) -> Any:
    """A small random model of an architecture in eval mode, the same at every call.

    Args:
        name: Its `model_type`, of `ARCHITECTURES` or any other of transformers.
        **settings: Of its config, beside or in the place of those listed.
    """
    known = ARCHITECTURES.get(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(name, **{**(known.settings if known else {}), **settings})
        sees = known is not None and known.kind == SEES
        kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        model = kind.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(std=0.3)
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    return model
