"""Coverage of the tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


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
