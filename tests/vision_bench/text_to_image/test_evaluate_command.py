"""`vision-bench images evaluate`: scores against brute force on the files, resuming, the page."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

pytest.importorskip("diffusers")

from tests.conftest import die_in_a_copy
from tests.vision_bench.text_to_image.conftest import images, write_prompts
from vision_bench.text_to_image import evaluation, generation

PLAIN = ["a red coat", "a striped boot", "a blue coat", "boot"]
STRENGTHS = [0.0, 0.5, 1.0]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config whose prompts have plain captions, sources and targets."""
    folder = tmp_path_factory.mktemp("asked")
    files = {"root": PLAIN, "plain": PLAIN, "source": PLAIN}
    files["target"] = [f"{text} in ink" for text in PLAIN]
    prompts = {name: str(write_prompts(folder / f"{name}.txt", one)) for name, one in files.items()}
    path = folder / "config.py"
    path.write_text(
        f"generate = dict(prompts={ {**prompts, 'concept': 'ink'} }, strength='0:1:0.5', seed=5)\n"
        "evaluate = dict(batch_size=4, shown=2)\n"
    )
    return path


@pytest.fixture
def words(transport: Path, pipelines: Path, config: Path, clip: Path) -> list[Any]:
    """What names transport, pipeline, prompts and the CLIP."""
    base = [transport, "--pipeline", pipelines / "sd", "--config", config]
    return [*base, "--clip", clip, "--device", "cpu"]


@pytest.fixture(scope="module")
def scored(transport, pipelines, config, clip, tmp_path_factory) -> Path:
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    base = [transport, "--pipeline", pipelines / "sd", "--config", config, "--device", "cpu"]
    assert images("evaluate", *base, "--clip", clip, "-o", folder) == 0
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def content(folder: Path) -> dict[str, bytes]:
    """All final files but the manifest and the page, which hold a time and the command's words."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and path.name not in ("manifest.json", ".lock", "report.html")
        and "records" not in path.parts
    }


@pytest.fixture(scope="module")
def expected(scored: Path, clip: Path) -> dict[str, np.ndarray]:
    """Scores of the written files, by transformers itself and the formulas of the paper."""
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(clip).eval()
    tokenizer = CLIPTokenizer.from_pretrained(clip)
    processor = CLIPImageProcessorPil.from_pretrained(clip)

    def unit(features: torch.Tensor) -> np.ndarray:
        found = features.detach().double().numpy()
        return found / np.linalg.norm(found, axis=-1, keepdims=True)

    def text(words: str) -> np.ndarray:
        return unit(model.get_text_features(**tokenizer(words, return_tensors="pt")).pooler_output)[
            0
        ]

    names = ["concept_presence", "image_similarity", "prompt_similarity", "target_similarity"]
    found = {name: np.zeros((4, 3)) for name in [*names, "directional_similarity"]}
    for number, caption in enumerate(PLAIN):
        seen = []
        for strength in STRENGTHS:
            with Image.open(scored / f"images/strength={strength:g}/{number}.png") as image:
                inputs = processor(image.convert("RGB"), return_tensors="pt")
            seen.append(unit(model.get_image_features(**inputs).pooler_output)[0])
        target, something = text(f"{caption} in ink"), text("A picture of something.")
        for place, image in enumerate(seen):
            logits = [image @ text("A picture of ink."), image @ something]
            odds = np.exp(model.logit_scale.exp().item() * np.array(logits))
            found["concept_presence"][number, place] = odds[0] / odds.sum()
            found["image_similarity"][number, place] = image @ seen[0]
            found["prompt_similarity"][number, place] = image @ text(caption)
            found["target_similarity"][number, place] = image @ target
            if place:
                moved, words = image - seen[0], target - text(caption)
                cosine = moved @ words / np.linalg.norm(moved) / np.linalg.norm(words)
                found["directional_similarity"][number, place] = cosine
    return found


def test_the_table_is_what_brute_force_makes_of_the_written_images(scored, expected) -> None:
    rows = {(row["metric"], float(row["strength"])): row for row in rows_of(scored / "sweep.csv")}
    assert {metric for metric, _ in rows} == set(expected)
    for metric, table in expected.items():
        for place, strength in enumerate(STRENGTHS):
            if metric == "directional_similarity" and strength == 0:
                assert (metric, strength) not in rows
                continue
            row, column = rows[metric, strength], table[:, place]
            assert (row["task"], row["n"], row["draw"]) == ("root", "4", "")
            assert float(row["value"]) == pytest.approx(column.mean(), abs=2e-4)
            if metric == "image_similarity" and strength == 0:
                assert row["stderr"] == ""
            else:
                assert float(row["stderr"]) == pytest.approx(stats.sem(column), abs=2e-4)
    assert expected["image_similarity"][:, 2].max() < 0.9999  # images do change


def test_scores_of_every_image_are_those_of_brute_force(scored, expected) -> None:
    rows = rows_of(scored / "scores.csv")
    assert [(int(row["number"]), float(row["strength"])) for row in rows] == [
        (number, strength) for number in range(4) for strength in STRENGTHS
    ]
    for index, row in enumerate(rows):
        for metric, table in expected.items():
            if metric == "directional_similarity" and index % 3 == 0:
                assert row[metric] == "nan"
                continue
            tolerance = 5e-3 if metric == "directional_similarity" else 2e-4
            assert float(row[metric]) == pytest.approx(table.flat[index], abs=tolerance)


def test_differences_are_in_pairs(scored, expected) -> None:
    rows = rows_of(scored / "differences.csv")
    compared = ["concept_presence", "prompt_similarity", "target_similarity"]
    assert [(row["metric"], float(row["strength"])) for row in rows] == [
        (metric, strength) for metric in compared for strength in (0.5, 1.0)
    ]
    for row in rows:
        table = expected[row["metric"]]
        gain = table[:, STRENGTHS.index(float(row["strength"]))] - table[:, 0]
        assert float(row["difference"]) == pytest.approx(gain.mean(), abs=3e-4)
        reach = stats.t.ppf(0.975, 3) * stats.sem(gain)
        assert float(row["difference_high"]) - gain.mean() == pytest.approx(reach, abs=3e-3)
        # Of four images, signs fall like this in one case of eight at least.
        assert float(row["p"]) >= 0.125


def test_the_page_has_each_strengths_images(scored) -> None:
    page = (scored / "report.html").read_text()
    data = json.loads(
        re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page)[1]
    )
    viewer = data["images"]["root"]
    assert viewer["strengths"] == ["0", "0.5", "1"]
    assert [one["name"] for one in viewer["documents"]] == ["0: a red coat", "3: boot"]
    for number, shown in zip((0, 3), viewer["documents"], strict=True):
        for strength, uri in zip(STRENGTHS, shown["pictures"], strict=True):
            with Image.open(BytesIO(b64decode(uri.split(",")[1]))) as seen:
                found = np.asarray(seen.convert("RGB"))
            with Image.open(scored / f"images/strength={strength:g}/{number}.png") as image:
                assert (found == np.asarray(image.convert("RGB"))).all()
        assert shown["references"] == [["at strength 0", shown["pictures"][0]]]
        assert "prompt similarity" in shown["captions"][1]
    assert "cannot be told apart from that at λ = 0" in page
    assert "Effect against similarity" in page and "data:image/png;base64," in page
    assert {path.name for path in (scored / "curves").glob("*.png")} >= {
        "root-exchange.png",
        "root-concept_presence.png",
        "root-image_similarity.png",
    }


@pytest.mark.parametrize("moment", ["images", "scores"])
def test_a_killed_run_makes_nothing_again_and_ends_as_an_undisturbed_one(
    moment, words, tmp_path, monkeypatch
) -> None:
    killed = tmp_path / "killed"
    monkeypatch.setattr(evaluation, "_TOGETHER", 2)
    save, score = generation.save_picture, evaluation.score_images
    scorings: list[int] = []

    def save_and_die(path: Path, picture: Image.Image) -> Path:
        written = save(path, picture)
        if len(list(killed.rglob("images/*/*.png"))) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    def score_and_die(*arguments: Any, **options: Any) -> Any:
        scorings.append(1)
        if len(scorings) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return score(*arguments, **options)

    with monkeypatch.context() as patch:
        if moment == "images":
            patch.setattr(generation, "save_picture", save_and_die)
        else:
            patch.setattr(evaluation, "score_images", score_and_die)
        die_in_a_copy(lambda: images("evaluate", *words, "-o", killed))
    kept = {path: path.stat().st_mtime_ns for path in killed.rglob("images/*/*.png")}
    assert len(kept) == (5 if moment == "images" else 12)
    assert not (killed / "sweep.csv").exists()

    def count(*arguments: Any, **options: Any) -> Any:
        scorings.append(1)
        return score(*arguments, **options)

    monkeypatch.setattr(evaluation, "score_images", count)
    with monkeypatch.context() as patch:
        if moment == "scores":
            patch.setattr(generation, "open_pipeline", None)
        assert images("evaluate", *words, "-o", killed) == 0
    assert len(scorings) == (2 if moment == "images" else 1)  # of two
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    whole = tmp_path / "whole"
    assert images("evaluate", *words, "-o", whole) == 0
    assert content(killed) == content(whole)


def test_images_of_generate_are_scored_where_they_lie(words, scored, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    drawing = [word for word in words[:-4] if word != "--clip"]
    assert images("generate", *drawing, "--batch-size", 4, "--no-create-gif", "-o", out) == 0
    monkeypatch.setattr(generation, "open_pipeline", None)
    assert images("evaluate", *words, "-o", out) == 0
    assert content(out) == content(scored)


def test_another_concept_is_scored_on_the_same_images(words, scored, tmp_path, monkeypatch) -> None:
    import shutil

    out = tmp_path / "out"
    shutil.copytree(scored, out)
    monkeypatch.setattr(generation, "open_pipeline", None)
    assert images("evaluate", *words, "--concept", "sand", "-o", out) == 0
    before, after = (
        {row["metric"]: row["value"] for row in rows_of(folder / "sweep.csv")}
        for folder in (scored, out)
    )
    changed = {metric for metric in before if before[metric] != after[metric]}
    assert changed == {"concept_presence"}
    assert json.loads((out / "manifest.json").read_text())["concept"] == "sand"


def test_an_image_that_was_replaced_is_scored_again(words, scored, tmp_path) -> None:
    import shutil

    out = tmp_path / "out"
    shutil.copytree(scored, out)
    Image.new("RGB", (16, 16), (200, 30, 30)).save(out / "images/strength=1/2.png")
    assert images("evaluate", *words, "-o", out) == 0
    before, after = (rows_of(folder / "scores.csv") for folder in (scored, out))
    assert [index for index in range(12) if before[index] != after[index]] == [8]


def test_images_of_a_prompt_are_averaged(words, tmp_path) -> None:
    out = tmp_path / "out"
    assert images("evaluate", *words, "--images-per-prompt", 2, "-o", out) == 0
    every = rows_of(out / "scores.csv")
    values = np.array(
        [float(row["prompt_similarity"]) for row in every if row["strength"] == "1.0"]
    )
    [row] = [
        row
        for row in rows_of(out / "sweep.csv")
        if row["metric"] == "prompt_similarity" and float(row["strength"]) == 1
    ]
    assert row["n"] == "4" and len(values) == 8
    assert float(row["stderr"]) == pytest.approx(stats.sem(values.reshape(4, 2).mean(1)))


def test_prompts_alone_have_no_score_of_the_effect(
    transport, pipelines, clip, tmp_path, capsys
) -> None:
    prompts = write_prompts(tmp_path / "prompts.txt", PLAIN[:1])
    words = [transport, "--pipeline", pipelines / "sd", "--prompts", prompts, "--clip", clip]
    out = tmp_path / "out"
    assert images("evaluate", *words, "--strength", "0,1", "-o", out) == 0
    assert "unknown, as no concept is named" in capsys.readouterr().out
    metrics = {row["metric"] for row in rows_of(out / "sweep.csv")}
    assert metrics == {"image_similarity", "prompt_similarity"}


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--clip", ""], "clip='': pictures are scored by a CLIP; give a folder"),
        (["--clip", "none/such"], "clip='none/such'"),
        (["--strength", "0.5,1"], "strength=0.5, 1: add 0"),
        (["--concept", " "], "concept=' '"),
    ],
)
def test_what_cannot_be_scored_is_said_before_a_pipeline_is_loaded(
    more, named, words, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(generation, "open_pipeline", None)
    assert images("evaluate", *words, *more, "-o", tmp_path / "out") != 0
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_a_clip_it_is_said_what_to_give(words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(generation, "open_pipeline", None)
    words = [word for word in words if word != "--clip"]
    del words[5]
    assert images("evaluate", *words, "-o", tmp_path / "out") == 2
    assert "clip=None: pictures are scored by a CLIP; give a folder" in capsys.readouterr().err
