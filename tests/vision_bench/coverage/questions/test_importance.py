"""`vision-bench coverage importance`, end to end on digits: accuracy against zeroing by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vision_bench.cli import main
from vision_bench.coverage import scoring
from vision_bench.data.classification import load_dataset
from vision_bench.models.load import load_model

pytestmark = pytest.mark.usefixtures("one_thread")

# Each with the normalisation behind it, whose output is what others see of a neuron.
BEHIND = {
    "conv1": "bn1",
    "layer1.0.conv1": "layer1.0.bn1",
    "layer3.2.conv1": "layer3.2.bn1",
    "fc": "fc",
}
SUITE = 80


@pytest.fixture(scope="module")
def config(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {
        "dataset": "digits",
        "model": "resnet20",
        "weights": str(weights),
        "preprocessing": "published",
        "modules": list(BEHIND),
        "limit": SUITE,
        "train_limit": 100,
        "batch_size": 40,
        "draws": 2,
        "top_m_neurons": [2, 5],
    }
    path = tmp_path_factory.mktemp("config") / "digits.py"
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    return path


def run(config: Path, output: Path, *options: str) -> int:
    return main(["coverage", "importance", str(config), "--output", str(output), *options])


@pytest.fixture(scope="module")
def output(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("importance") / "out"
    assert run(config, folder, "--attr", "lrp-epsilon,la") == 0
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read(output: Path) -> dict:
    return json.loads((output / "importance.json").read_text())


def ranked(output: Path, attributor: str, most: int) -> list[tuple[str, int]]:
    """The neurons with the highest scores of the CSV, the last layer left out."""
    rows = rows_of(output / "scores" / f"{attributor}.csv")
    scores = [
        (-float(row["Score"]), row["LayerName"], int(row["NeuronIndex"]))
        for row in rows
        if row["LayerName"] != "fc"
    ]
    return [(layer, index) for _, layer, index in sorted(scores, key=lambda one: one[0])[:most]]


def correct_without(weights: Path, neurons: list[tuple[str, int]]) -> np.ndarray:
    """Which images are right when neurons are zeroed behind their normalisation."""
    model = load_model("cifar10_resnet20", weights=str(weights), preprocessing="published")
    data = load_dataset("digits", split="test", preprocessing=model.preprocessing, limit=SUITE)

    def zero(index: int):
        def hook(module, inputs, output):
            output[:, index] = 0
            return output

        return hook

    for layer, index in neurons:
        model.module.get_submodule(BEHIND[layer]).register_forward_hook(zero(index))
    with torch.no_grad():
        logits = model.module(torch.stack([data[index][0] for index in range(len(data))]))
    return (logits.argmax(1) == data.labels).numpy()


def test_accuracy_without_neurons_is_that_of_zeroing_them_by_hand(output, weights) -> None:
    clean = correct_without(weights, []).mean()
    assert read(output)["accuracy"] == pytest.approx(clean)
    rows = rows_of(output / "ablation.csv")
    for attributor in ("lrp-epsilon", "la"):
        for most in (2, 5):
            expected = correct_without(weights, ranked(output, attributor, most)).mean()
            (row,) = [
                one
                for one in rows
                if (one["choice"], one["attributor"], one["neurons"])
                == ("top", attributor, str(most))
            ]
            assert float(row["accuracy"]) == pytest.approx(expected)
            assert float(row["drop"]) == pytest.approx(clean - expected)
            assert float(row["low"]) <= float(row["drop"]) <= float(row["high"])


def test_every_number_of_neurons_has_its_random_choices(output) -> None:
    rows = rows_of(output / "ablation.csv")
    kinds = [(one["choice"], one["attributor"], one["neurons"]) for one in rows]
    for most in ("2", "5"):
        assert kinds.count(("random", "", most)) == 2
        for attributor in ("lrp-epsilon", "la"):
            assert kinds.count(("matched", attributor, most)) == 2
    assert len(rows) == 2 * 2 + 2 * 2 + 2 * 2 * 2


def test_layers_and_classes_are_ranked_by_their_scores(output) -> None:
    content = read(output)["attributors"]
    assert set(content) == {"lrp-epsilon", "la"}
    for attributor, found in content.items():
        rows = rows_of(output / "scores" / f"{attributor}.csv")
        for layer, one in found["all"].items():
            own = {
                int(row["NeuronIndex"]): float(row["Score"])
                for row in rows
                if row["LayerName"] == layer
            }
            assert one["neurons"] == sorted(own, key=lambda index: (-own[index], index))
            assert one["scores"] == [own[index] for index in one["neurons"]]
        assert found["correct"] <= found["inputs"] == 100
        for one in found["classes"].values():
            assert len(one["conv1"]["neurons"]) == 5
            assert one["conv1"]["scores"] == sorted(one["conv1"]["scores"], reverse=True)


def test_neither_batches_nor_a_restart_change_a_number(config, output, tmp_path) -> None:
    assert run(config, tmp_path / "out", "--attr", "lrp-epsilon,la", "--batch-size", "33") == 0
    other, expected = (rows_of(one / "ablation.csv") for one in (tmp_path / "out", output))
    assert other == expected
    before = (output / "ablation.csv").read_bytes()
    (output / "ablation.csv").unlink()
    assert run(config, output, "--attr", "lrp-epsilon,la") == 0
    assert (output / "ablation.csv").read_bytes() == before


def test_relevance_goes_on_where_it_was_interrupted(config, output, tmp_path, monkeypatch) -> None:
    note = scoring.Progress.note

    def interrupting(self, state, position, last):
        note(self, state, position, last)
        if not last:
            raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "_SAVED_EVERY", 0.0)
    monkeypatch.setattr(scoring, "_BATCHES", 1)
    monkeypatch.setattr(scoring.Progress, "note", interrupting)
    assert run(config, tmp_path / "out", "--attr", "la") == 130
    assert (tmp_path / "out" / "relevance" / "la.safetensors").exists()
    monkeypatch.setattr(scoring.Progress, "note", note)
    assert run(config, tmp_path / "out", "--attr", "la") == 0
    found, expected = (read(one)["attributors"]["la"] for one in (tmp_path / "out", output))
    assert found["inputs"] == expected["inputs"]
    for layer, one in found["all"].items():
        assert one["scores"] == pytest.approx(expected["all"][layer]["scores"], rel=1e-9)


def test_a_vote_is_read_by_coverage_run(config, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(scoring, "VOTERS", ("la", "lgs"))
    options = ("--vote-inputs", "25", "--vote-neurons", "3", "--attr", "wisdom,la")
    assert run(config, tmp_path / "out", *options) == 0
    votes = read(tmp_path / "out")["votes"]
    assert votes["batches"] == 4
    assert sum(votes["weights"].values()) == pytest.approx(4 - votes["undecided"])
    scores = tmp_path / "out" / "scores" / "wisdom.csv"
    rows = rows_of(scores)
    assert "fc" not in {row["LayerName"] for row in rows}
    assert sum(int(row["Score"]) for row in rows) > 0
    shared = ["--importance-file", str(scores), "--criteria", "IDC", "--baselines", "0"]
    settings = tmp_path / "run.py"
    kept = [one for one in config.read_text().splitlines() if not one.startswith(("draws", "top"))]
    settings.write_text("\n".join([*kept, "top_m_neurons = 3", "layer_index = -2"]) + "\n")
    words = ["coverage", "run", str(settings), "--output", str(tmp_path / "run")]
    assert main([*words, *shared]) == 0
    from safetensors.torch import load_file

    state = load_file(tmp_path / "run" / "reference" / "reference.safetensors")
    own = [int(row["Score"]) for row in rows if row["LayerName"] == "layer3.2.conv1"]
    best = sorted(range(64), key=lambda index: (-own[index], index))[:3]
    assert state["important.0.columns"].tolist() == [32 + index for index in best]


def test_coverage_run_holds_the_vote_itself(config, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(scoring, "VOTERS", ("la",))
    settings = tmp_path / "run.py"
    kept = [one for one in config.read_text().splitlines() if not one.startswith(("draws", "top"))]
    settings.write_text("\n".join(kept) + "\n")
    words = [
        "coverage",
        "run",
        str(settings),
        "--output",
        str(tmp_path / "run"),
        "--attr",
        "wisdom",
    ]
    assert main([*words, "--criteria", "IDC", "--baselines", "0", "--end2end"]) == 0
    content = json.loads((tmp_path / "run" / "reference" / "reference.json").read_text())
    assert content["method"] == "wisdom"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--attr", "lrp-epsilon,lcc"), "attr='lcc'"),
        (("--attr", "la,la"), "attr='la,la' names one twice"),
        (("--top-m-neurons", "0"), "top_m_neurons=0: give a whole number from 1 upwards"),
        (("--top-m-neurons", "2,97"), "top_m_neurons=97: all layers but the last have 96 neurons"),
        (("--layer-index", "7"), "layer_index=7: the model has 4 layers"),
        (("--layer-index", "1", "--top-m-neurons", "17"), "layer 'conv1' has 16 neurons"),
        (("--modules", "fc"), "'fc' is the only layer"),
        (("--draws", "1"), "draws=1: give a whole number from 2 upwards"),
        (("--importance-file", "no/such.csv"), "importance_file"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(config, tmp_path, capsys, options, message) -> None:
    assert run(config, tmp_path / "out", *options) == 2
    assert not (tmp_path / "out").exists()
    lines = capsys.readouterr().err.strip().splitlines()
    (line,) = [one for one in lines if one.startswith("error:")]
    assert message in line
