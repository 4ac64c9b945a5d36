"""Tasks of a few documents, and a subject of the tiny checkpoint."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest
import torch

CITIES = ["Paris", "Berlin", "France", "Germany", "Question", "Answer", "capital", "the"]

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{text}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
"""
GENERATION = """
task: tiny_writing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "Write {{{{word}}}} :"
doc_to_target: "{{{{word}}}} ."
generation_kwargs: {{until: ["."]}}
"""


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: Path):
    """The tiny checkpoint's model and tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    return types.SimpleNamespace(model=model, tokenizer=tokenizer, folder=tiny_checkpoint)


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of four choices and one that generates, of eight documents each."""
    pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("tasks")
    for name, text in (
        ("tiny_capitals", "the capital of {{word}} is"),
        ("tiny_questions", "Question : the {{word}} ? Answer :"),
    ):
        rows = [
            {"word": word * (1 + place % 3), "choices": CITIES[:4], "answer": place % 4}
            for place, word in enumerate(CITIES)
        ]
        _write(folder / f"{name}.jsonl", rows)
        content = CHOICE.format(name=name, file=folder / f"{name}.jsonl", text=text)
        (folder / f"{name}.yaml").write_text(content)
    _write(folder / "words.jsonl", [{"word": word} for word in CITIES])
    content = GENERATION.format(file=folder / "words.jsonl")
    (folder / "tiny_writing.yaml").write_text(content)
    return folder


@pytest.fixture(scope="session")
def shift_transport(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a transport that shifts the outputs of every block's norm."""
    return save_transport(tiny, tmp_path_factory.mktemp("shift"), "mean")


def save_transport(tiny, folder: Path, method: str) -> Path:
    """Writes a random transport, which scales neurons too if its method is linear."""
    from aim_plugins.modulation.activations import ActivationMaps, AffineMap
    from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata

    generator = torch.Generator().manual_seed(0)
    sites = [f"model.layers.{layer}.post_attention_layernorm" for layer in range(3)]
    scale = torch.full((48,), 2.0 if method == "linear" else 1.0)
    maps = {
        site: AffineMap.everywhere(scale, torch.randn(48, generator=generator)) for site in sites
    }
    metadata = TransportMetadata.describe(tiny.model, tiny.tokenizer, method=method, sites=sites)
    return LearnedTransport(ActivationMaps(maps), metadata).save(folder)


@pytest.fixture
def coverage(tiny, task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs `aim-plugins coverage ...` on the tiny checkpoint; returns status and folder."""
    from aim_plugins import cli

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def run(*words: object, output: str = "out") -> tuple[int, Path]:
        folder = tmp_path / output
        given = {
            "--model": tiny.folder,
            "--include-path": task_folder,
            "--device": "cpu",
            "--output": folder,
        }
        options = [str(one) for pair in given.items() for one in pair]
        return cli.main(["coverage", *options, *map(str, words)]), folder

    return run


def _write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
