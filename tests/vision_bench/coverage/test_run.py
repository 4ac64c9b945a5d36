"""`vision-bench coverage run`, end to end on digits: values against neurons read by hand."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aim_plugins.coverage import moments
from aim_plugins.coverage.profile import Profile
from tests.conftest import die_in_a_copy
from vision_bench.cli import main
from vision_bench.coverage import front, measure
from vision_bench.data.classification import load_dataset
from vision_bench.models.load import load_model

pytestmark = pytest.mark.usefixtures("one_thread")

MODULES = ("conv1", "layer1.0.conv1", "layer3.2.conv1", "fc")
SIZES = (16, 16, 64, 10)
SUITE, TRAINING = 90, 160
FEW = ("--criteria", "KMNC,TKNP,NLC,IDC")


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the picture of growth, which takes longer than all else, to the run of `output`."""
    monkeypatch.setattr(front, "growing", lambda *_: None)


@pytest.fixture(scope="module")
def config(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {
        "dataset": "digits",
        "model": "resnet20",
        "weights": str(weights),
        "preprocessing": "published",
        "modules": list(MODULES),
        "limit": SUITE,
        "train_limit": TRAINING,
        "baselines": 0,
        "top_m_neurons": 3,
        "kmnc_buckets": 50,
        "report_classes": [0, 1],
        "batch_size": 32,
    }
    path = tmp_path_factory.mktemp("config") / "digits.py"
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    return path


def run(config: Path, output: Path, *options: str) -> int:
    return main(["coverage", "run", str(config), "--output", str(output), *options])


def values(output: Path) -> dict[str, Any]:
    return json.loads((output / "coverage.json").read_text())


def results(output: Path) -> dict[str, dict[str, Any]]:
    return {one["label"]: one for one in values(output)["results"]}


@pytest.fixture(scope="module")
def output(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    assert run(config, folder, "--baselines", "2", "--end2end") == 0
    return folder


@pytest.fixture(scope="module")
def neurons(weights: Path) -> dict[str, np.ndarray]:
    """Neurons and predictions of both splits, by hooks of this test's own."""
    model = load_model("cifar10_resnet20", weights=str(weights), preprocessing="published")
    found = {}
    for split, limit in (("train", TRAINING), ("test", SUITE)):
        data = load_dataset("digits", split=split, preprocessing=model.preprocessing, limit=limit)
        kept: dict[str, torch.Tensor] = {}
        handles = [
            model.module.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, name=name, kept=kept: kept.update({name: output})
            )
            for name in MODULES
        ]
        with torch.no_grad():
            logits = model.module(torch.stack([data[index][0] for index in range(len(data))]))
        for handle in handles:
            handle.remove()
        parts = [kept[name].double().flatten(2).mean(2) for name in MODULES[:-1]]
        found[split] = torch.cat([*parts, kept["fc"].double()], 1).numpy()
        found[f"{split} classes"] = logits.argmax(1).numpy()
    return found


def _layers() -> list[slice]:
    ends = np.cumsum(SIZES)
    return [slice(end - size, end) for end, size in zip(ends, SIZES, strict=True)]


def test_ranges_and_buckets_are_those_of_neurons_read_by_hand(output, neurons) -> None:
    train, test, found = neurons["train"], neurons["test"], results(output)
    low, high = train.min(0), train.max(0)
    covered = sum(
        len({math.floor(one) for one in np.minimum(scaled, 49.999999999)})
        for column in range(train.shape[1])
        if len(
            scaled := (
                test[(test[:, column] >= low[column]) & (test[:, column] <= high[column]), column]
                - low[column]
            )
            / (high[column] - low[column])
            * 50
        )
    )
    # A value on the edge of a bucket may fall to either side.
    assert found["KMNC"]["value"] == pytest.approx(covered / (50 * train.shape[1]), abs=3e-4)
    above, below = (test > high).any(0), (test < low).any(0)
    assert found["SNAC"]["value"] == pytest.approx(above.mean())
    assert found["NBC"]["value"] == pytest.approx((above.mean() + below.mean()) / 2)


def test_activated_and_most_active_neurons_are_those_read_by_hand(output, neurons) -> None:
    test, found = neurons["test"], results(output)
    activated, top, patterns = [], [], [[] for _ in test]
    for place in _layers():
        rows = test[:, place]
        low, high = rows.min(1, keepdims=True), rows.max(1, keepdims=True)
        activated.append(((rows - low) / (high - low) > 0.5).any(0))
        order = np.sort(np.argsort(-rows, axis=1)[:, :10], axis=1)
        top.append(len(np.unique(order)))
        for pattern, row in zip(patterns, order, strict=True):
            pattern.append(tuple(row))
    assert found["NC"]["value"] == pytest.approx(np.concatenate(activated).mean())
    assert found["TKNC"]["value"] == pytest.approx(sum(top) / sum(SIZES))
    assert found["TKNP"]["value"] == len({tuple(one) for one in patterns})
    covariances = sum(np.abs(np.cov(test[:, one].T, bias=True)).mean() for one in _layers())
    assert found["NLC"]["value"] == pytest.approx(covariances, rel=1e-4)


def test_idc_counts_combinations_of_the_neurons_in_the_reference(output, neurons) -> None:
    found = results(output)
    for label, number in (("IDC", 0), ("IDC end to end", 1)):
        columns, centres = _important(output, number)
        if label == "IDC":
            assert all(32 <= column < 96 for column in columns)  # the layer before the last

        def combinations(rows: np.ndarray, columns=columns, centres=centres) -> set:
            ends = [sum(one) / 2 for one in centres]
            return {tuple(row[columns] > ends) for row in rows}

        assert found[label]["value"] == len(combinations(neurons["test"])) / 8
        assert found[label]["training"] == len(combinations(neurons["train"])) / 8
        assert found[label]["total"] == 8


def _important(output: Path, number: int) -> tuple[list[int], list[list[float]]]:
    from safetensors.torch import load_file

    state = load_file(output / "reference" / "reference.safetensors")
    centres = state[f"important.{number}.centres"].reshape(-1, 2).tolist()
    return state[f"important.{number}.columns"].tolist(), centres


def test_classes_are_measured_on_the_inputs_that_the_model_calls_so(output, neurons) -> None:
    train, test, found = neurons["train"], neurons["test"], results(output)
    for index in (0, 1):
        rows = test[neurons["test classes"] == index]
        above = (rows > train.max(0)).any(0).mean()
        assert found["SNAC"]["by_class"][str(index)] == pytest.approx(above)


def test_gaps_are_named_with_inputs_of_both_sets(output) -> None:
    with open(output / "uncovered.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    gaps = values(output)["gaps"]
    assert len(rows) == len(gaps)
    assert (output / "report.html").exists()
    assert {path.suffix for path in (output / "curves").iterdir()} == {".png", ".svg"}


def test_random_suites_are_noise_and_where_it_is_fair_training_inputs(output) -> None:
    for label, one in results(output).items():
        assert one["random"]["noise"]["suites"] == 2
        # Training inputs lie within ranges and among traces that were learned of them.
        unfair = label in ("NBC", "SNAC", "LSC", "DSC")
        assert ("training" in one["random"]) is not unfair


def test_neither_batch_size_nor_order_changes_a_number(config, output, tmp_path) -> None:
    expected = results(output)
    for size, seed in (("7", "0"), ("64", "5")):
        folder = tmp_path / size
        options = ("--batch-size", size, "--seed", seed, "--end2end")
        assert run(config, folder, *options) == 0
        for label, one in results(folder).items():
            assert one["value"] == pytest.approx(expected[label]["value"], rel=1e-6), label
            assert one["by_layer"] == pytest.approx(expected[label]["by_layer"], rel=1e-6)
            assert one["by_class"] == pytest.approx(expected[label]["by_class"], rel=1e-6)


def test_a_run_killed_within_the_suite_goes_on_to_the_same_numbers(
    config, tmp_path, monkeypatch
) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    save = Profile.save

    def save_and_die(self, folder, *, position=0):
        found = save(self, folder, position=position)
        if position > 30:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(measure, "_SAVED_EVERY", 0.0)
        patch.setattr(Profile, "save", save_and_die)
        die_in_a_copy(lambda: run(config, killed, *FEW))
    position = json.loads((killed / "profile" / "profile.json").read_text())["position"]
    assert 30 < position < SUITE
    assert run(config, killed, *FEW) == 0
    assert run(config, whole, *FEW) == 0
    assert values(killed) == values(whole)


def test_a_profile_that_a_kill_cut_short_is_measured_again(config, tmp_path, capsys) -> None:
    assert run(config, tmp_path / "out", *FEW) == 0
    before = values(tmp_path / "out")
    # A kill between the two files of a saving leaves a pair that does not belong together.
    tensors = tmp_path / "out" / "profile" / "profile.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-3])
    capsys.readouterr()
    assert run(config, tmp_path / "out", *FEW) == 0
    assert "measuring again from the first image" in capsys.readouterr().err
    assert values(tmp_path / "out") == before


def test_profiles_of_parts_are_those_of_the_whole_together(config, tmp_path) -> None:
    from aim_plugins.coverage.profile import Profile, read_metadata
    from aim_plugins.coverage.reference import Reference
    from aim_plugins.coverage.registry import make_criteria
    from aim_plugins.coverage.settings import CriteriaSettings

    folders = [tmp_path / name for name in ("1", "2", "all")]
    assert run(config, folders[0], *FEW, "--part", "1/2") == 0
    reference = str(folders[0] / "reference")
    assert run(config, folders[1], *FEW, "--part", "2/2", "--reference", reference) == 0
    assert run(config, folders[2], *FEW) == 0
    first, second, whole = map(values, folders)
    assert first["inputs"] + second["inputs"] == whole["inputs"] == SUITE
    learned = Reference.load(folders[2] / "reference")
    settings = CriteriaSettings(criteria=FEW[1].split(","), kmnc_buckets=50)
    profiles = []
    for folder in folders[:2]:
        make = lambda: make_criteria(learned, settings)  # noqa: E731
        metadata = read_metadata(folder / "profile")
        profiles.append(Profile.load(folder / "profile", make, metadata))
    profiles[0].combine(profiles[1])
    for label, one in results(folders[2]).items():
        assert profiles[0].criteria[label].value == pytest.approx(one["value"], rel=1e-6), label


def test_coverage_below_what_was_asked_for_ends_with_status_1(config, tmp_path, capsys) -> None:
    options = ("--criteria", "NC,KMNC", "--fail-under", "KMNC=0.99,NC=0.01")
    assert run(config, tmp_path / "out", *options) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("KMNC is 0.")
    assert run(config, tmp_path / "out", *options[:2], "--fail-under", "KMNC=0.01") == 0


def _write_scores(path: Path, rows: list[tuple[str, int, float]]) -> str:
    lines = [f"{layer},{index},{score}" for layer, index, score in rows]
    path.write_text("\n".join(["LayerName,NeuronIndex,Score", *lines]) + "\n")
    return str(path)


def test_a_file_of_scores_chooses_the_neurons_of_idc(config, tmp_path) -> None:
    rows = [("layer3.2.conv1", 5, 9.0), ("layer3.2.conv1", 40, 8.0), ("layer3.2.conv1", 2, 7.0)]
    scores = _write_scores(tmp_path / "scores.csv", rows)
    options = ("--criteria", "IDC", "--importance-file", scores)
    assert run(config, tmp_path / "out", *options) == 0
    assert _important(tmp_path / "out", 0)[0] == [32 + 5, 32 + 40, 32 + 2]


def test_other_scores_in_the_same_file_are_another_study(config, tmp_path, capsys) -> None:
    path = tmp_path / "scores.csv"
    options = ("--criteria", "IDC", "--importance-file", str(path))
    _write_scores(path, [("layer3.2.conv1", 5, 9.0)])
    assert run(config, tmp_path / "out", *options) == 0
    _write_scores(path, [("layer3.2.conv1", 6, 9.0)])
    assert run(config, tmp_path / "out", *options) == 2
    assert "importance_sha256" in capsys.readouterr().err


def refused(config: Path, folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The one line that refuses a run, which has written nothing."""
    capsys.readouterr()
    assert run(config, folder / "refused", *options) == 2
    assert not (folder / "refused").exists()
    lines = capsys.readouterr().err.strip().splitlines()
    (line,) = [one for one in lines if one.startswith("error:")]
    assert lines[-1] == line
    return line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--modules", "layer3.2.conv9"), "layer3.2.conv"),
        (("--layer-index", "9"), "layer_index=9: the model has 4 layers, 1 (conv1) to 4 (fc)"),
        (("--attr", "lrp-epsilom"), "attr='lrp-epsilom'"),
        (("--surprise-layer", "layer3.2.conv"), "layer='layer3.2.conv'"),
        (("--part", "3/2"), "part='3/2': give a part such as 1/4"),
        (
            ("--n-clusters", "40", "--train-limit", "20"),
            "n_clusters=40: 20 training images cannot make",
        ),
        (("--fail-under", "IDD=0.3"), "fail_under='IDD=0.3': IDD is not measured"),
        (("--fail-under", "IDC=nan"), "fail_under='IDC=nan': give a number"),
        (("--prioritize", "5", "--prioritize-by", "NLC"), "prioritize_by='NLC' counts no units"),
        (("--prioritize", "5", "--criteria", "NLC"), "prioritize_by='NLC' counts no units"),
        (("--candidates", "no/such"), "candidates"),
        (("--reference", "no/such"), "reference"),
        (("--importance-file", "no/such.csv"), "importance_file"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(config, tmp_path, capsys, options, message) -> None:
    assert message in refused(config, tmp_path, capsys, *options)


def test_covariances_beyond_memory_are_refused_before_learning(
    config, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(moments, "MEMORY_LIMIT", 8 * sum(size**2 for size in SIZES) - 1)
    assert "NLC of 4 layers" in refused(config, tmp_path, capsys, "--criteria", "NLC")


def test_a_file_of_scores_of_another_model_is_refused(config, tmp_path, capsys) -> None:
    for row, message in (
        (("features.0", 1, 2.0), "LayerName='features.0' is no layer of this model"),
        (("fc", 10, 2.0), "neuron 10 of layer 'fc': it has 10"),
    ):
        scores = _write_scores(tmp_path / "scores.csv", [row])
        assert message in refused(config, tmp_path, capsys, "--importance-file", scores)


def test_a_reference_of_another_model_or_criteria_is_refused(
    config, output, tmp_path, capsys
) -> None:
    reference = str(output / "reference")
    line = refused(config, tmp_path, capsys, "--reference", reference, "--weights", "random")
    assert "the reference was learned on another model" in line
    line = refused(config, tmp_path, capsys, "--reference", reference, "--modules", "fc", "conv1")
    assert "holds 4 layers, where modules choose 2" in line
    options = ("--end2end", "--compat", "neural-coverage")
    line = refused(config, tmp_path, capsys, "--reference", reference, *options)
    assert "compat='neural-coverage': the reference" in line
    assert "was learned with 'none'" in line


def test_fewer_samples_than_a_folder_holds_are_another_study(config, tmp_path, capsys) -> None:
    few = ("--criteria", "NC", "--num-samples", "20")
    assert run(config, tmp_path / "out", *few, "--idc-test-all") == 0
    assert values(tmp_path / "out")["inputs"] == SUITE
    assert run(config, tmp_path / "out", *few) == 2
    assert "idc_test_all: true there, false now" in capsys.readouterr().err


def test_a_reference_that_was_given_does_not_pass_for_a_learned_one(
    config, tmp_path, capsys
) -> None:
    few = ("--criteria", "KMNC")
    assert run(config, tmp_path / "other", *few, "--train-limit", "60") == 0
    other = ("--reference", str(tmp_path / "other" / "reference"))
    assert run(config, tmp_path / "given", *few, *other) == 0
    assert run(config, tmp_path / "given", *few) == 2
    assert "not from these training images" in capsys.readouterr().err


def test_a_model_without_a_layer_before_the_last_is_refused(config, tmp_path, capsys) -> None:
    line = refused(config, tmp_path, capsys, "--modules", "fc")
    assert "layer_index=-2: the model has 1 layers" in line


def test_candidates_without_labels_are_ranked_and_an_empty_folder_is_refused(
    config, tmp_path, capsys
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    options = ("--prioritize", "3", "--candidates")
    assert str(empty) in refused(config, tmp_path, capsys, *options, str(empty))
    folder = tmp_path / "candidates"
    folder.mkdir()
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    assert run(config, tmp_path / "out", "--criteria", "KMNC", *options, str(folder)) == 0
    with open(tmp_path / "out" / "priority.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3
    # Without labels, orders are judged on the suite.
    assert values(tmp_path / "out")["priority"]["judgement"]["inputs"] == SUITE


def test_candidates_that_are_the_suite_add_nothing_to_it(config, tmp_path) -> None:
    for split in ("train", "val"):
        for label in range(10):
            folder = tmp_path / "data" / split / str(label)
            folder.mkdir(parents=True)
            pixels = np.random.default_rng([label, len(split)]).integers(0, 255, (32, 32, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "0.png")
    data = ("--dataset", "folder", "--data-root", str(tmp_path / "data"), "--split", "val")
    options = (*data, "--criteria", "KMNC", "--prioritize", "3", "--report-classes", "0")
    gains = []
    for candidates in ((), ("--candidates", str(tmp_path / "data" / "val"))):
        assert run(config, tmp_path / "out", *options, *candidates) == 0
        gains.append([one["gain"] for one in values(tmp_path / "out")["priority"]["ranked"]])
    assert min(gains[0]) > 0 and gains[1] == [0, 0, 0]
