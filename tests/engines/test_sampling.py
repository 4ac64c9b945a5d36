"""Sampled texts: the distribution of transformers' own, whatever else is in the batch."""

from __future__ import annotations

import logging

import pytest
import torch
from scipy import stats

from aim_plugins.engines.engine import Prompts
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.columns import Column

COLUMNS = columns_of(noise_std=[0, 1, 3], noise_draws=2)
PROMPTS = ["the capital of France is", "the", "Question : Berlin", "the capital of France is"]
END = 2


@pytest.fixture
def engine(model, tokenizer):
    return HuggingFaceEngine(model, tokenizer, max_length=128)


@pytest.fixture
def padded(tokenizer):
    def pad(texts: list[str]) -> Prompts:
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        return Prompts(batch["input_ids"], batch["attention_mask"])

    return pad


def sample(engine, prompts, columns=COLUMNS, tokens=15, **options):
    length = prompts.token_ids.shape[1] + tokens
    table = engine.generate(prompts, columns, max_length=length, do_sample=True, **options)
    cut = lambda row: row[: (row.index(END) + 1) if END in row else None]  # noqa: E731
    return [[cut(row) for row in rows] for rows in table]


def test_a_text_depends_neither_on_its_batch_nor_on_the_columns_beside(engine, padded):
    together = sample(engine, padded(PROMPTS), temperature=1.5)
    for text, rows in zip(PROMPTS, together, strict=True):
        assert sample(engine, padded([text]), temperature=1.5) == [rows]
        for column, row in zip(COLUMNS[2:], rows[2:], strict=True):
            assert sample(engine, padded([text]), [column], temperature=1.5) == [[row]]
    assert together[0] == together[3]
    assert len({tuple(row) for row in together[0]}) == len(COLUMNS)


def test_a_prompt_that_is_asked_again_gets_another_text(engine, padded):
    rows = sample(engine, padded(PROMPTS[:1] * 3), occurrences=[0, 1, 0], temperature=1.5)
    assert rows[0] == rows[2]
    assert all(first != second for first, second in zip(rows[0], rows[1], strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7, "top_k": 0},
        {"top_k": None},
        {"top_k": 6},
        {"top_p": 0.6},
        {"min_p": 0.01},
    ],
    ids=str,
)
def test_first_tokens_have_the_distribution_of_transformers(engine, model, padded, options):
    """Against the scores from which `generate` of transformers samples."""
    prompts, count = padded(PROMPTS[:1]), 4000
    scores = model.generate(
        prompts.token_ids,
        attention_mask=prompts.mask,
        max_new_tokens=1,
        do_sample=True,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    ).scores[0][0]
    columns = [Column(seed=seed) for seed in range(count)]
    ((*rows,),) = sample(engine, prompts, columns, tokens=1, **options)
    expected = scores.double().softmax(0) * count
    found = torch.bincount(torch.tensor([row[0] for row in rows]), minlength=len(scores)).double()
    assert found[expected == 0].sum() == 0
    often = expected > 10
    found = torch.cat([found[often], found[~often].sum()[None]])
    expected = torch.cat([expected[often], expected[~often].sum()[None]])
    kept = expected > 0
    assert stats.chisquare(found[kept], expected[kept]).pvalue > 1e-3


def test_a_models_own_settings_of_sampling_hold_and_are_silent(
    engine, model, padded, monkeypatch, caplog
):
    explicit = sample(engine, padded(PROMPTS), temperature=0.5, top_k=3)
    for name, value in {"do_sample": True, "temperature": 0.5, "top_k": 3}.items():
        monkeypatch.setattr(model.generation_config, name, value)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        assert sample(engine, padded(PROMPTS)) == explicit
    assert not [record for record in caplog.records if "temperature" in record.getMessage()]


def test_beams_that_sample_are_refused(engine, padded):
    with pytest.raises(ValueError, match=r"num_beams=2 and do_sample=True: .*num_beams=1"):
        sample(engine, padded(PROMPTS), num_beams=2)
