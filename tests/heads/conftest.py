"""The command on the tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


@pytest.fixture
def attribute(tiny, task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs `aim-plugins attribute ...` on the tiny checkpoint; returns status and folder."""
    from aim_plugins import cli

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def run(*words: object, output: str = "out", **replaced: object) -> tuple[int, Path]:
        folder = tmp_path / output
        given = {
            "--model": tiny.folder,
            "--tasks": "tiny_capitals",
            "--include-path": task_folder,
            "--device": "cpu",
            "--alpha": 0.2,
            "--num-ablations": 70,
            "--gradient-passes": 4,
            "--eval-alphas": "0.2",
            "--eval-masks": 8,
            "--edit-sizes": "1,2",
            "--random-edits": 2,
            "--output": folder,
        }
        given |= {f"--{name.replace('_', '-')}": value for name, value in replaced.items()}
        options = [str(one) for pair in given.items() for one in pair]
        return cli.main(["attribute", *options, *map(str, words)]), folder

    return run


@pytest.fixture(scope="session")
def token_margin():
    """Mean margin of a choice's tokens by hand, from the logits that transformers returns."""

    def by_hand(model, tokenizer, context: str, choice: str) -> float:
        start = len(tokenizer(context)["input_ids"])
        ids = tokenizer(context + choice)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].tolist()
        margins = [
            logits[place - 1][ids[place]]
            - max(value for token, value in enumerate(logits[place - 1]) if token != ids[place])
            for place in range(start, len(ids))
        ]
        return sum(margins) / len(margins)

    return by_hand


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take longer than everything else."""
    from aim_plugins.heads import front

    for name in ("components", "prediction", "correlations", "path", "documents"):
        monkeypatch.setattr(front, f"draw_{name}", lambda *given: {"png": b"\x89PNG\r\n\x1a\n"})
