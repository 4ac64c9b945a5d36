"""`vision-bench classify --edit`: an edit's strengths, alone and beside noise, on digits."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import binomtest

from aim_plugins.modulation.component_kinds import find_components
from aim_plugins.modulation.edits import ComponentEdit, baked
from aim_plugins.sweep.table import COLUMNS
from vision_bench import cli
from vision_bench.classification.settings import ClassifySettings
from vision_bench.data.classification import load_dataset
from vision_bench.logits import cache
from vision_bench.models.load import load_model
from vision_bench.models.model import named_module

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = 60
WORDS = ("--dataset", "digits", "--model", "resnet20", "--preprocessing", "published")


@pytest.fixture(scope="module")
def model(weights: Path):
    return load_model("cifar10_resnet20", weights=weights, preprocessing="published")


@pytest.fixture(scope="module")
def edit(model, tmp_path_factory) -> Path:
    """An edit of a few filters that matter."""
    named = named_module(model.module)
    chosen = find_components(named, "conv_filters", ["conv1"]).take(range(12))
    made = ComponentEdit.of_model(named, chosen, method="by hand")
    return made.save(tmp_path_factory.mktemp("edit") / "edit")


@pytest.fixture(scope="module")
def classify(weights: Path, tmp_path_factory) -> Callable[..., Path]:
    """Runs the command; the logits of all runs are shared."""
    logits = tmp_path_factory.mktemp("logits")
    config = logits / "digits.py"
    config.write_text(
        f'dataset, model, weights = "digits", "resnet20", {str(weights)!r}\n'
        f'preprocessing, limit, logits_cache = "published", {IMAGES}, {str(logits)!r}\n'
    )

    def run(folder: Path, *options: str, status: int = 0) -> Path:
        assert cli.main(["classify", str(config), "--output", str(folder), *options]) == status
        return folder

    return run


@pytest.fixture(scope="module")
def swept(classify, edit, tmp_path_factory) -> Path:
    options = ("--edit", str(edit), "--edit-strength", "0,0.5,1")
    return classify(tmp_path_factory.mktemp("swept") / "out", *options)


def table(folder: Path, name: str = "sweep.csv") -> list[dict[str, str]]:
    with open(folder / name, newline="") as file:
        return list(csv.DictReader(file))


def values(folder: Path, metric: str) -> list[float]:
    rows = table(folder)
    return [float(r["value"]) for r in rows if (r["task"], r["metric"]) == ("digits-test", metric)]


@torch.inference_mode()
def answers_of(network) -> tuple[torch.Tensor, torch.Tensor]:
    """What a network answers to the images in one pass of its own, and the labels."""
    preprocessing = load_model("cifar10_resnet20", weights="random").preprocessing
    data = load_dataset("digits", preprocessing=preprocessing, limit=IMAGES)
    images = torch.stack([data[place][0] for place in range(len(data))])
    return network(images).argmax(1), data.labels


def test_every_strength_is_the_checkpoint_with_scaled_weights(swept, model, edit):
    learned = ComponentEdit.load(edit)
    expected = []
    for strength in (0.0, 0.5, 1.0):
        answers, labels = answers_of(baked(named_module(model.module), learned, strength))
        expected.append(float((answers == labels).double().mean()))
    assert values(swept, "acc") == pytest.approx(expected, abs=1e-12)
    assert expected[0] > expected[2]
    assert [float(row["strength"]) for row in table(swept)[:3]] == [0.0, 0.5, 1.0]
    assert {row["draw"] for row in table(swept)} == {""}
    assert not [row for row in table(swept) if row["metric"].endswith("_expected")]


def test_strength_0_is_the_plain_run_to_the_bit(swept, classify, tmp_path):
    plain = classify(tmp_path / "plain", "--noise-std", "0")
    for name in ("sweep.csv", "classes.csv"):
        rows = [row for row in table(plain, name) if not row["metric"].endswith("_expected")]
        own = [row for row in table(swept, name) if float(row["strength"]) == 0]
        own = [{column: row[column] for column in COLUMNS} for row in own]
        assert [row | {"draw": ""} for row in rows] == own


def test_images_are_read_once_and_logits_are_kept_for_every_strength(
    classify, edit, tmp_path, monkeypatch
):
    passes: list[list[int]] = []
    read = cache.read_samples

    def counted(data, batches, workers):
        passes.append(sum(batches, []))
        return read(data, batches, workers)

    monkeypatch.setattr(cache, "read_samples", counted)
    kept = ("--logits-cache", str(tmp_path / "logits"), "--batch-size", "32")
    options = (*kept, "--edit", str(edit), "--edit-strength")
    classify(tmp_path / "few", *options, "0,1")
    assert passes == [list(range(IMAGES))]
    before = {path: path.read_bytes() for path in (tmp_path / "logits").rglob("logits.safetensors")}
    assert len(before) == 2
    classify(tmp_path / "more", *options, "0,0.25,1")
    assert len(passes) == 2
    assert all(path.read_bytes() == content for path, content in before.items())


def test_differences_are_paired_with_the_model_as_it_is(swept, model, edit, capsys):
    learned, named = ComponentEdit.load(edit), named_module(model.module)
    whole, labels = answers_of(named)
    after, _ = answers_of(baked(named, learned, 1.0))
    won = int(((after == labels) & (whole != labels)).sum())
    lost = int(((after != labels) & (whole == labels)).sum())
    first, _, last = table(swept, "differences.csv")
    assert float(first["difference"]) == 0 and float(first["p"]) == 1
    assert float(last["difference"]) == pytest.approx((won - lost) / IMAGES)
    assert float(last["p"]) == pytest.approx(binomtest(won, won + lost).pvalue)
    assert float(last["difference_low"]) < float(last["difference"]) < 0
    page = (swept / "report.html").read_text()
    assert "Accuracy along the edit strength, without noise" in page


def test_noise_and_edit_make_a_grid(swept, classify, model, edit, tmp_path):
    options = ("--edit", str(edit), "--edit-strength", "0,1", "--noise-std", "0,4", "--draws", "2")
    grid = classify(tmp_path / "grid", *options)
    rows = [row for row in table(grid) if row["metric"] == "acc"]
    places = [(float(row["strength"]), float(row["second_strength"])) for row in rows]
    assert set(places) == {(0.0, 0.0), (4.0, 0.0), (0.0, 1.0), (4.0, 1.0)}
    # What each of the two does alone stands at the other's 0.
    found = dict(zip(places, values(grid, "acc"), strict=True))
    alone = values(swept, "acc")
    assert [found[0.0, 0.0], found[0.0, 1.0]] == [alone[0], alone[2]]
    weights = tmp_path / "baked.safetensors"
    learned = ComponentEdit.load(edit)
    save_file(baked(named_module(model.module), learned).state_dict(), weights)
    noisy = classify(
        tmp_path / "alone", "--weights", str(weights), "--noise-std", "0,4", "--draws", "2"
    )
    edited = [row for row in table(grid) if row["second_strength"] == "1.0"]
    law = [float(row["value"]) for row in edited if row["metric"] == "acc_expected"]
    assert law == pytest.approx(values(noisy, "acc_expected"), abs=1e-5)
    assert (grid / "curves" / "digits-test-acc.png").is_file()


def test_one_strength_of_an_edit_is_said_beside_a_curve_of_noise(classify, edit, tmp_path):
    options = ("--edit", str(edit), "--edit-strength", "0.5", "--noise-std", "0,4")
    found = classify(tmp_path / "out", *options)
    assert "second_strength" not in table(found)[0]
    assert [float(r["strength"]) for r in table(found) if r["metric"] == "acc"] == [0.0, 4.0]
    assert "edit strength s = 0.5" in (found / "report.html").read_text()


def test_an_edit_that_was_made_anew_in_its_folder_is_another_study(
    classify, model, tmp_path, capsys
):
    named = named_module(model.module)
    folder, options = tmp_path / "edit", ("--edit", str(tmp_path / "edit"), "--edit-strength", "1")
    for number, status in ((0, 0), (1, 2)):
        chosen = find_components(named, "conv_filters", ["conv1"]).take([number])
        ComponentEdit.of_model(named, chosen, method="by hand").save(folder)
        classify(tmp_path / "out", *options, status=status)
    assert "edit_fingerprint" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["edit"] == str(folder)


def test_an_edit_of_another_model_is_refused_and_runs_if_forced(classify, tmp_path, capsys):
    torch.manual_seed(1)
    other = named_module(load_model("cifar10_resnet20", weights="random").module)
    chosen = find_components(other, "conv_filters", ["conv1"]).take([0])
    folder = ComponentEdit.of_model(other, chosen, method="by hand").save(tmp_path / "edit")
    options = ("--edit", str(folder), "--edit-strength", "0,1")
    classify(tmp_path / "out", *options, status=2)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "edit was learned on another model" in line and "--force-edit" in line
    assert not (tmp_path / "out").exists()
    classify(tmp_path / "out", *options, "--force-edit")


@pytest.mark.parametrize(("mine", "warned"), [("published", True), ("size=32", False)])
def test_an_edit_made_with_other_preprocessing_is_warned_of(edit, tmp_path, caplog, mine, warned):
    learned = ComponentEdit.load(edit)
    metadata = replace(learned.metadata, settings={"preprocessing": "size=32"})
    folder = replace(learned, metadata=metadata).save(tmp_path / "edit")
    ClassifySettings(
        dataset="digits", model="resnet20", edit=str(folder), preprocessing=mine
    ).columns()
    assert (f"with preprocessing='size=32', and here it is {mine!r}" in caplog.text) == warned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--edit-strength", "0:1:0.5"), "edit_strength='0:1:0.5' is of an edit: add its folder"),
        (("--force-edit",), "force_edit=True is of an edit: add its folder"),
        (("--edit", "{}", "--edit-strength", "0,2"), "edit_strength=2.0 is out of range"),
        (("--edit", "{}", "--edit-strength", "-0.5"), "edit_strength=-0.5 is negative"),
        (("--edit", "{}", "--focus-target", "3"), "focus_target=['3'] is of noise"),
        (("--edit", "{}/none"), "none"),
        (("--edit", "{}/.."), "has no file 'edit.json'"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_line(
    classify, edit, tmp_path, capsys, options, message
):
    classify(tmp_path / "out", *(one.format(edit) for one in options), status=2)
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()
