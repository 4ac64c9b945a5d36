"""Tiny models of every architecture, and the command on the tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers


def make_model(kind: str):
    """A random model of two blocks, with three key-value heads of two query heads each."""
    given = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "gpt2":
        own = transformers.GPT2Config(n_positions=32, n_embd=32, n_layer=2, n_head=4, **given)
    else:
        config = {
            "llama": transformers.LlamaConfig,
            "llama, biases": transformers.LlamaConfig,
            "mistral": transformers.MistralConfig,
            "qwen2": transformers.Qwen2Config,
            "qwen3": transformers.Qwen3Config,
        }[kind]
        if kind == "llama, biases":
            given |= {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
        if kind == "qwen3":
            given |= {"head_dim": 16}
        own = config(
            hidden_size=48,
            intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=3,
            max_position_embeddings=32,
            **given,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(own)
        for parameter in model.parameters():  # biases too, which start at 0
            parameter.data.normal_(std=0.3)
    return model.eval()


@pytest.fixture
def reengineer(tiny, task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs `aim-plugins reengineer ...` on the tiny checkpoint; returns status and folder."""
    from aim_plugins import cli

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def run(*words: object, output: str = "out", **replaced: object) -> tuple[int, Path]:
        folder = tmp_path / output
        given = {
            "--model": tiny.folder,
            "--tasks": "tiny_capitals",
            "--include-path": task_folder,
            "--device": "cpu",
            "--shares": "0.75,0.5",
            "--removals": 2,
            "--output": folder,
        }
        given |= {f"--{name.replace('_', '-')}": value for name, value in replaced.items()}
        options = [str(one) for pair in given.items() for one in pair]
        return cli.main(["reengineer", *options, *map(str, words)]), folder

    return run
