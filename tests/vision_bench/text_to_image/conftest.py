"""Tiny pipelines in folders, for commands that load them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

from tests.vision_bench.diffusion.conftest import made, make_sd, make_sdxl
from vision_bench.cli import main
from vision_bench.text_to_image import fit

SOURCE = ["a red coat", "a blue boot", "red boot", "coat"]
TARGET = ["a striped coat", "striped", "a blue coat striped"]


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of a Stable Diffusion, one without its autoencoder, and a Stable Diffusion XL."""
    folder = tmp_path_factory.mktemp("pipelines")
    sd = made(make_sd)
    sd.save_pretrained(folder / "sd")
    sd.register_modules(vae=None)
    sd.save_pretrained(folder / "blind")
    made(make_sdxl).save_pretrained(folder / "sdxl")
    return folder


@pytest.fixture(scope="session")
def sides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options that name both sides' prompts."""
    folder = tmp_path_factory.mktemp("prompts")
    words = []
    for name, prompts in (("source", SOURCE), ("target", TARGET)):
        write_prompts(folder / f"{name}.txt", prompts)
        words += [f"--{name}", str(folder / f"{name}.txt")]
    return words


@pytest.fixture(scope="session")
def transport(pipelines: Path, sides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a transport of the Stable Diffusion, fitted at two steps."""
    folder = tmp_path_factory.mktemp("transports") / "sd"
    words = ["--pipeline", pipelines / "sd", *sides, "--num-inference-steps", 2]
    assert images("fit", *words, "--guidance-scale", 3, "--support", "none", "-o", folder) == 0
    return folder


@pytest.fixture
def accelerated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lets the CPU stand for an accelerator; which kinds of offload were asked for."""
    from accelerate import cpu_offload
    from diffusers import DiffusionPipeline

    asked: list[str] = []
    whole = DiffusionPipeline.enable_model_cpu_offload

    def by_models(pipe: Any, device: Any) -> None:
        asked.extend({"model"} - set(asked))  # behind each call a pipeline does it again
        whole(pipe, device="cpu")

    def by_layers(pipe: Any, device: Any) -> None:
        asked.append("sequential")
        for one in pipe.components.values():
            if isinstance(one, torch.nn.Module):
                cpu_offload(one, torch.device("cpu"))

    monkeypatch.setattr(fit, "best_device", lambda device: torch.device("cuda"))
    monkeypatch.setattr(DiffusionPipeline, "enable_model_cpu_offload", by_models)
    monkeypatch.setattr(DiffusionPipeline, "enable_sequential_cpu_offload", by_layers)
    return asked


def images(*words: Any) -> int:
    """Runs `vision-bench images`; returns its exit status."""
    return main(["images", *map(str, words)])


def write_prompts(path: Path, prompts: Sequence[str]) -> Path:
    path.write_text("\n".join(prompts) + "\n", encoding="utf-8")
    return path
