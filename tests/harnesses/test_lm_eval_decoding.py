"""Where texts end: `aim_hf` gives what `hf` gives one request at a time, in any batch and table."""

from __future__ import annotations

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from aim_plugins.harnesses.lm_eval import AimHFLM

PLACES = ("France", "Germany", "Paris", "Berlin", "the capital")


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    return AutoTokenizer.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def talkative(tiny_checkpoint):
    """The small model, without end tokens and bytes that are no text of their own."""
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()
    for silent in (slice(0, 37), slice(70, 260)):
        model.lm_head.weight.data[silent] = 0
    return model


@pytest.fixture(scope="module")
def special(talkative, tokenizer, tiny_checkpoint):
    """The same, with `<s>` in the place of one of its frequent words."""
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()
    model.load_state_dict(talkative.state_dict())
    head, [word] = model.lm_head.weight.data, tokenizer.encode(" Question")
    head[tokenizer.bos_token_id], head[word] = head[word].clone(), 0
    return model


def requests(**generation_kwargs):
    asked = {"max_gen_toks": 40, **generation_kwargs}
    texts = [
        f"Question : {place} is {'the ' * (index // 2)}capital of Answer :"
        for index, place in enumerate(PLACES)
    ]
    return [
        Instance("generate_until", {}, (text, dict(asked)), 0, ("task", number, 1))
        for number, text in enumerate(texts)
    ]


def hf(model, tokenizer, asked, **arguments):
    return HFLM(model, tokenizer=tokenizer, **arguments).generate_until(asked, disable_tqdm=True)


def aim_hf(model, tokenizer, asked, **arguments):
    """Texts [N][S]."""
    return AimHFLM(model, tokenizer=tokenizer, **arguments).generate(asked, disable_tqdm=True)


def assert_as_hf_alone(model, tokenizer, asked, expected, **arguments):
    """Without noise texts are the expected ones, alone, in a batch and in a table of strengths."""
    for size in (1, 4):
        texts = aim_hf(model, tokenizer, asked, noise_std=0, batch_size=size, **arguments)
        assert texts == [[text] for text in expected]
    table = aim_hf(model, tokenizer, asked, noise_std=[0, 1], batch_size=4, **arguments)
    noisy = aim_hf(model, tokenizer, asked, noise_std=1, batch_size=1, **arguments)
    assert table == [[text, *row] for text, row in zip(expected, noisy, strict=True)]


def test_stop_strings_apply_after_the_reasoning_only(talkative, tokenizer):
    whole = hf(talkative, tokenizer, requests(until=[]), batch_size=1)
    reasoned = [text for text in whole if " Berlin" in text]
    assert any("Question" in text.split(" Berlin")[0] for text in reasoned)
    assert any("Question" in text.split(" Berlin")[-1] for text in reasoned)
    expected = [text.split(" Berlin")[-1].lstrip().split("Question")[0] for text in whole]
    asked, [token] = requests(until=["Question"]), tokenizer.encode(" Berlin")
    assert_as_hf_alone(talkative, tokenizer, asked, expected, think_end_token=" Berlin")
    # A token's number stands for itself: without it in the text, only blanks are stripped.
    expected = [
        text if " Berlin" in whole_text else whole_text.lstrip().split("Question")[0]
        for text, whole_text in zip(expected, whole, strict=True)
    ]
    assert_as_hf_alone(talkative, tokenizer, asked, expected, think_end_token=token)


def test_the_end_of_the_reasoning_may_be_a_token_that_texts_leave_out(special, tokenizer):
    whole = hf(special, tokenizer, requests(until=[]), think_end_token=1, batch_size=1)
    assert whole != hf(special, tokenizer, requests(until=[]), batch_size=1)
    expected = [text.split(" .")[0] for text in whole]
    asked = requests(until=[" ."])
    assert_as_hf_alone(special, tokenizer, asked, expected, think_end_token="<s>")


def test_a_stop_string_may_be_a_token_that_texts_leave_out(special, tokenizer):
    asked = requests(until=["<s>"])
    expected = hf(special, tokenizer, asked, batch_size=1)
    assert expected != hf(special, tokenizer, requests(until=[]), batch_size=1)
    assert_as_hf_alone(special, tokenizer, asked, expected)


@pytest.mark.parametrize("until", [["Question"], ["Question", " ."], []], ids=str)
def test_every_prompt_of_a_beam_search_ends_by_itself(talkative, tokenizer, until):
    asked = requests(until=until, num_beams=3, max_gen_toks=14)
    expected = hf(talkative, tokenizer, asked, batch_size=1)
    assert_as_hf_alone(talkative, tokenizer, asked, expected)


@pytest.mark.parametrize("until", ["", [""], ["Question", ""]], ids=repr)
def test_an_empty_stop_string_ends_a_text_after_one_token(talkative, tokenizer, until):
    asked = requests(until=until)
    expected = hf(talkative, tokenizer, asked, batch_size=1)
    assert all(0 < len(text) < 10 for text in expected)
    assert_as_hf_alone(talkative, tokenizer, asked, expected)


def test_a_stop_string_that_is_no_text_is_refused(talkative, tokenizer):
    with pytest.raises(ValueError, match=r"until=\[5\] holds 5, which is no text"):
        aim_hf(talkative, tokenizer, requests(until=5))
    [first, *_] = aim_hf(talkative, tokenizer, requests(until=["5"]))
    assert "5" not in first[0]
