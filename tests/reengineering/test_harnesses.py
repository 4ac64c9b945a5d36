"""Harnesses answer under the masks of a path as the models do that removal leaves."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from aim_plugins.modulation.masks import retained_ratio
from aim_plugins.modulation.retained import LearnedMasks, MaskMetadata, MaskPoint
from aim_plugins.reengineering.groups import find_removable, masks_of
from aim_plugins.reengineering.importance import keep_most_important
from aim_plugins.reengineering.removal import channel_counts, smaller_model

pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def path(tiny, tmp_path_factory: pytest.TempPathFactory):
    """Masks of two shares, their ratios, and the models that removal leaves."""
    removable = find_removable(tiny.model)
    generator = torch.Generator().manual_seed(0)
    drawn = {one.name: torch.rand(one.size, generator=generator) for one in removable.groups}
    points, models = [], []
    for share in (0.75, 0.5):
        counts = channel_counts(tiny.model.config, removable, share)
        kept = keep_most_important(drawn, counts)
        points.append(MaskPoint(masks_of(tiny.model, removable.groups, kept)))
        models.append(smaller_model(tiny.model, removable, kept))
    first = points[0].masks
    metadata = MaskMetadata.of_model(
        tiny.model,
        sites=first,
        method="channel",
        shapes=[list(one.shape) for one in first.values()],
        ratios=[retained_ratio(tiny.model, one.masks) for one in points],
        notes=[{}, {}],
    )
    folder = LearnedMasks(points, metadata).save(tmp_path_factory.mktemp("masks"))
    return folder, metadata.ratios, models


def log_likelihood(model, tokenizer, text: str, first: int) -> float:
    """Of the tokens from a place on."""
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logs = model(ids).logits[0].log_softmax(-1)
    return float(sum(logs[place - 1, ids[0, place]] for place in range(first, ids.shape[1])))


def test_a_sweep_takes_the_whole_path(path, tiny, task_folder, tmp_path: Path, monkeypatch) -> None:
    from aim_plugins import cli
    from aim_plugins.sweep import front
    from aim_plugins.task_documents import load_documents

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(front, "_draw", lambda *given: None)
    folder, ratios, models = path
    words = ["sweep", "lm-eval", "--model", "aim_hf", "--device", "cpu"]
    words += ["--model_args", f"pretrained={tiny.folder},dtype=float32"]
    words += ["--mask", str(folder), "--retained-ratio", "path", "--tasks", "tiny_capitals"]
    words += ["--include_path", str(task_folder), "--output", str(tmp_path / "out")]
    assert cli.main(words) == 0
    with open(tmp_path / "out" / "sweep.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"].partition(",")[0] == "acc"]
    found = {float(row["strength"]): float(row["value"]) for row in rows}
    documents = load_documents(["tiny_capitals"], str(task_folder))["tiny_capitals"]
    expected = {}
    for ratio, model in zip([1.0, *ratios], [tiny.model, *models], strict=True):
        hits = []
        for one in documents:
            first = len(tiny.tokenizer(one.context)["input_ids"])
            scores = [
                log_likelihood(model, tiny.tokenizer, "".join(pair), first) for pair in one.options
            ]
            hits.append(scores.index(max(scores)) == one.place)
        expected[ratio] = sum(hits) / len(hits)
    assert found == expected


def test_opencompass_answers_under_a_mask(path, tiny) -> None:
    pytest.importorskip("opencompass")
    from aim_plugins.harnesses.opencompass import HuggingFaceNoiseModel

    folder, ratios, models = path
    masked = HuggingFaceNoiseModel(
        path=str(tiny.folder),
        mask=str(folder),
        retained_ratio=ratios[1],
        model_kwargs={"device_map": "cpu"},
    )
    text = "the capital of France is Paris"
    count = len(tiny.tokenizer(text)["input_ids"])
    # OpenCompass divides by all tokens of the text, of which the first is not predicted.
    expected = -log_likelihood(models[1], tiny.tokenizer, text, 1) / count
    assert float(masked.get_ppl([text])[0]) == pytest.approx(expected, abs=1e-4)
