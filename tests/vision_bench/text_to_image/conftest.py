"""Tiny pipelines in folders, for commands that load them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

from tests.vision_bench.diffusion.conftest import made, make_sd, make_sdxl
from vision_bench.cli import main

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


def images(*words: Any) -> int:
    """Runs `vision-bench images`; returns its exit status."""
    return main(["images", *map(str, words)])


def write_prompts(path: Path, prompts: Sequence[str]) -> Path:
    path.write_text("\n".join(prompts) + "\n", encoding="utf-8")
    return path
