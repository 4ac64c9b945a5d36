"""`vision-bench images generate`: the images themselves, resuming, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")

from tests.conftest import die_in_a_copy
from tests.vision_bench.text_to_image.conftest import images, write_prompts
from vision_bench.diffusion.artifact import ImageTransport
from vision_bench.diffusion.pipelines import load_pipeline
from vision_bench.text_to_image import generation

PROMPTS = ["a red coat", "a striped boot", "a blue coat"]
STRENGTHS = [0.0, 0.5, 1.0]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("asked") / "prompts.txt", PROMPTS)


@pytest.fixture
def words(transport: Path, pipelines: Path, prompts: Path) -> list[Any]:
    """What names transport, pipeline and prompts."""
    base = [transport, "--pipeline", pipelines / "sd", "--prompts", prompts]
    return [*base, "--strength", "0:1:0.5", "--batch-size", 2]


@pytest.fixture(scope="module")
def drawn(transport: Path, pipelines: Path, prompts: Path, tmp_path_factory) -> Path:
    """The folder of an undisturbed run, with two images of each prompt."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    base = [transport, "--pipeline", pipelines / "sd", "--prompts", prompts, "--seed", 5]
    more = ["--strength", "0:1:0.5", "--batch-size", 4, "--images-per-prompt", 2]
    assert images("generate", *base, *more, "-o", folder) == 0
    return folder


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def table(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "images.jsonl").read_text("utf-8").splitlines()]


def content(folder: Path) -> dict[str, bytes]:
    """All files but the manifest, which holds a time and the words of the command."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", ".lock")
    }


def test_the_table_names_every_image(drawn: Path) -> None:
    rows = table(drawn)
    assert [(row["number"], row["prompt"], row["seed"], row["strength"]) for row in rows] == [
        (number, PROMPTS[number // 2], 5 + number, strength)
        for number in range(6)
        for strength in STRENGTHS
    ]
    assert rows[1]["file"] == "images/strength=0.5/0.png"
    files = {path.relative_to(drawn).as_posix() for path in drawn.rglob("images/*/*.png")}
    assert {row["file"] for row in rows} == files


def test_images_are_those_of_the_pipeline_under_the_transport(
    drawn: Path, pipelines: Path, transport: Path
) -> None:
    pipe: Any = load_pipeline(str(pipelines / "sd"))
    pipe.set_progress_bar_config(disable=True)
    maps = ImageTransport.load(transport).maps
    # The first batch: two rows of the transport's own settings come from its metadata.
    numbers, strengths = [0, 0, 0, 1], [0.0, 0.5, 1.0, 0.0]

    def made() -> list[np.ndarray]:
        generators = [torch.Generator().manual_seed(5 + number) for number in numbers]
        drawn = pipe([PROMPTS[0]] * 4, generator=generators, num_inference_steps=2)
        return [np.asarray(image) for image in drawn.images]

    pipe.register_to_config(requires_safety_checker=False)
    call, own = type(pipe).__call__, {"guidance_scale": 3.0, "height": 16, "width": 16}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(pipe), "__call__", lambda *a, **k: call(*a, **{**own, **k}))
        plain = made()
        with maps.applied(pipe, strengths):
            moved = made()
    for place, (number, strength) in enumerate(zip(numbers, strengths, strict=True)):
        file = drawn / f"images/strength={strength:g}/{number}.png"
        # Latents are decoded one by one there, and together here: equal up to one grey level.
        assert np.abs(pixels(file).astype(int) - moved[place]).max() <= 1
        if strength == 0:
            assert np.abs(pixels(file).astype(int) - plain[place]).max() <= 1
    assert np.abs(moved[2].astype(int) - plain[2]).max() > 3


def test_options_of_the_original_are_a_grid(words, tmp_path) -> None:
    own = [*words[:5], "--min-strength", 0, "--max-strength", 1, "--strength-steps", 3]
    own += ["--batch-size", 2, "--max-batches", 1, "--no-create-gif"]
    assert images("generate", *own, "-o", tmp_path / "out") == 0
    assert [(row["prompt"], row["strength"]) for row in table(tmp_path / "out")] == [
        (prompt, strength) for prompt in PROMPTS[:2] for strength in STRENGTHS
    ]
    assert not (tmp_path / "out" / "animations").exists()


def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(
    words, tmp_path, monkeypatch, capsys
) -> None:
    assert images("generate", *words, "-o", tmp_path / "whole") == 0
    killed, save = tmp_path / "killed", generation.save_picture

    def save_and_die(path: Path, picture: Image.Image) -> Path:
        written = save(path, picture)
        if len(list(killed.rglob("images/*/*.png"))) == 5:  # in the middle of a batch
            (path.parent / f".{path.name}.1234abcd.tmp").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    with monkeypatch.context() as patch:
        patch.setattr(generation, "save_picture", save_and_die)
        die_in_a_copy(lambda: images("generate", *words, "-o", killed))
    kept = {path: path.stat().st_mtime_ns for path in killed.rglob("images/*/*.png")}
    assert len(kept) == 5 and not (killed / "sheet.png").exists()
    made, make = [], generation.generate_images

    def note(*arguments: Any, **options: Any) -> Iterator[Any]:
        for one in make(*arguments, **options):
            made.append((one.prompt, one.strength))
            yield one

    monkeypatch.setattr(generation, "generate_images", note)
    assert images("generate", *words, "-o", killed) == 0
    assert made == [(1, 0.5), (1, 1.0), (2, 0.0), (2, 0.5), (2, 1.0)]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert content(killed) == content(tmp_path / "whole")
    assert "5 of 9 images are there" in capsys.readouterr().err


def test_a_finished_run_loads_no_pipeline(drawn, words, monkeypatch) -> None:
    before = content(drawn)
    monkeypatch.setattr(generation, "open_pipeline", None)
    again = ["--seed", 5, "--images-per-prompt", 2]
    assert images("generate", *words, *again, "-o", drawn) == 0
    assert content(drawn) == before


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_an_offloaded_pipeline_goes_on_with_the_same_images(
    offload, words, tmp_path, accelerated, monkeypatch
) -> None:
    words += ["--max-batches", 1, "--no-create-gif", "-o", tmp_path / "out"]
    assert images("generate", *words, "--offload", offload) == 0
    assert accelerated == [offload]
    drawn = content(tmp_path / "out")
    for file in ("0.5/0", "1/1"):
        (tmp_path / f"out/images/strength={file}.png").unlink()
    monkeypatch.undo()
    assert images("generate", *words) == 0
    assert content(tmp_path / "out") == drawn


def test_an_interrupted_run_says_that_it_goes_on(words, tmp_path, monkeypatch, capsys) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(generation, "save_picture", interrupt)
    assert images("generate", *words, "-o", tmp_path / "out") == 130
    assert "the same command goes on from there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--seed", 6], "seed: 5 there, 6 now"),
        (["--num-inference-steps", 3], "call: "),
        (["--strength", "0,1"], "strength: "),
    ],
)
def test_the_folder_of_another_run_is_refused(drawn, words, more, named, capsys) -> None:
    base = [*words, "--images-per-prompt", 2, "--seed", 5]
    assert images("generate", *base, *more, "-o", drawn) == 2
    assert named in capsys.readouterr().err


def test_two_processes_do_not_write_at_once(drawn, words, capsys) -> None:
    from filelock import FileLock

    with FileLock(drawn / ".lock"):
        again = ["--seed", 5, "--images-per-prompt", 2]
        assert images("generate", *words, *again, "-o", drawn) == 1
    assert "is being written by another process" in capsys.readouterr().err


def shift_weights(pipeline: Path) -> None:
    file = pipeline / "vae/diffusion_pytorch_model.safetensors"
    save_file({name: one + 1 for name, one in load_file(file).items()}, file)


def space_steps(pipeline: Path) -> None:
    file = pipeline / "scheduler/scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "timestep_spacing": "trailing"}))


def swap_words(pipeline: Path) -> None:
    file = pipeline / "tokenizer/tokenizer.json"
    rules = json.loads(file.read_text())
    words = rules["model"]["vocab"]
    words["coat"], words["boot"] = words["boot"], words["coat"]
    file.write_text(json.dumps(rules))


@pytest.mark.parametrize(
    ("replace", "named"),
    [
        (shift_weights, "pipeline_fingerprint"),
        (space_steps, "scheduler"),
        (swap_words, "tokenizers"),
    ],
)
def test_a_part_of_the_pipeline_that_was_replaced_is_refused(
    replace, named, words, pipelines, tmp_path, capsys
) -> None:
    shutil.copytree(pipelines / "sd", tmp_path / "sd")
    words = [tmp_path / "sd" if word == pipelines / "sd" else word for word in words]
    words += ["--strength", "0,1", "--max-batches", 1, "--no-create-gif", "-o", tmp_path / "out"]
    assert images("generate", *words) == 0
    (tmp_path / "out/images/strength=1/1.png").unlink()
    assert images("generate", *words) == 0
    (tmp_path / "out/images/strength=1/1.png").unlink()
    replace(tmp_path / "sd")
    capsys.readouterr()
    assert images("generate", *words) == 2
    assert f"{named}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pipeline", "more", "named"),
    [
        ("sdxl", [], "was learned on another model"),
        ("blind", [], "no 'vae'"),
        ("none", [], "no such folder"),
        ("sd", ["--strength", "0:1"], "strength='0:1'"),
        ("sd", ["--min-strength", "0"], "give --strength GRID, or the ends"),
        ("sd", ["--prompts", "none.txt"], "no such file"),
        ("sd", ["--prompts", "none.csv"], "suffix"),
        ("sd", ["--height", "12"], "height=12 is no multiple of 8"),
    ],
)
def test_what_cannot_be_drawn_leaves_no_image(
    pipeline, more, named, words, pipelines, tmp_path, capsys
) -> None:
    words = [pipelines / pipeline if word == pipelines / "sd" else word for word in words]
    assert images("generate", *words, *more, "-o", tmp_path / "out") != 0
    assert named in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.png"))


def test_another_size_than_that_of_the_fit_is_warned_of(words, tmp_path, caplog) -> None:
    more = ["--height", 24, "--max-batches", 1, "--no-create-gif"]
    assert images("generate", *words, *more, "-o", tmp_path / "out") == 0
    assert "height=24, and the transport was learned at 16" in caplog.text
    assert pixels(tmp_path / "out/images/strength=1/0.png").shape == (24, 16, 3)


@pytest.mark.parametrize(
    ("more", "dtype"), [([], torch.float32), (["--dtype", "bfloat16"], torch.bfloat16)]
)
def test_weights_have_the_type_of_the_fit(
    more, dtype, words, pipelines, tmp_path, monkeypatch
) -> None:
    """Whatever the files have, here half precision under the name of a variant."""
    half = load_pipeline(str(pipelines / "sd"), torch.float16)
    half.save_pretrained(tmp_path / "half", variant="fp16")
    words = [tmp_path / "half" if word == pipelines / "sd" else word for word in words]
    opened, plainly = [], generation.open_pipeline
    monkeypatch.setattr(
        generation, "open_pipeline", lambda *a: opened.append(plainly(*a)) or opened[-1]
    )
    more = ["--max-batches", 1, "--no-create-gif", "--variant", "fp16", "--force", *more]
    assert images("generate", *words, *more, "-o", tmp_path / "out") == 0
    assert opened[0].unet.dtype == opened[0].vae.dtype == dtype


def test_strengths_beyond_those_of_the_fit_are_warned_of(words, tmp_path, caplog) -> None:
    from aim_plugins.transport.change import warn_once

    warn_once.cache_clear()
    more = ["--strength", "-1,2", "--max-batches", 1, "--no-create-gif"]
    assert images("generate", *words, *more, "-o", tmp_path / "out") == 0
    assert "strength=-1, 2 lies outside 0 to 1" in caplog.text
    assert (tmp_path / "out/images/strength=-1/0.png").exists()
