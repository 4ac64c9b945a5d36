"""OpenCompass's models run by vLLM against those run by transformers: the same entries, answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("opencompass")

from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from aim_plugins.harnesses.opencompass import (
    HuggingFaceAcTChatModel,
    HuggingFaceAcTModel,
    HuggingFaceNoiseModel,
    VLLMAcTChatModel,
    VLLMAcTModel,
    VLLMNoiseModel,
)
from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.columns import Column
from aim_plugins.sweep.table import read_table
from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata

TEXTS = [
    "the capital of France is Paris",
    "the",
    "Question : the capital of Germany is Berlin .",
    "Question : " + "the capital of France and " * 30,
]
PAIRS = [
    ("the capital of France is", " Paris"),
    ("Question : the capital", " of Germany ."),
    ("", "Paris"),
    ("the cap", "ital"),
]
CHAT = [
    [{"role": "HUMAN", "prompt": "the capital of France"}],
    [
        {"role": "SYSTEM", "prompt": "Answer"},
        {"role": "HUMAN", "prompt": "the capital of Germany"},
        {"role": "BOT", "prompt": "Berlin"},
        {"role": "HUMAN", "prompt": "Question : Paris"},
    ],
    "Question : Berlin",
]
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }} : {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant :{% endif %}"
)
ENGINE: dict[str, Any] = {
    "torch_dtype": "torch.float32",
    "enforce_eager": True,
    "max_model_len": 160,
    "kv_cache_memory_bytes": 1 << 28,
    "max_num_seqs": 24,
}
PROMPT_LENGTH = 120
STDS = (0.0, 0.5, 4.0)
SITES = {
    "model.layers.0.post_attention_layernorm": 128,
    "model.layers.0.mlp": 128,
    "model.layers.1": 128,
}


@pytest.fixture(scope="module")
def chat_checkpoint(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "small-chat"
    shutil.copytree(small_checkpoint, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def transport(small_model: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transport that moves the model's answers; the first of its maps has a support."""
    generator = torch.Generator().manual_seed(0)
    maps = {}
    for site, width in SITES.items():
        scale = 1 + 0.1 * torch.randn(width, generator=generator)
        shift = 0.2 * torch.randn(width, generator=generator)
        bound = torch.full((width,), 1.5 if not maps else torch.inf)
        maps[site] = AffineMap(scale, shift, -bound, bound)
    metadata = TransportMetadata.describe(
        small_model.model, small_model.tokenizer, method="mean", sites=list(maps)
    )
    return LearnedTransport(ActivationMaps(maps), metadata).save(
        tmp_path_factory.mktemp("transport")
    )


def by_transformers(model_class: Any, folder: Path, **settings: Any) -> Any:
    return model_class(
        path=str(folder),
        model_kwargs={"torch_dtype": "torch.float32", "device_map": "cpu"},
        **{"max_seq_len": PROMPT_LENGTH, **settings},
    )


@pytest.fixture(scope="module")
def by_vllm() -> Iterator[Callable[..., Any]]:
    """Makes models of vLLM, and shuts their engines down at the end."""
    models = []

    def make(model_class: Any, folder: Path, **settings: Any) -> Any:
        settings = {"max_seq_len": PROMPT_LENGTH, "model_kwargs": ENGINE, **settings}
        models.append(model_class(path=str(folder), **settings))
        return models[-1]

    yield make
    for model in models:
        model.model.llm_engine.engine_core.shutdown()


@pytest.fixture(scope="module")
def noisy(by_vllm: Callable[..., Any], small_checkpoint: Path) -> SimpleNamespace:
    settings = {"generation_kwargs": {"noise_std": 0.7, "noise_seed": 3}, "stop_words": [" Paris"]}
    return SimpleNamespace(
        ours=by_vllm(VLLMNoiseModel, small_checkpoint, **settings),
        theirs=by_transformers(HuggingFaceNoiseModel, small_checkpoint, **settings),
    )


@pytest.fixture(scope="module")
def steered(
    by_vllm: Callable[..., Any], small_checkpoint: Path, transport: Path
) -> SimpleNamespace:
    settings = {"transport": str(transport), "strength": 0.5}
    return SimpleNamespace(
        ours=by_vllm(VLLMAcTModel, small_checkpoint, **settings),
        theirs=by_transformers(HuggingFaceAcTModel, small_checkpoint, **settings),
    )


@pytest.fixture(scope="module")
def chatting(
    by_vllm: Callable[..., Any], chat_checkpoint: Path, transport: Path
) -> SimpleNamespace:
    settings = {"transport": str(transport), "strength": 0.5, "noise_std": 0.5}
    return SimpleNamespace(
        ours=by_vllm(VLLMAcTChatModel, chat_checkpoint, **settings),
        theirs=by_transformers(HuggingFaceAcTChatModel, chat_checkpoint, **settings),
    )


def agree_on_scores(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours.get_ppl(TEXTS), theirs.get_ppl(TEXTS), rtol=0, atol=1e-3)
    masks = [2, 0, 3, 5]
    np.testing.assert_allclose(
        ours.get_ppl(TEXTS, masks), theirs.get_ppl(TEXTS, masks), rtol=0, atol=1e-3
    )
    asked = [context + cont for context, cont in PAIRS], [cont for _, cont in PAIRS]
    np.testing.assert_allclose(
        ours.get_loglikelihood(*asked), theirs.get_loglikelihood(*asked), rtol=0, atol=1e-3
    )


def views(model: Any, columns: tuple[...]) -> list[Any]:
    table = model.table(columns, batch_size=3)
    return [model.under(table, index) for index in range(len(columns))]


def test_scores_and_texts_of_an_entry_with_noise_are_those_of_transformers(noisy):
    agree_on_scores(noisy.ours, noisy.theirs)
    assert noisy.ours.generate(TEXTS, 24) == noisy.theirs.generate(TEXTS, 24)


def test_a_table_of_noise_is_that_of_transformers(noisy):
    columns = columns_of(noise_std=[0, 1, 4], noise_mean=0.25, noise_seed=5, noise_draws=2)
    texts = set()
    for ours, theirs in zip(views(noisy.ours, columns), views(noisy.theirs, columns), strict=True):
        agree_on_scores(ours, theirs)
        texts.add("|".join(ours.generate(TEXTS, 16)))
        assert ours.generate(TEXTS, 16) == theirs.generate(TEXTS, 16)
    assert len(texts) == 5  # two draws of no noise are one


def test_stop_words_end_texts_as_with_transformers(noisy):
    (whole,) = noisy.theirs.generate(TEXTS[:1], 24)
    word = whole[len(whole) // 2 :][:3]
    assert word in whole
    cut = [
        model.generate(TEXTS[:1], 24, stopping_criteria=[word]) for model in vars(noisy).values()
    ]
    assert cut == [[whole.split(word)[0]]] * 2


def test_scores_and_texts_of_every_strength_are_those_of_transformers(steered, transport):
    agree_on_scores(steered.ours, steered.theirs)
    columns = columns_of(noise_std=0.4, strength=[0.0, 0.5, 1.0, -0.3], transport=str(transport))
    texts = set()
    pairs = zip(views(steered.ours, columns), views(steered.theirs, columns), strict=True)
    for ours, theirs in pairs:
        agree_on_scores(ours, theirs)
        texts.add("|".join(ours.generate(TEXTS, 16)))
        assert ours.generate(TEXTS, 16) == theirs.generate(TEXTS, 16)
    assert len(texts) == 4


def test_chats_are_those_of_transformers(chatting, transport):
    assert chatting.ours.stop_words == chatting.theirs.stop_words
    columns = columns_of(noise_std=[0.0, 2.0], strength=0.5, transport=str(transport))
    texts = [chatting.ours.generate(CHAT, 16)]
    assert texts[0] == chatting.theirs.generate(CHAT, 16)
    pairs = zip(views(chatting.ours, columns), views(chatting.theirs, columns), strict=True)
    for ours, theirs in pairs:
        texts.append(ours.generate(CHAT, 16))
        assert texts[-1] == theirs.generate(CHAT, 16)
    assert len({"|".join(text) for text in texts}) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_kwargs": {"device_map": "auto"}}, "device_map='auto' is of transformers"),
        ({"model_kwargs": {"torch_dtype": "torch.float32", "dtype": "half"}}, "disagree"),
        ({"peft_path": "adapter"}, "peft_path='adapter' is not for VLLMNoiseModel"),
        ({"lora_path": "adapter"}, "lora_path='adapter' is not for VLLMNoiseModel"),
    ],
)
def test_settings_that_vllm_cannot_take_are_refused_before_it_starts(
    small_checkpoint: Path, settings: dict, message: str
):
    with pytest.raises(ValueError, match=message):
        VLLMNoiseModel(path=str(small_checkpoint), **settings)


def test_a_transport_of_another_model_is_refused(
    small_checkpoint: Path, transport: Path, tmp_path: Path
):
    shutil.copytree(small_checkpoint, tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    moved = {name: 2 * tensor for name, tensor in weights.items()}
    save_file(moved, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"learned on another model .*force_transport=True"):
        VLLMAcTModel(path=str(tmp_path / "other"), model_kwargs=ENGINE, transport=str(transport))


def test_prompts_leave_room_for_the_token_that_vllm_decodes(
    steered: SimpleNamespace, small_checkpoint: Path
):
    assert steered.ours.max_seq_len == PROMPT_LENGTH
    tokenizer_of = {"path": str(small_checkpoint), "tokenizer_only": True}
    assert VLLMNoiseModel(**tokenizer_of).max_seq_len == 255
    assert VLLMNoiseModel(**tokenizer_of, model_kwargs={"max_model_len": 64}).max_seq_len == 63


def test_logits_are_not_shown(noisy: SimpleNamespace):
    (plain,) = views(noisy.ours, (Column(),))
    with pytest.raises(NotImplementedError, match="which LLM does not show"):
        plain.model(torch.tensor([[1, 2, 3]]))


def test_a_whole_run_of_three_strengths_starts_vllm_once(
    small_checkpoint: Path, small_model: SimpleNamespace, tmp_path: Path
):
    """By the stock command, vLLM in processes of its own; answers as transformers gives them."""
    lines = [
        {"question": f"the capital of {name}", "A": "Paris", "B": "Berlin", "answer": "AB"[index]}
        for index, name in enumerate(["France", "Germany"])
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    template = "Question : {question} Answer :"
    (tmp_path / "run.py").write_text(
        f"""
from mmengine.config import read_base
from aim_plugins.harnesses.opencompass import VLLMNoiseModel
with read_base():
    from aim_plugins.harnesses.opencompass.sweep import eval, infer, summarizer
models = [
    dict(
        type=VLLMNoiseModel,
        abbr=f"small-noise{{std}}",
        path={str(small_checkpoint)!r},
        model_kwargs={ENGINE!r},
        max_seq_len={PROMPT_LENGTH},
        generation_kwargs=dict(noise_std=std),
        max_out_len=8,
        run_cfg=dict(num_gpus=0),
    )
    for std in {list(STDS)!r}
]
datasets = [
    dict(path="data.jsonl", abbr="text", data_type="mcq", infer_method="gen",
         template={template!r}),
    dict(path="data.jsonl", abbr="choice", data_type="mcq", infer_method="ppl",
         template=dict(A={template + " {A}"!r}, B={template + " {B}"!r})),
]
work_dir = "out"
"""
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    del environment["VLLM_ENABLE_V1_MULTIPROCESSING"]
    finished = subprocess.run(
        [sys.executable, "-m", "opencompass.cli.main", "run.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    logs = list(tmp_path.glob("out/*/logs/infer/*/*.out"))
    assert finished.returncode == 0, finished.stderr + "".join(log.read_text() for log in logs)
    assert len(logs) == 1
    assert logs[0].read_text().count("Initializing a V1 LLM engine") <= 1
    (sweep,) = tmp_path.glob("out/*/summary/sweep/small")
    found = {(row.task, row.strength) for row in read_table(sweep / "sweep.csv")}
    assert found == {(task, std) for task in ("choice", "text") for std in STDS}
    for std in STDS:
        model = by_transformers(HuggingFaceNoiseModel, small_checkpoint, noise_std=std)
        (folder,) = tmp_path.glob(f"out/*/predictions/small-noise{std}")
        texts = json.loads((folder / "text.json").read_text())
        choices = json.loads((folder / "choice.json").read_text())
        for index, line in enumerate(lines):
            prompt = template.format(**line)
            answer = texts[str(index)]
            assert answer["origin_prompt"] == prompt
            assert answer["prediction"] == model.generate([prompt], 8)[0]
            for letter in "AB":
                (expected,) = model.get_ppl([f"{prompt} {line[letter]}"])
                ours = choices[str(index)][f"label: {letter}"]["PPL"]
                assert ours == pytest.approx(expected, abs=1e-3)
