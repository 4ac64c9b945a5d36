"""A transport of the tiny checkpoint, and the same steering by hooks written by hand."""

from __future__ import annotations

import contextlib
import types
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: Path):
    """The tiny checkpoint's model and tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    return types.SimpleNamespace(model=model, tokenizer=tokenizer, folder=tiny_checkpoint)


@pytest.fixture(scope="session")
def tiny_transport(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random transport of its norms behind the attention."""
    return random_transport(tiny, tmp_path_factory.mktemp("transport"), "linear", seed=0)


@pytest.fixture(scope="session")
def other_transport(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of another one."""
    return random_transport(tiny, tmp_path_factory.mktemp("other"), "mean", seed=1)


def random_transport(tiny, folder: Path, method: str, seed: int) -> Path:
    from aim_plugins.modulation.activations import ActivationMaps, AffineMap
    from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata

    generator = torch.Generator().manual_seed(seed)
    sites = [f"model.layers.{layer}.post_attention_layernorm" for layer in range(3)]
    maps = {}
    for site in sites:
        scale = 1 + 0.5 * torch.randn(48, generator=generator)
        maps[site] = AffineMap.everywhere(scale, 0.5 * torch.randn(48, generator=generator))
    metadata = TransportMetadata.describe(tiny.model, tiny.tokenizer, method=method, sites=sites)
    return LearnedTransport(ActivationMaps(maps), metadata).save(folder)


@pytest.fixture
def steered_by_hand(tiny):
    """Context that steers the tiny model with plain forward hooks, from the files alone."""
    from safetensors.torch import load_file

    @contextlib.contextmanager
    def steer(folder: Path, strength: float):
        tensors = load_file(folder / "transport.safetensors")
        handles = []
        for name in {key.rpartition(".")[0] for key in tensors}:
            scale, shift = tensors[f"{name}.scale"], tensors[f"{name}.shift"]

            def hook(module, inputs, output, scale=scale, shift=shift):
                return (1 - strength) * output + strength * (scale * output + shift)

            handles.append(tiny.model.get_submodule(name).register_forward_hook(hook))
        try:
            yield tiny.model
        finally:
            for handle in handles:
                handle.remove()

    return steer


@pytest.fixture
def run_command():
    """Runs `aim-plugins transport ...`; returns the exit status."""
    from aim_plugins import cli

    return lambda *words: cli.main(["transport", *map(str, words)])
