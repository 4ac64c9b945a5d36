"""OpenCompass models with transported activations: their values by hooks written by hand."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("opencompass")

from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessorList

from aim_plugins.harnesses.opencompass import (
    HuggingFaceAcTChatModel,
    HuggingFaceAcTModel,
    HuggingFaceNoiseChatModel,
    HuggingFaceNoiseModel,
)
from aim_plugins.harnesses.opencompass.config.modulations import split_modulation
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.logits import GaussianNoiseLogitsProcessor
from aim_plugins.transport.change import Transport

TEXTS = ["the capital of France is Paris", "the", "Question : the capital of Germany is Berlin ."]
SUPPORT = 0.3
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }} : {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant :{% endif %}"
)


@pytest.fixture(scope="module")
def transport(make_transport, tiny_checkpoint: Path, tmp_path_factory) -> Path:
    return make_transport(tmp_path_factory.mktemp("act") / "toxicity", tiny_checkpoint)


@pytest.fixture(scope="module")
def bounded(make_transport, tiny_checkpoint: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("act") / "bounded"
    return make_transport(folder, tiny_checkpoint, support=SUPPORT)


@pytest.fixture(scope="module")
def chat_checkpoint(tiny_checkpoint: Path, tmp_path_factory) -> Path:
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


def load(model_class, folder: Path, **settings):
    return model_class(
        path=str(folder),
        model_kwargs={"torch_dtype": "torch.float32", "device_map": "cpu"},
        **{"max_seq_len": 96, **settings},
    )


def steered(checkpoint: Path, transport: Path, strength: float, **settings):
    settings = {"transport": str(transport), "strength": strength, **settings}
    return load(HuggingFaceAcTModel, checkpoint, **settings)


@contextlib.contextmanager
def hooked(model, transport: Path, strength: float):
    """(1 - λ) x + λ (scale x + shift) within the support, by plain forward hooks."""
    vectors = load_file(transport / "transport.safetensors")

    def hook_of(site: str):
        scale, shift, low, high = (
            vectors[f"{site}.{name}"] for name in ("scale", "shift", "support_min", "support_max")
        )

        def hook(module, inputs, x):
            moved = (1 - strength) * x + strength * (scale * x + shift)
            return torch.where((low < x) & (x < high), moved, x)

        return hook

    sites = sorted({name.rpartition(".")[0] for name in vectors})
    assert len(sites) == model.config.num_hidden_layers
    handles = [model.get_submodule(site).register_forward_hook(hook_of(site)) for site in sites]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def token_log_probabilities(reference, text: str, std: float = 0.0) -> list[float]:
    """log p of every token but the first, one forward of one unpadded sequence."""
    model, tokenizer = reference
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(ids).logits[0]
    noise = GaussianNoiseLogitsProcessor(std, seed=7)
    rows = [noise(ids[:, : end + 1], logits[end : end + 1]) for end in range(ids.shape[1] - 1)]
    if not rows:
        return []
    log_p = torch.cat(rows).double().log_softmax(-1)
    return log_p[torch.arange(len(rows)), ids[0, 1:]].tolist()


def perplexity_by_hand(reference, text: str, std: float = 0.0) -> float:
    scored = token_log_probabilities(reference, text, std)
    return -sum(scored) / (len(scored) + 1)


def test_strength_zero_is_the_plain_model_exactly(tiny_checkpoint, transport):
    plain = load(HuggingFaceNoiseModel, tiny_checkpoint)
    ours = steered(tiny_checkpoint, transport, 0.0)
    assert list(ours.get_ppl(TEXTS)) == list(plain.get_ppl(TEXTS))
    pair = ["the capital of France"], [" of France"]
    assert list(ours.get_loglikelihood(*pair)) == list(plain.get_loglikelihood(*pair))
    assert ours.generate(TEXTS, 12) == plain.generate(TEXTS, 12)


@pytest.mark.parametrize("strength", [0.5, 1.0, -0.3])
@pytest.mark.parametrize("name", ["transport", "bounded"])
def test_perplexity_is_that_of_hooks_by_hand(tiny_checkpoint, request, reference, strength, name):
    folder = request.getfixturevalue(name)
    plain = [perplexity_by_hand(reference, text) for text in TEXTS]
    with hooked(reference[0], folder, strength):
        by_hand = [perplexity_by_hand(reference, text) for text in TEXTS]
    ours = steered(tiny_checkpoint, folder, strength).get_ppl(TEXTS)
    assert ours == pytest.approx(by_hand, rel=1e-5)
    assert abs(by_hand[0] - plain[0]) > 1e-2


def test_the_support_matters(tiny_checkpoint, transport, bounded):
    """The same vectors, so that the tests with a support could fail."""
    free, kept = (
        steered(tiny_checkpoint, folder, 1.0).get_ppl(TEXTS) for folder in (transport, bounded)
    )
    assert np.abs(free - kept)[0] > 1e-2


def test_each_class_takes_the_arguments_of_every_change(tiny_checkpoint, transport):
    """The classes for transports are those for noise under a second name."""
    both = {"transport": str(transport), "strength": 0.5, "noise_std": 2.0, "noise_seed": 7}
    ours, theirs = (
        load(model_class, tiny_checkpoint, **both)
        for model_class in (HuggingFaceNoiseModel, HuggingFaceAcTModel)
    )
    assert list(ours.get_ppl(TEXTS)) == list(theirs.get_ppl(TEXTS))


def test_an_entry_without_a_strength_applies_the_maps_as_learned(tiny_checkpoint, transport):
    default = load(HuggingFaceAcTModel, tiny_checkpoint, transport=str(transport))
    whole = steered(tiny_checkpoint, transport, 1.0)
    assert list(default.get_ppl(TEXTS)) == list(whole.get_ppl(TEXTS))


def test_generation_is_that_of_transformers_with_hooks_by_hand(
    tiny_checkpoint, transport, reference
):
    model, tokenizer = reference
    expected = []
    with hooked(model, transport, 0.5):
        for text in TEXTS:
            batch = tokenizer([text], return_tensors="pt")
            output = model.generate(**batch, max_new_tokens=12, do_sample=False, pad_token_id=0)
            new = output[0, batch["input_ids"].shape[1] :]
            expected.append(tokenizer.decode(new, skip_special_tokens=True))
    assert steered(tiny_checkpoint, transport, 0.5).generate(TEXTS, 12) == expected
    plain = load(HuggingFaceNoiseModel, tiny_checkpoint).generate(TEXTS, 12)
    assert all(a != b for a, b in zip(plain, expected, strict=True))


def test_noise_and_transport_together(tiny_checkpoint, transport, reference):
    model, tokenizer = reference
    ours = steered(tiny_checkpoint, transport, 0.5, noise_std=2.0, noise_seed=7)
    with hooked(model, transport, 0.5):
        by_hand = [perplexity_by_hand(reference, text, std=2.0) for text in TEXTS]
        batch = tokenizer(TEXTS[:1], return_tensors="pt")
        noise = GaussianNoiseLogitsProcessor(2.0, seed=7, attention_mask=batch["attention_mask"])
        output = model.generate(
            **batch,
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
            logits_processor=LogitsProcessorList([noise]),
        )
    assert ours.get_ppl(TEXTS) == pytest.approx(by_hand, rel=1e-5)
    new = output[0, batch["input_ids"].shape[1] :]
    assert ours.generate(TEXTS[:1], 12) == [tokenizer.decode(new, skip_special_tokens=True)]


def test_a_chat_is_that_of_transformers_with_hooks_by_hand(chat_checkpoint, transport, reference):
    """The copy of the checkpoint is the transport's own model: weights count, not folders."""
    model, _ = reference
    tokenizer = AutoTokenizer.from_pretrained(chat_checkpoint)
    ours, plain = (
        load(HuggingFaceAcTChatModel, chat_checkpoint, transport=str(transport), strength=strength)
        for strength in (0.5, 0.0)
    )
    stock = load(HuggingFaceNoiseChatModel, chat_checkpoint)
    expected = []
    for text in TEXTS:
        batch = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        with hooked(model, transport, 0.5):
            output = model.generate(**batch, max_new_tokens=10, do_sample=False, pad_token_id=0)
        new = output[0, batch["input_ids"].shape[1] :]
        expected.append(tokenizer.decode(new).split(tokenizer.eos_token)[0])
    prompts = [[{"role": "HUMAN", "prompt": text}] for text in TEXTS]
    assert ours.generate(prompts, 10) == expected
    assert plain.generate(prompts, 10) == stock.generate(prompts, 10) != expected


@pytest.mark.parametrize(("strength", "std"), [(0.5, 0.0), (1.0, 0.7)])
def test_log_likelihoods_are_those_of_the_other_harness(
    tiny_checkpoint, transport, reference, strength, std
):
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance

    from aim_plugins.harnesses.lm_eval import ActHFLM

    pairs = [("the capital of France is", " Paris"), ("Question : the capital", " of Germany .")]
    noise = {"noise_std": std, "noise_seed": 3}
    model = steered(tiny_checkpoint, transport, strength, **noise)
    ours = model.get_loglikelihood([a + b for a, b in pairs], [b for _, b in pairs])
    other = ActHFLM(
        reference[0],
        tokenizer=reference[1],
        transport=str(transport),
        strength=strength,
        **noise,
    )
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    theirs = [answer[0] for answer in other.loglikelihood(requests, disable_tqdm=True)]
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_settings_may_stand_in_generation_kwargs(tiny_checkpoint, transport):
    inside = load(
        HuggingFaceAcTModel,
        tiny_checkpoint,
        generation_kwargs={"transport": str(transport), "strength": 0.5},
    )
    beside = steered(tiny_checkpoint, transport, 0.5)
    assert list(inside.get_ppl(TEXTS)) == list(beside.get_ppl(TEXTS))
    assert inside.generate(TEXTS, 8) == beside.generate(TEXTS, 8)


def test_a_table_of_strengths_gives_what_single_models_give(tiny_checkpoint, transport):
    """Recorded first, computed in batches of another size, and asked without recording."""
    model = steered(tiny_checkpoint, transport, 0.0)
    columns = columns_of(strength="0:1:0.25", transport=str(transport))
    table = model.table(columns, batch_size=2)
    with table.recording():
        view = model.under(table, 0)
        assert view.generate(TEXTS[:2], 8) == ["", ""]
        assert list(view.get_ppl(TEXTS)) == [0, 0, 0]
    table.compute()
    texts = []
    for index, column in enumerate(columns):
        view = model.under(table, index)
        single = steered(tiny_checkpoint, transport, column.strength_of(Transport))
        texts.append(view.generate(TEXTS, 8))  # the last was not foreseen
        assert texts[-1] == single.generate(TEXTS, 8)
        np.testing.assert_allclose(view.get_ppl(TEXTS), single.get_ppl(TEXTS), rtol=1e-5)
    assert len({tuple(answers) for answers in texts}) > 2


def test_a_refit_while_a_run_goes_on_is_noticed(make_transport, tiny_checkpoint, tmp_path):
    """Else the answers of the loaded maps would be noted as those of the new ones."""
    folder = make_transport(tmp_path / "transport", tiny_checkpoint)
    model = steered(tiny_checkpoint, folder, 0.5)
    make_transport(folder, tiny_checkpoint, seed=1)
    column = split_modulation({"transport": str(folder), "strength": 0.5}).column
    with pytest.raises(ValueError, match="fitted anew after it was loaded"):
        model.table([column])
    assert model.table([model.column]).columns == [model.column]


def test_logits_are_not_read_past_the_transport(tiny_checkpoint, transport):
    ids = torch.tensor([[1, 2, 3]])
    assert steered(tiny_checkpoint, transport, 0.0).model(ids).logits.shape[1] == 3
    with pytest.raises(
        NotImplementedError, match=r"strength=0\.5, noise_seed=0: this inferencer reads"
    ):
        steered(tiny_checkpoint, transport, 0.5).model(ids)


def test_a_transport_of_another_model_is_refused_after_loading(
    make_transport, tiny_checkpoint, tmp_path
):
    other = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / "other")
    folder = make_transport(tmp_path / "transport", tmp_path / "other")
    with pytest.raises(ValueError, match=r"transport=.*other weights.*force_transport=True"):
        steered(tiny_checkpoint, folder, 0.0)
    forced = steered(tiny_checkpoint, folder, 0.5, force_transport=True)
    assert list(forced.get_ppl(TEXTS)) != list(
        load(HuggingFaceNoiseModel, tiny_checkpoint).get_ppl(TEXTS)
    )


@pytest.mark.parametrize(
    ("model_class", "settings", "message"),
    [
        (HuggingFaceAcTModel, {}, "transport= is missing: name the folder"),
        (HuggingFaceNoiseModel, {"strength": 0.5}, r"strength=0\.5 has no transport"),
        (HuggingFaceAcTModel, {"transport": "T", "strenght": 0.5}, "did you mean strength"),
        (HuggingFaceAcTModel, {"transport": "T", "strength": [0, 1]}, "one entry has one strength"),
    ],
)
def test_wrong_settings_are_refused_before_the_model_is_loaded(
    transport, model_class, settings, message
):
    settings = {key: str(transport) if value == "T" else value for key, value in settings.items()}
    with pytest.raises(ValueError, match=message):
        load(model_class, Path("no/such/model"), **settings)


def test_remote_code_is_not_run_unless_asked_for(tiny_checkpoint, transport, tmp_path):
    folder = tmp_path / "remote"
    shutil.copytree(tiny_checkpoint, folder)
    witness = tmp_path / "executed"
    (folder / "modeling_x.py").write_text(f"open({str(witness)!r}, 'w').close()\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "modeling_x.C", "AutoModelForCausalLM": "modeling_x.M"}
    config["model_type"] = "not_in_transformers"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trust_remote_code"):
        steered(folder, transport, 0.5)
    assert not witness.exists()
