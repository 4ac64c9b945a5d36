"""The OpenCompass models: their values by hand, by transformers and by the other harness."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from opencompass.models import HuggingFaceBaseModel, HuggingFacewithChatTemplate
from opencompass.utils.prompt import PromptList
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessorList

from aim_plugins.harnesses.lm_eval import AimHFLM
from aim_plugins.harnesses.opencompass import (
    HuggingFaceNoiseChatModel,
    HuggingFaceNoiseModel,
    VLLMNoiseModel,
)
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.gaussian import GaussianNoise
from aim_plugins.modulation.logits import GaussianNoiseLogitsProcessor

TEXTS = ["the capital of France is Paris", "the", "Question : the capital of Germany is Berlin ."]
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }} : {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant :{% endif %}"
)


def load(model_class, folder: Path, **settings):
    return model_class(
        path=str(folder),
        model_kwargs={"torch_dtype": "torch.float32", "device_map": "cpu"},
        **{"max_seq_len": 96, **settings},
    )


@pytest.fixture(scope="module")
def chat_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "tiny-chat"
    shutil.copytree(tiny_checkpoint, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path):
    """The model and tokenizer as transformers alone loads them."""
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def clean(tiny_checkpoint: Path) -> HuggingFaceNoiseModel:
    return load(HuggingFaceNoiseModel, tiny_checkpoint)


@pytest.fixture(scope="module")
def noisy(tiny_checkpoint: Path) -> HuggingFaceNoiseModel:
    return load(HuggingFaceNoiseModel, tiny_checkpoint, noise_std=2.0, noise_seed=7)


def token_log_probabilities(reference, text: str) -> list[float]:
    """log p of every token but the first, one forward of one unpadded sequence."""
    model, tokenizer = reference
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        log_p = model(ids).logits[0].double().log_softmax(-1)
    return [float(log_p[place, ids[0, place + 1]]) for place in range(ids.shape[1] - 1)]


def tokens_of(reference, text: str) -> int:
    return len(reference[1](text)["input_ids"])


def test_perplexity_by_hand(clean, reference):
    """The sum over all tokens but the first, over the number of tokens."""
    by_hand = [-sum(token_log_probabilities(reference, t)) / tokens_of(reference, t) for t in TEXTS]
    assert clean.get_ppl(TEXTS) == pytest.approx(by_hand, rel=1e-5)


def test_perplexity_does_not_depend_on_the_batch(noisy):
    """OpenCompass's own counts the step from padding to the first token of shorter prompts."""
    together = noisy.get_ppl(TEXTS)
    alone = [noisy.get_ppl([text])[0] for text in TEXTS]
    assert together == pytest.approx(alone, rel=1e-5)
    assert noisy.get_ppl(TEXTS[::-1])[::-1] == pytest.approx(alone, rel=1e-5)


def test_perplexity_of_an_unpadded_prompt_is_opencompass_own(clean, tiny_checkpoint):
    stock = load(HuggingFaceBaseModel, tiny_checkpoint)
    stock.tokenizer.batch_encode_plus = stock.tokenizer.__call__
    for text, mask in zip(TEXTS[::2], (None, [2]), strict=True):
        assert clean.get_ppl([text], mask) == pytest.approx(stock.get_ppl([text], mask), rel=1e-5)


def test_masked_tokens_are_given_and_not_counted(clean, reference):
    scored = token_log_probabilities(reference, TEXTS[0])[2:]
    n = tokens_of(reference, TEXTS[0]) - 3
    assert clean.get_ppl(TEXTS[:1], [3]) == pytest.approx([-sum(scored) / n], rel=1e-5)


def test_a_mask_over_the_whole_prompt_is_refused(clean):
    with pytest.raises(ValueError, match="mask_length=99 covers all"):
        clean.get_ppl(["the capital"], [99])


def test_the_middle_of_a_long_prompt_is_dropped_as_opencompass_does(tiny_checkpoint):
    ours, stock = (
        load(model_class, tiny_checkpoint, max_seq_len=8, drop_middle=True)
        for model_class in (HuggingFaceNoiseModel, HuggingFaceBaseModel)
    )
    assert ours.get_ppl(TEXTS[2:]) == pytest.approx(stock.get_ppl(TEXTS[2:]), rel=1e-5)
    assert tokens_of((None, ours.tokenizer), TEXTS[2]) > 8


def test_log_likelihood_by_hand(clean, reference):
    """OpenCompass's own masks as many tokens as the continuation has, at the wrong end."""
    text, continuation = "the capital of France is Paris .", " is Paris ."
    context = tokens_of(reference, "the capital of France")
    by_hand = sum(token_log_probabilities(reference, text)[context - 1 :])
    assert clean.get_loglikelihood([text], [continuation])[0] == pytest.approx(by_hand, rel=1e-5)


def test_log_likelihood_without_context_starts_from_the_start_token(clean, reference):
    model, tokenizer = reference
    ids = [tokenizer.bos_token_id, *tokenizer("Paris")["input_ids"]]
    with torch.no_grad():
        log_p = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    by_hand = sum(float(log_p[place, token]) for place, token in enumerate(ids[1:]))
    assert clean.get_loglikelihood(["Paris"], ["Paris"])[0] == pytest.approx(by_hand, rel=1e-5)


def test_a_continuation_that_melts_into_a_token_is_scored_with_it(clean, reference):
    """ "capital" is one token: the law of that token decides, never a certainty."""
    assert tokens_of(reference, "the capital") == tokens_of(reference, "the cap") == 2
    last = token_log_probabilities(reference, "the capital")[-1]
    assert clean.get_loglikelihood(["the capital"], ["ital"])[0] == pytest.approx(last, rel=1e-5)
    assert last < -0.1


def test_a_continuation_elsewhere_in_the_text_is_refused(clean):
    with pytest.raises(ValueError, match="cont='France' is not the end"):
        clean.get_loglikelihood(["the capital of France is Paris"], ["France"])


@pytest.mark.parametrize("std", [0.0, 0.7, 2.0])
def test_log_likelihoods_are_those_of_the_other_harness(tiny_checkpoint, reference, std):
    pairs = [("the capital of France is", " Paris"), ("Question : the capital", " of Germany .")]
    model = load(HuggingFaceNoiseModel, tiny_checkpoint, noise_std=std, noise_seed=3)
    ours = model.get_loglikelihood([a + b for a, b in pairs], [b for _, b in pairs])
    other = AimHFLM(reference[0], tokenizer=reference[1], noise_std=std, noise_seed=3)
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    theirs = [answer[0] for answer in other.loglikelihood(requests, disable_tqdm=True)]
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_zero_noise_generates_what_opencompass_own_model_does(clean, tiny_checkpoint):
    stock = load(HuggingFaceBaseModel, tiny_checkpoint)
    stock.tokenizer.batch_encode_plus = stock.tokenizer.__call__
    for text in TEXTS:
        assert clean.generate([text], 12) == stock.generate([text], 12)


def test_zero_noise_chats_as_opencompass_own_model_does(chat_checkpoint):
    prompt = [[{"role": "HUMAN", "prompt": "the capital of France"}]]
    ours = load(HuggingFaceNoiseChatModel, chat_checkpoint)
    stock = load(HuggingFacewithChatTemplate, chat_checkpoint)
    stock.tokenizer.batch_encode_plus = stock.tokenizer.__call__
    assert ours.generate(prompt, 10) == stock.generate(prompt, 10)
    noisy = load(HuggingFaceNoiseChatModel, chat_checkpoint, generation_kwargs={"noise_std": 5.0})
    assert noisy.generate(prompt, 10) != ours.generate(prompt, 10)


def test_generation_is_that_of_transformers_with_the_logits_processor(noisy, reference):
    model, tokenizer = reference
    for text in TEXTS:
        batch = tokenizer([text], return_tensors="pt")
        noise = GaussianNoiseLogitsProcessor(2.0, seed=7, attention_mask=batch["attention_mask"])
        output = model.generate(
            **batch,
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
            logits_processor=LogitsProcessorList([noise]),
        )
        new = output[0, batch["input_ids"].shape[1] :]
        expected = tokenizer.decode(new, skip_special_tokens=True)
        assert noisy.generate([text], 12) == [expected]


def test_generation_does_not_depend_on_the_batch(noisy):
    together = noisy.generate(TEXTS, 10)
    assert [noisy.generate([text], 10)[0] for text in TEXTS] == together
    assert len(set(together)) == len(TEXTS)


def test_a_stop_word_in_the_prompt_does_not_stop_the_answer(clean):
    whole = clean.generate(["the capital of France is"], 6)[0]
    assert (
        clean.generate(["the capital of France is"], 6, stopping_criteria=[" is"])[0]
        == (whole.split(" is")[0])
    )


def test_noise_may_stand_in_generation_kwargs(noisy, tiny_checkpoint):
    settings = {"noise_std": 2.0, "noise_seed": 7, "noise_mean": 0.5}
    other = load(HuggingFaceNoiseModel, tiny_checkpoint, generation_kwargs=settings)
    assert other.generate(TEXTS, 8) == noisy.generate(TEXTS, 8)
    assert other.get_ppl(TEXTS) == pytest.approx(noisy.get_ppl(TEXTS), rel=1e-6)


def test_a_misspelt_noise_setting_is_refused(tiny_checkpoint):
    with pytest.raises(ValueError, match="noise_sdt"):
        load(HuggingFaceNoiseModel, tiny_checkpoint, noise_sdt=1.0)


def test_remote_code_is_not_run_unless_asked_for(tiny_checkpoint, tmp_path):
    folder = tmp_path / "remote"
    shutil.copytree(tiny_checkpoint, folder)
    witness = tmp_path / "executed"
    (folder / "modeling_x.py").write_text(f"open({str(witness)!r}, 'w').close()\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "modeling_x.C", "AutoModelForCausalLM": "modeling_x.M"}
    config["model_type"] = "not_in_transformers"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trust_remote_code"):
        load(HuggingFaceNoiseModel, folder)
    assert not witness.exists()


def test_a_tokenizer_alone_counts_tokens_as_opencompass_own_models_do(chat_checkpoint):
    """As OpenCompass's prompt viewer asks for, which loads no weights."""
    pairs = (
        (HuggingFaceNoiseModel, HuggingFaceBaseModel),
        (HuggingFaceNoiseChatModel, HuggingFacewithChatTemplate),
    )
    dialogue = PromptList([{"role": "HUMAN", "prompt": "the capital of France"}])
    for own, stock in pairs:
        counting = load(own, chat_checkpoint, tokenizer_only=True, noise_std=1.0)
        reference = load(stock, chat_checkpoint, tokenizer_only=True)
        assert not hasattr(counting, "model")
        for prompt in (*TEXTS, dialogue):
            assert counting.get_token_len(prompt) == reference.get_token_len(prompt)
        told, expected = (one.get_token_len_from_template(TEXTS) for one in (counting, reference))
        assert told == expected


def test_a_table_gives_what_single_models_give(clean, tiny_checkpoint):
    """Recorded first, computed in batches of another size, and asked without recording."""
    columns = columns_of(noise_std=[0, 1, 3], noise_seed=5, noise_draws=2)
    table = clean.table(columns, batch_size=2)
    with table.recording():
        view = clean.under(table, 0)
        assert view.generate(TEXTS[:2], 8) == ["", ""]
        assert list(view.get_ppl(TEXTS)) == [0, 0, 0]
    table.compute()
    for index, column in enumerate(columns):
        view = clean.under(table, index)
        single = load(
            HuggingFaceNoiseModel,
            tiny_checkpoint,
            noise_std=column.strength_of(GaussianNoise),
            noise_seed=column.seed,
        )
        assert view.generate(TEXTS, 8) == single.generate(TEXTS, 8)  # the last was not foreseen
        np.testing.assert_allclose(view.get_ppl(TEXTS), single.get_ppl(TEXTS), rtol=1e-5)


def test_a_table_reads_each_prompt_once(clean, monkeypatch):
    table = clean.table(columns_of(noise_std="0:2:0.5"), batch_size=2)
    batches = []
    score = table.engine.score
    monkeypatch.setattr(
        table.engine,
        "score",
        lambda requests, *a, **k: batches.append(len(requests)) or score(requests, *a, **k),
    )
    for column in range(5):
        clean.under(table, column).get_ppl(TEXTS)
    assert batches == [2]  # the prompt of one token has nothing to score


def test_samples_of_a_repeated_prompt_differ(tiny_checkpoint):
    model = load(
        HuggingFaceNoiseModel,
        tiny_checkpoint,
        generation_kwargs={"do_sample": True, "temperature": 2.0},
    )
    columns = columns_of(noise_std=[0, 1])

    def texts() -> list[list[str]]:
        table = model.table(columns)
        return [model.under(table, c).generate([TEXTS[0]] * 3, 8) for c in range(2)]

    first = texts()
    assert all(len(set(samples)) == 3 for samples in first)
    assert texts() == first


def test_logits_are_not_read_past_the_noise(noisy, clean):
    ids = torch.tensor([[1, 2, 3]])
    assert clean.model(ids).logits.shape[1] == 3
    with pytest.raises(NotImplementedError, match=r"noise_std=2\.0"):
        noisy.model(ids)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_a_missing_vllm_names_the_extra_that_brings_it(tiny_checkpoint):
    with pytest.raises(ImportError, match=r"pip install 'aim-plugins\[vllm\]'"):
        VLLMNoiseModel(path=str(tiny_checkpoint), noise_std=0.5)


def test_a_missing_output_length_is_named(clean):
    with pytest.raises(ValueError, match="max_out_len is missing"):
        clean.generate(TEXTS, None)


def test_the_window_comes_from_the_configuration(tiny_checkpoint):
    assert load(HuggingFaceNoiseModel, tiny_checkpoint, max_seq_len=None).max_seq_len == 128


@pytest.fixture(scope="module")
def bos_checkpoint(chat_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chat checkpoint with a tokenizer that starts every text with <s>, as Llama's does."""
    folder = tmp_path_factory.mktemp("bos") / "tiny-bos"
    shutil.copytree(chat_checkpoint, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bos_reference(bos_checkpoint: Path):
    model = AutoModelForCausalLM.from_pretrained(bos_checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(bos_checkpoint)
    plain = [token for token in tokenizer("the")["input_ids"] if token != tokenizer.bos_token_id]
    assert tokenizer("the")["input_ids"] == [tokenizer.bos_token_id, *plain]
    return model, tokenizer


@pytest.fixture(scope="module")
def bos_clean(bos_checkpoint: Path) -> HuggingFaceNoiseModel:
    return load(HuggingFaceNoiseModel, bos_checkpoint)


def generated(reference, ids: list[int], std: float, new_tokens: int) -> list[int]:
    """What transformers continues one prompt with, under its own logits processor."""
    batch = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=int)}
    noise = GaussianNoiseLogitsProcessor(std, seed=7, attention_mask=batch["attention_mask"])
    output = reference[0].generate(
        **batch,
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
        logits_processor=LogitsProcessorList([noise] if std else []),
    )
    return output[0, len(ids) :].tolist()


def test_perplexity_by_hand_where_texts_start_with_a_token_of_their_own(bos_clean, bos_reference):
    """The start token is given and counted; the first word is scored."""
    logs = [token_log_probabilities(bos_reference, text) for text in TEXTS]
    by_hand = [-sum(log) / (len(log) + 1) for log in logs]
    assert bos_clean.get_ppl(TEXTS) == pytest.approx(by_hand, rel=1e-5)
    masked = [-sum(logs[0][2:]) / (len(logs[0]) + 1 - 3)]
    assert bos_clean.get_ppl(TEXTS[:1], [3]) == pytest.approx(masked, rel=1e-5)


@pytest.mark.parametrize("context", ["the capital of France", ""])
def test_log_likelihood_by_hand_where_texts_start_with_a_token_of_their_own(
    bos_clean, bos_reference, context
):
    """The continuation is all after the context; without one, all after the one start token."""
    continuation = f"{' ' if context else ''}is Paris ."
    before = tokens_of(bos_reference, context)
    assert context or before == 1
    by_hand = sum(token_log_probabilities(bos_reference, context + continuation)[before - 1 :])
    ours = bos_clean.get_loglikelihood([context + continuation], [continuation])
    assert ours[0] == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("std", [0.0, 2.0])
def test_generation_is_that_of_transformers_after_one_start_token(
    bos_checkpoint, bos_reference, std
):
    model = load(HuggingFaceNoiseModel, bos_checkpoint, noise_std=std, noise_seed=7)
    tokenizer = bos_reference[1]
    expected = []
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert ids.count(tokenizer.bos_token_id) == 1
        new = generated(bos_reference, ids, std, 12)
        expected.append(tokenizer.decode(new, skip_special_tokens=True))
    assert model.generate(TEXTS, 12) == expected
    assert len(set(expected)) == len(TEXTS)


@pytest.mark.parametrize("std", [0.0, 2.0])
def test_chat_is_that_of_transformers_with_the_start_tokens_of_the_template_alone(
    bos_checkpoint, bos_reference, std
):
    model = load(HuggingFaceNoiseChatModel, bos_checkpoint, noise_std=std, noise_seed=7)
    tokenizer = bos_reference[1]
    expected = []
    for text in TEXTS:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        assert ids.count(tokenizer.bos_token_id) == 2  # of the turn, and of the answer
        new = generated(bos_reference, ids, std, 12)
        expected.append(tokenizer.decode(new).split(tokenizer.eos_token)[0])
    prompts = [[{"role": "HUMAN", "prompt": text}] for text in TEXTS]
    assert model.generate(prompts, 12) == expected
    assert len(set(expected)) == len(TEXTS)
