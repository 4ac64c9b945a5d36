"""Kinds of change combine in OpenCompass: a user's own beside ours, and grids of two strengths."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("opencompass")

from mmengine.config import ConfigDict
from transformers import AutoModelForCausalLM, AutoTokenizer

from aim_plugins.core.strengths import Axis
from aim_plugins.harnesses.opencompass.config.entries import SweepGroup
from aim_plugins.harnesses.opencompass.results.summarizer import SweepSummarizer
from aim_plugins.harnesses.opencompass.results.table import split_sweeps
from aim_plugins.modulation import changes
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.changes import Change, register
from aim_plugins.sweep.table import read_table

TEMPERATURES = (0.5, 1.0, 2.0)
STDS, STRENGTHS = (0.0, 2.0), (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Temperature(Change):
    """The whole of a toy kind of change: logits divided by a temperature."""

    name = "temperature"
    axis = Axis("temperature", "τ", "temperature", low=0.01)
    acts_on = "logits"
    arguments = {"logit_temperature": "what logits are divided by"}
    neutral = 1.0
    strength: float

    def modulate(self, logits, keys, scratch):
        return logits / self.strength


@pytest.fixture(autouse=True, scope="module")
def registered():
    known = dict(changes._kinds)
    register(Temperature)
    yield
    changes._kinds.clear()
    changes._kinds.update(known)


def entry(checkpoint: Path, abbr: str, **settings) -> dict:
    return {
        "type": "aim_plugins.harnesses.opencompass.HuggingFaceNoiseModel",
        "abbr": abbr,
        "path": str(checkpoint),
        "model_kwargs": {"torch_dtype": "torch.float32", "device_map": "cpu"},
        "max_out_len": 6,
        "batch_size": 4,
        "run_cfg": {"num_gpus": 0},
        **settings,
    }


def hot(checkpoint: Path, temperature: float, abbr: float | None = None) -> dict:
    name = f"tiny-t{temperature if abbr is None else abbr}"
    return entry(checkpoint, name, generation_kwargs={"logit_temperature": temperature})


@pytest.fixture(scope="module")
def toy_run(run_opencompass, tiny_checkpoint, tmp_path_factory):
    models = [hot(tiny_checkpoint, temperature) for temperature in TEMPERATURES]
    return run_opencompass(tmp_path_factory.mktemp("toy") / "run", models)


def test_a_toy_kinds_perplexities_are_those_of_a_softmax_by_hand(
    toy_run, tiny_checkpoint, read_answers
):
    assert toy_run.tasks == [["tiny-t0.5", "tiny-t1.0", "tiny-t2.0"]]
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    for temperature in TEMPERATURES:
        answers = read_answers(toy_run, "predictions", f"tiny-t{temperature}", "choice")
        for answer in answers.values():
            assert "probability" not in answer["label: A"]  # no law is known of it
            ids = tokenizer(answer["label: A"]["prompt"], return_tensors="pt")["input_ids"]
            with torch.no_grad():
                logits = model(ids).logits[0, :-1].double() / temperature
            law = logits.log_softmax(-1)[torch.arange(len(logits)), ids[0, 1:]]
            assert answer["label: A"]["PPL"] == pytest.approx(-float(law.sum()) / ids.shape[1])


def test_a_toy_kind_has_its_own_axis(toy_run):
    SweepSummarizer(toy_run).summarize(time_str="now")
    folder = Path(toy_run.work_dir, "summary", "sweep", "tiny")
    # Dividing all logits alike changes neither which choice wins nor a greedy text.
    values: dict[str, set[float]] = {}
    for row in read_table(folder / "sweep.csv"):
        values.setdefault(row.task, set()).add(row.value)
        assert row.strength in TEMPERATURES and row.second_strength is None
    assert {task: len(found) for task, found in values.items()} == {"choice": 1, "text": 1}
    assert "temperature τ" in (folder / "report.html").read_text(encoding="utf-8")
    assert "temperature τ" in (folder / "curves" / "choice-accuracy.svg").read_text("utf-8")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [axis["name"] for axis in manifest["axes"]] == ["temperature"]
    assert manifest["arguments"]["logit_temperature"] == list(TEMPERATURES)


def test_a_toy_kind_resumes(run_opencompass, toy_run, tiny_checkpoint, read_answers):
    before = read_answers(toy_run, "predictions", "tiny-t0.5", "choice")
    models = [hot(tiny_checkpoint, temperature) for temperature in TEMPERATURES]
    assert run_opencompass(Path(toy_run.work_dir), models).tasks == []
    models[0] = hot(tiny_checkpoint, 0.25, abbr=0.5)
    assert run_opencompass(Path(toy_run.work_dir), models).tasks == [["tiny-t0.5"]]
    assert read_answers(toy_run, "predictions", "tiny-t0.5", "choice") != before


@pytest.fixture(scope="module")
def grid_run(run_opencompass, make_transport, tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    transport = make_transport(folder / "transport", tiny_checkpoint)
    models = [
        entry(
            tiny_checkpoint,
            f"tiny-noise{std}-act{strength}",
            noise_std=std,
            noise_seed=7,
            transport=str(transport),
            strength=strength,
        )
        for std in STDS
        for strength in STRENGTHS
    ]
    return run_opencompass(folder / "run", models)


def choices(read_answers, run, std: float, strength: float) -> list[list[dict]]:
    """What is known of each choice of each document."""
    answers = read_answers(run, "predictions", f"tiny-noise{std}-act{strength}", "choice")
    return [[answer[f"label: {letter}"] for letter in "ABC"] for answer in answers.values()]


def test_noise_and_transport_are_the_axes_of_one_sweep(grid_run, read_answers, capsys):
    assert len(grid_run.tasks) == 1
    SweepSummarizer(grid_run).summarize(time_str="now")
    folder = Path(grid_run.work_dir, "summary", "sweep", "tiny")
    rows = {
        (row.strength, row.second_strength): row.value
        for row in read_table(folder / "sweep.csv")
        if (row.task, row.metric) == ("choice", "accuracy")
    }
    assert rows == {
        (std, strength): pytest.approx(
            read_answers(grid_run, "results", f"tiny-noise{std}-act{strength}", "choice")[
                "accuracy"
            ]
            / 100
        )
        for std in STDS
        for strength in STRENGTHS
    }
    with open(folder / "strengths.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["std"], line["strength"]) for line in lines] == [
        (std, strength) for strength in ("0", "0.5", "1") for std in ("0", "2")
    ]
    assert (folder / "curves" / "choice-accuracy.png").exists()
    heat_map = (folder / "curves" / "choice-accuracy.svg").read_text(encoding="utf-8")
    page = (folder / "report.html").read_text(encoding="utf-8")
    for label in ("noise std σ (logits)", "transport strength λ"):
        assert label in heat_map and label in page
    assert "2 noise stds × 3 transport strengths" in page
    said = capsys.readouterr().out
    assert said.endswith(f"report:    {folder / 'report.html'}\n")
    assert "std strength" in " ".join(said.split())


def test_the_exact_law_stands_at_every_strength_of_a_transport(
    grid_run, tiny_checkpoint, read_answers
):
    """Against the shares of 200,000 draws on the logits that perplexities without noise tell."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    noise = np.random.default_rng(0).normal(0, STDS[1], (200_000, 3))
    for strength in STRENGTHS:
        clean, noisy = (choices(read_answers, grid_run, std, strength) for std in STDS)
        for plain, drawn in zip(clean, noisy, strict=True):
            count = len(tokenizer(plain[0]["prompt"])["input_ids"])
            logits = np.array([-count * choice["PPL"] for choice in plain])
            won = np.bincount((noise + logits).argmax(1), minlength=3) / len(noise)
            law = [choice["probability"] for choice in drawn]
            assert law == pytest.approx(won, abs=5e-3)
            certain = [choice["probability"] for choice in plain]
            assert certain == list(np.arange(3) == logits.argmax())


def test_each_strength_of_a_third_kind_has_a_sweep():
    found = columns_of(
        noise_std=[0, 1], logit_temperature=[1, 2], strength=[0, 1], transport=maps()
    )
    entries = tuple(ConfigDict(abbr=f"e{index}") for index in range(len(found)))
    sweeps = split_sweeps(SweepGroup("g", entries, found))
    assert [sweep.name for sweep in sweeps] == [
        f"g-logit_temperature={temperature}" for temperature in (1, 2)
    ]
    for sweep in sweeps:
        assert [axis.name for axis in sweep.axes] == ["std", "strength"]
        places = list(map(sweep.strengths, sweep.columns))
        assert sorted(places) == [(std, strength) for std in (0, 1) for strength in (0, 1)]


def maps():
    from aim_plugins.modulation.activations import ActivationMaps, AffineMap

    ones = torch.ones(2)
    return ActivationMaps({"site": AffineMap(ones, ones, -ones, ones)})
