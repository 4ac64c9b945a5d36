"""Generation under many columns equals single columns, whatever the model's cache or options."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from aim_plugins.engines.engine import Prompts
from aim_plugins.engines.generation import generate_columns
from aim_plugins.modulation.arguments import columns_of

SMALL = {
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
FAMILIES = {
    "llama": SMALL,
    "mistral": {**SMALL, "sliding_window": 6},
    "gemma2": {**SMALL, "sliding_window": 6, "head_dim": 8},
    "qwen2": SMALL,
    "gpt2": {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "opt": {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "mamba": {**SMALL, "num_hidden_layers": 2, "state_size": 8},
    "lfm2": {
        **SMALL,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "block_multiple_of": 16,
    },
}
COLUMNS = columns_of(noise_std="0:3:1", noise_seed=5)
LENGTHS = (12, 9, 14)


class NumberTokenizer:
    """Spells each token as its number, in brackets."""

    def encode(self, text, add_special_tokens=False):
        return [int(word.strip("[]")) for word in text.split()]

    def batch_decode(self, rows):
        return ["".join(f"[{token}]" for token in row) for row in rows.tolist()]


def build(family):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **FAMILIES[family])
        model = AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(std=0.3)
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    return model


def prompts():
    generator = torch.Generator().manual_seed(1)
    width = max(LENGTHS)
    token_ids = torch.zeros(len(LENGTHS), width, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        token_ids[row, width - length :] = torch.randint(3, 100, (length,), generator=generator)
    return Prompts(token_ids, (token_ids > 0).long())


def complete(tokens, stop=7):
    """What counts of a row: up to and including its end token or its stop token."""
    ends = [place for place, token in enumerate(tokens) if token in (2, stop)]
    return tokens[: ends[0] + 1] if ends else tokens


def assert_columns_equal_single_runs(model, **options):
    batch = prompts()
    options = {"max_length": 40, "stop": ["[7]"], "do_sample": False, "pad_token_id": 0, **options}
    tokenizer = NumberTokenizer()
    with torch.no_grad():
        table = generate_columns(model, tokenizer, batch, COLUMNS, **options)
        for index, column in enumerate(COLUMNS):
            alone = generate_columns(model, tokenizer, batch, [column], **options)
            for row in range(len(LENGTHS)):
                assert complete(table[row][index]) == complete(alone[row][0])


@pytest.mark.parametrize("family", FAMILIES)
def test_columns_equal_single_runs_for_every_kind_of_cache(family):
    assert_columns_equal_single_runs(build(family))


def test_columns_equal_single_runs_with_a_static_cache():
    assert_columns_equal_single_runs(build("llama"), cache_implementation="static")
    model = build("llama")
    model.generation_config.cache_implementation = "static"
    assert_columns_equal_single_runs(model)


@pytest.mark.parametrize(
    "setting", [{"min_new_tokens": 9}, {"begin_suppress_tokens": [5, 11]}, {"num_beams": 2}]
)
def test_options_that_count_steps_take_effect_once(setting):
    model = build("llama")
    model.generation_config.update(**setting)
    assert_columns_equal_single_runs(model)


def test_a_repetition_penalty_sees_the_whole_text_after_a_pause():
    assert_columns_equal_single_runs(build("llama"), repetition_penalty=1.5)


def test_prompt_tuning_runs_under_every_column():
    from peft import PromptTuningConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
        assert_columns_equal_single_runs(get_peft_model(build("llama"), config).eval())


def test_a_prompt_of_one_token_has_nothing_to_share():
    model, token = build("llama"), torch.tensor([[5]])
    one = Prompts(token, torch.ones_like(token))
    options = {"max_length": 12, "do_sample": False, "pad_token_id": 0}
    [table] = generate_columns(model, NumberTokenizer(), one, COLUMNS, **options)
    for column, tokens in zip(COLUMNS, table, strict=True):
        [[alone]] = generate_columns(model, NumberTokenizer(), one, [column], **options)
        assert complete(tokens) == complete(alone)
