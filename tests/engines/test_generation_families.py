"""Generation under many columns equals single columns, whatever the model's cache or options."""

from __future__ import annotations

import pytest
import torch

from aim_plugins.engines.engine import Prompts
from aim_plugins.engines.generation import generate_columns
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation.arguments import columns_of
from benchmarks._architectures import NUMBERED, TWO, build_small

FAMILIES = (
    *("llama", "mistral", "gemma2", "qwen2", "gpt2", "opt", "qwen2_vl", "mamba", "mamba2", "rwkv"),
    *("recurrent_gemma", "jamba", "bamba", "falcon_h1", "zamba2", "nemotron_h", "qwen3_next"),
    *("olmo_hybrid", "minimax", "kimi_linear", "lfm2", "openai-gpt", "bert", "roformer"),
)
SETTINGS = {
    "openai-gpt": NUMBERED,
    **dict.fromkeys(("bert", "roformer"), {**TWO, "is_decoder": True}),
}
"""Of families that are no `ARCHITECTURES`."""
COLUMNS = columns_of(noise_std="0:3:1", noise_seed=5)
LENGTHS = (12, 9, 14)


class NumberTokenizer:
    """Spells each token as its number, in brackets."""

    def encode(self, text, add_special_tokens=False):
        return [int(word.strip("[]")) for word in text.split()]

    def batch_decode(self, rows):
        return ["".join(f"[{token}]" for token in row) for row in rows.tolist()]


def build(family, **settings):
    return build_small(family, **{**SETTINGS.get(family, {}), **settings})


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


def assert_batches_equal_lone_prompts(model):
    """The shortest prompt gets beside longer ones what transformers itself answers it alone."""
    batch, shortest = prompts(), LENGTHS.index(min(LENGTHS))
    new_tokens, width = 26, max(LENGTHS)
    tokens = batch.unpadded()[shortest][None]
    alone = Prompts(tokens, torch.ones_like(tokens))
    options = {"do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        rows = generate_columns(
            model, NumberTokenizer(), batch, COLUMNS, max_length=width + new_tokens, **options
        )[shortest]
        length = tokens.shape[1]
        plain = model.generate(
            input_ids=tokens, attention_mask=alone.mask, max_new_tokens=new_tokens, **options
        )[0, length:].tolist()
        assert complete(rows[0], stop=None) == complete(plain, stop=None)
        for column, row in zip(COLUMNS, rows, strict=True):
            [[lone]] = generate_columns(
                model, NumberTokenizer(), alone, [column], max_length=length + new_tokens, **options
            )
            assert complete(row, stop=None) == complete(lone, stop=None)


@pytest.mark.parametrize("family", FAMILIES)
def test_columns_equal_single_runs_for_every_kind_of_cache(family):
    model = build(family)
    assert_columns_equal_single_runs(model)
    assert_batches_equal_lone_prompts(model)


@pytest.mark.parametrize("family", ["bert", "roformer"])
def test_a_model_that_reads_both_ways_is_refused_until_it_is_made_a_decoder(family):
    model = build(family)
    HuggingFaceEngine(model, NumberTokenizer(), max_length=64)
    model = build(family, is_decoder=False)
    with pytest.raises(ValueError, match=f"a {family} reads both ways.*give is_decoder=True"):
        HuggingFaceEngine(model, NumberTokenizer(), max_length=64)


def test_a_decoder_that_ignores_the_setting_of_encoders_is_taken():
    model = build("gpt_neox")
    assert model.config.is_decoder is False
    HuggingFaceEngine(model, NumberTokenizer(), max_length=64)


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
