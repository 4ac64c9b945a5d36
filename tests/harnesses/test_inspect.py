"""Inspect's own evaluation of a small chat model, against transformers and against the engine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("inspect_ai")

import inspect_ai
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageUser as User
from inspect_ai.model import ContentImage, GenerateConfig, get_model

from aim_plugins.engines.engine import NoJournal, Prompts
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.harnesses import inspect_ai as provider
from aim_plugins.modulation.arguments import columns_of

TEMPLATE = (
    "{% for message in messages %}{{ '<s>' }}{{ message['role'] }} : {{ message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}{{ ' Answer :' }}{% endif %}"
)
QUESTIONS = ["the capital of France", "Question : is Paris the capital of Germany", "Berlin"]
LENGTH = 10


@pytest.fixture(scope="module")
def chat(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The tiny model with a chat template, in a folder and loaded."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("chat")
    tokenizer = AutoTokenizer.from_pretrained(tiny.folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    tiny.model.save_pretrained(folder)
    return SimpleNamespace(model=tiny.model, tokenizer=tokenizer, folder=folder)


@pytest.fixture
def ask(chat: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Lets Inspect evaluate the questions; the outputs in its log, by question."""
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(provider, "_GATHERING", 0.02)

    def evaluate(given: dict[str, Any], **options: Any) -> list[Any]:
        [log] = inspect_ai.eval(
            inspect_ai.Task(dataset=[Sample(question) for question in QUESTIONS]),
            model=f"aim/hf/{chat.folder}",
            model_args={"device": "cpu", **given},
            log_dir=str(tmp_path / "logs"),
            display="none",
            **{"max_tokens": LENGTH, **options},
        )
        assert log.status == "success", log.error
        return [sample.output for sample in sorted(log.samples, key=lambda one: one.id)]

    return evaluate


def prompt(chat: SimpleNamespace, question: str) -> torch.Tensor:
    text = f"<s>user : {question} Answer :"
    return torch.tensor([chat.tokenizer(text, add_special_tokens=False).input_ids])


def alone(chat: SimpleNamespace, given: dict[str, Any], **options: Any) -> list[str]:
    """What the engine answers to each question by itself."""
    engine = HuggingFaceEngine(
        chat.model, chat.tokenizer, max_length=128, softmax_dtype=torch.float32, journal=NoJournal()
    )
    texts = []
    for question in QUESTIONS:
        tokens = prompt(chat, question)
        [[answer]] = engine.generate(
            Prompts(tokens, torch.ones_like(tokens)),
            columns_of(**given),
            max_length=tokens.shape[1] + LENGTH,
            pad_token_id=0,
            **{"do_sample": False, **options},
        )
        texts.append(chat.tokenizer.decode(answer, skip_special_tokens=True))
    return texts


def texts(outputs: list[Any]) -> list[str]:
    return [output.completion for output in outputs]


def test_without_noise_the_answers_are_those_of_transformers(chat, ask):
    outputs = ask({"noise_std": 0})
    for question, output in zip(QUESTIONS, outputs, strict=True):
        tokens = prompt(chat, question)
        [row] = chat.model.generate(tokens, max_new_tokens=LENGTH, do_sample=False)
        new = row[tokens.shape[1] :]
        assert output.completion == chat.tokenizer.decode(new, skip_special_tokens=True)
        assert (output.usage.input_tokens, output.usage.output_tokens) == (
            tokens.shape[1],
            len(new),
        )
        assert output.stop_reason == ("stop" if new[-1] == 2 else "max_tokens")


def test_noise_and_transport_are_those_of_the_engine(chat, ask, make_transport, tmp_path):
    folder = make_transport(tmp_path / "transport", chat.folder)
    plain = texts(ask({}))
    for given in (
        {"noise_std": 3.0, "noise_seed": 1},
        {"transport": str(folder), "strength": 1},
        {"transport": str(folder), "strength": 1, "noise_std": 3.0},
    ):
        outputs = ask(given)
        assert texts(outputs) == alone(chat, given) != plain
        [column] = columns_of(**given)
        for output in outputs:
            assert output.metadata["modulation_fingerprint"] == column.fingerprint
            for name in {"noise_std", "strength"} & given.keys():
                assert output.metadata["modulation"][name] == [given[name]]


def test_a_condition_lets_a_transport_act_on_the_questions_that_meet_it(
    chat, ask, make_transport, make_condition, tmp_path
):
    given = {"transport": str(make_transport(tmp_path / "transport", chat.folder)), "strength": 1}
    folder = tmp_path / "condition"
    prompts = [prompt(chat, question)[0].tolist() for question in QUESTIONS]
    held = make_condition(folder, chat.folder, prompts)
    outputs = ask({**given, "condition": str(folder)})
    wanted = zip(held, texts(ask({})), texts(ask(given)), strict=True)
    assert texts(outputs) == [moved if here else plain for here, plain, moved in wanted]
    assert {True, False} == set(held)
    for output, here in zip(outputs, held, strict=True):
        assert output.metadata["receipt"]["changes"][0]["held"] is here
        assert output.metadata["modulation"]["condition"] == str(folder)


@pytest.mark.parametrize("std", [0, 1.0])
def test_answers_do_not_depend_on_the_number_of_connections(chat, ask, std):
    sampling = {"temperature": 1.0, "top_p": 0.9}
    one, many = (
        texts(ask({"noise_std": std}, max_connections=number, **sampling)) for number in (1, 3)
    )
    assert one == many == alone(chat, {"noise_std": std}, do_sample=True, **sampling)
    assert texts(ask({"noise_std": std}, seed=1, **sampling)) != one


def test_requests_that_wait_together_are_one_batch_of_one_load(ask, monkeypatch):
    sizes, loads = [], []
    generate, make = HuggingFaceEngine.generate, HuggingFaceEngine.__init__

    def noted(self, prompts, *args, **options):
        sizes.append(len(prompts.token_ids))
        return generate(self, prompts, *args, **options)

    def loaded(self, *args, **options):
        loads.append(self)
        return make(self, *args, **options)

    monkeypatch.setattr(HuggingFaceEngine, "generate", noted)
    monkeypatch.setattr(HuggingFaceEngine, "__init__", loaded)
    monkeypatch.setattr(provider, "_GATHERING", 1.0)
    ask({"noise_std": 1.25})  # which no other test asks for: Inspect keeps its models
    assert sum(sizes) == 3 and max(sizes) > 1 and len(loads) == 1


def test_epochs_sample_anew(ask, chat):
    [log] = inspect_ai.eval(
        inspect_ai.Task(dataset=[Sample("Berlin")], epochs=3),
        model=f"aim/hf/{chat.folder}",
        display="none",
        temperature=1.0,
        max_tokens=LENGTH,
        log_samples=True,
        log_dir=str(chat.folder / "logs"),
    )
    assert len({sample.output.completion for sample in log.samples}) == 3


def test_an_answer_ends_before_a_stop_string(chat, ask):
    whole = texts(ask({}))[0]
    stop = whole[len(whole) // 2 :][:2]
    output = ask({}, stop_seqs=[stop])[0]
    assert output.completion == whole[: whole.index(stop)]
    assert output.stop_reason == "stop"


def test_a_cached_answer_is_not_taken_for_one_of_another_strength(chat, ask):
    cached = [texts(ask({"noise_std": std}, cache=True)) for std in (0, 3.0, 0)]
    assert cached == [alone(chat, {"noise_std": std}) for std in (0, 3.0, 0)]
    assert cached[0] != cached[1]


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        (
            "hf/{}",
            {"noise_std": [0, 1]},
            "asks for more than one strength.* sweep with `aim-plugins sweep lm-eval`",
        ),
        ("hf/{}", {"noise_std": "0:1:0.5"}, "asks for more than one strength"),
        (
            "hf/{}",
            {"noise_std": 0.5, "noise_draws": 2},
            "more than one strength below 60 and one draw",
        ),
        ("hf/{}", {"noise_std": 180.25}, "180.25} asks for more than one strength below 60"),
        ("hf/{}", {"noise_sdt": 1}, "did you mean noise_std="),
        ("hf/{}", {"dtyp": "float32"}, "-M dtyp='float32' is unknown: did you mean 'dtype'"),
        ("vllm/{}", {}, "write aim/hf/MODEL"),
        ("hf/{}", {"api_key": "secret"}, "write aim/hf/MODEL, without API key"),
    ],
)
def test_what_has_no_answer_is_refused_in_a_line(chat, model, given, said):
    with pytest.raises(ValueError, match=said) as caught:
        get_model(f"aim/{model.format(chat.folder)}", memoize=False, **given)
    assert "\n" not in str(caught.value)


def test_a_model_without_chat_template_is_refused(tiny):
    with pytest.raises(ValueError, match="has no chat template: take lm_eval --model aim_hf"):
        get_model(f"aim/hf/{tiny.folder}", memoize=False)


@pytest.mark.parametrize("option", [{"logprobs": True}, {"num_choices": 2}])
def test_options_of_a_task_without_an_answer_are_refused(chat, option):
    from asyncio import run

    model = get_model(f"aim/hf/{chat.folder}", memoize=False)
    with pytest.raises(ValueError, match=f"{next(iter(option))} is nothing that aim/hf answers"):
        run(model.generate("Berlin", config=GenerateConfig(**option)))
    image = User(content=[ContentImage(image="data:image/png;base64,")])
    with pytest.raises(ValueError, match="holds image"):
        run(model.generate([image]))
