"""`aim-plugins transport generate` against decoding with hooks written by hand."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.steering.texts import read_generations
from aim_plugins.transport.artifact import LearnedTransport

PROMPTS = ["the capital of", "Question : the capital of France is", "Berlin"]
STRENGTHS = (-0.5, 0.0, 0.5, 1.0)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in PROMPTS), "utf-8")
    return path


@pytest.fixture
def generate(run_command, tiny, tiny_transport, prompts, tmp_path):
    def run(*words, output="out", transport=tiny_transport, **options):
        options = {"--pretrained": tiny.folder, "--prompts": prompts, "-o": tmp_path / output} | {
            f"--{name.replace('_', '-')}": value for name, value in options.items()
        }
        pairs = [word for pair in options.items() for word in pair]
        status = run_command("generate", transport, *pairs, "--device", "cpu", *words)
        path = tmp_path / output / "generations.jsonl"
        return status, read_generations(path) if path.exists() else None

    return run


def test_texts_are_those_of_greedy_decoding_with_hooks_written_by_hand(
    generate, tiny, tiny_transport, steered_by_hand
):
    status, texts = generate("--strength=-0.5,0,0.5,1", "--max-new-tokens", "6")
    assert status == 0
    assert [text.strength for text in texts] == [s for s in STRENGTHS for _ in PROMPTS]
    assert [text.prompt for text in texts] == PROMPTS * 4
    for text in texts:
        tokens = tiny.tokenizer(text.prompt).input_ids
        start = len(tokens)
        with steered_by_hand(tiny_transport, text.strength) as model, torch.no_grad():
            while len(tokens) < start + 6:
                tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        wanted = tokens[start:]
        wanted = wanted[: wanted.index(2)] if 2 in wanted else wanted
        assert text.tokens == wanted
        assert text.text == tiny.tokenizer.decode(wanted, skip_special_tokens=True)
    assert len({tuple(text.tokens) for text in texts[::3]}) > 1  # the strength matters


def test_a_few_texts_are_shown_beside_their_strengths(generate, capsys):
    _, texts = generate("--strength=0:1:0.125", "--max-new-tokens", "6")
    shown = capsys.readouterr().out.split("\n\n")[1:]
    assert [block.splitlines()[0] for block in shown] == PROMPTS
    for block, prompt in zip(shown, PROMPTS, strict=True):
        wanted = {
            text.strength: " ".join(text.text.split()) for text in texts if text.prompt == prompt
        }
        lines = [line.split(maxsplit=1) for line in block.splitlines()[1:]]
        assert [label for label, *_ in lines] == ["λ=0", "λ=0.25", "λ=0.5", "λ=0.75", "λ=1"]
        for label, *rest in lines:
            assert rest == ([wanted[float(label[2:])]] if wanted[float(label[2:])] else [])


def test_noise_stands_beside_the_strengths(generate, capsys):
    generate("--strength", "0.5", "--noise-std", "0,1", "--max-new-tokens", "3")
    shown = capsys.readouterr().out
    assert shown.count("λ=0.5 σ=0") == shown.count("λ=0.5 σ=1") == len(PROMPTS)


def test_batches_of_one_write_what_one_batch_writes(generate):
    _, together = generate("--strength", "0,1", max_new_tokens=5, batch_size=3)
    _, apart = generate("--strength", "0,1", output="apart", max_new_tokens=5, batch_size=1)
    assert together == apart


def test_sampling_is_repeatable_and_follows_its_seed(generate):
    options = {"max_new_tokens": 8, "strength": "0,1"}
    sampling = ("--do-sample", "--temperature", "1.5", "--top-k", "50")
    _, first = generate(*sampling, "--seed", "1", output="a", **options)
    _, again = generate(*sampling, "--seed", "1", output="b", **options)
    _, other = generate(*sampling, "--seed", "2", output="c", **options)
    assert first == again
    assert [text.tokens for text in first] != [text.tokens for text in other]


def test_noise_stands_beside_the_transport_and_in_the_texts(generate):
    _, plain = generate(output="plain", strength="0.5", max_new_tokens=8)
    _, noisy = generate(output="noisy", strength="0.5", max_new_tokens=8, noise_std="3")
    assert {text.noise_std for text in noisy} == {3.0}
    assert [text.tokens for text in plain] != [text.tokens for text in noisy]


def test_an_interrupted_run_goes_on_after_its_finished_batches(generate, monkeypatch, capsys):
    whole = HuggingFaceEngine._generate_in_parts
    calls = []

    def interrupted(self, *args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(self, *args, **options)

    options = {"strength": "0,1", "max_new_tokens": 4, "batch_size": 1}
    with monkeypatch.context() as patch:
        patch.setattr(HuggingFaceEngine, "_generate_in_parts", interrupted)
        assert generate(**options) == (130, None)
    assert capsys.readouterr().err.endswith("kept; the same command goes on from there\n")
    calls.clear()

    def counted(self, *args, **options):
        calls.append(1)
        return whole(self, *args, **options)

    monkeypatch.setattr(HuggingFaceEngine, "_generate_in_parts", counted)
    status, texts = generate(**options)
    assert (status, len(calls), len(texts)) == (0, 1, 6)
    assert generate(output="unbroken", **options)[1] == texts


def test_prompts_without_a_sentence_are_refused(generate, prompts, capsys):
    prompts.write_text("\n", encoding="utf-8")
    assert generate() == (2, None)
    assert "holds no sentence" in capsys.readouterr().err


def test_a_folder_of_another_run_is_refused_and_kept(generate, other_transport, capsys):
    _, texts = generate(strength="0,1", max_new_tokens=3)
    status, after = generate(strength="0,1", max_new_tokens=3, transport=other_transport)
    assert (status, after) == (2, texts)
    assert 'holds another sweep (method: "linear" there, "mean" now' in capsys.readouterr().err


def test_a_folder_of_other_strengths_names_these_alone(generate, capsys):
    assert generate(strength="0,1", max_new_tokens=3)[0] == 0
    assert generate(strength="0,0.5,1", max_new_tokens=3)[0] == 2
    assert "(strength: [0.0, 1.0] there, [0.0, 0.5, 1.0] now):" in capsys.readouterr().err


def test_a_prompt_that_leaves_no_room_is_refused(generate, capsys):
    assert generate(max_new_tokens=126)[0] == 2
    assert "max_new_tokens=126" in capsys.readouterr().err


def test_missing_options_are_named(run_command, tiny_transport, capsys):
    assert run_command("generate", tiny_transport) == 2
    assert "--pretrained" in capsys.readouterr().err


def test_a_transport_of_another_model_is_refused(generate, tmp_path, tiny_transport, capsys):
    learned = LearnedTransport.load(tiny_transport)
    signature = learned.metadata.model_signature | {"architecture": "OtherForCausalLM"}
    metadata = dataclasses.replace(learned.metadata, model_signature=signature)
    path = LearnedTransport(learned.maps, metadata).save(tmp_path / "altered")
    assert generate(transport=path)[0] == 2
    assert "was learned on" in capsys.readouterr().err
    assert generate("--force", transport=path, max_new_tokens=2, strength="0")[0] == 0
