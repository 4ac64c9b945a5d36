"""`vision-bench attribute run`, end to end on digits: figures against weights zeroed by hand."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aim_plugins.attribution.attributions import Attributions
from aim_plugins.attribution.dataset import ComponentDataset
from aim_plugins.attribution.evaluation import fresh_masks
from tests.vision_bench.attribution.conftest import FAST
from vision_bench.attribution import stages
from vision_bench.attribution.settings import AttributionSettings
from vision_bench.attribution.subject import load_subject
from vision_bench.attribution.truth import Truth
from vision_bench.cli import main
from vision_bench.data.classification import load_dataset
from vision_bench.models.load import load_model

pytestmark = pytest.mark.usefixtures("one_thread")

FILTERS = {"conv1": 6, "conv2": 16}


class ByHand:
    """LeNet-5 whose weight rows are set to zero, and its images, without any of our machinery."""

    def __init__(self, weights: Path) -> None:
        model = load_model("lenet5", weights=weights, classes=10)
        data = load_dataset("digits", preprocessing=model.preprocessing)
        self.module: nn.Module = model.module
        places = [number * len(data) // FAST["examples"] for number in range(FAST["examples"])]
        self.images = torch.stack([data[place][0] for place in places])
        self.labels = torch.tensor([data[place][1] for place in places])
        self.names = [data.names[place] for place in places]

    @torch.no_grad()
    def margins(self, ablated: list[int]) -> Tensor:
        """Margins of all images without some filters, those of conv1 counted first."""
        held = {name: self.module.get_parameter(f"{name}.weight").clone() for name in FILTERS}
        for number in ablated:
            name, place = ("conv1", number) if number < 6 else ("conv2", number - 6)
            self.module.get_parameter(f"{name}.weight")[place] = 0
        logits = self.module(self.images)
        for name, weight in held.items():
            self.module.get_parameter(f"{name}.weight").copy_(weight)
        right = logits[torch.arange(len(logits)), self.labels]
        others = [
            max(float(one) for place, one in enumerate(row) if place != label)
            for row, label in zip(logits, self.labels.tolist(), strict=True)
        ]
        return right - torch.tensor(others)


@pytest.fixture(scope="module")
def by_hand(lenet: Path) -> ByHand:
    return ByHand(lenet)


def settings(lenet: Path, **others: object) -> AttributionSettings:
    given = {**FAST, "eval_alphas": tuple(FAST["eval_alphas"]), "weights": str(lenet), **others}
    return AttributionSettings(**given)


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "evaluation" / "correlations.csv").open()))


def numbers(mask: np.ndarray) -> list[int]:
    return np.flatnonzero(mask).tolist()


def test_outputs_in_the_dataset_are_those_of_weights_zeroed_by_hand(
    output: Path, by_hand: ByHand
) -> None:
    dataset = ComponentDataset.load(output / "dataset")
    assert list(dataset.plan.examples) == by_hand.names
    assert dataset.components == sum(FILTERS.values())
    masks, outputs = dataset.ablated(0, 170), dataset.outputs(0, 170)
    assert 0.07 < masks.mean() < 0.13
    for place in (0, 77, 149, 169):
        expected = by_hand.margins(numbers(masks[place])).numpy()
        np.testing.assert_allclose(outputs[place], expected, atol=1e-4)


@pytest.mark.parametrize("alpha", FAST["eval_alphas"])
def test_the_correlation_is_that_of_fresh_masks_by_hand(
    output: Path, by_hand: ByHand, alpha: float
) -> None:
    weights = Attributions.load(output / "attributions").weights.double().numpy()
    masks = fresh_masks(22, alpha, FAST["eval_masks"], FAST["seed"])
    true = np.stack([by_hand.margins(numbers(mask)).numpy() for mask in masks])
    predicted = (~masks).astype(float) @ weights.T
    expected = np.mean([np.corrcoef(true[:, one], predicted[:, one])[0, 1] for one in range(24)])
    (found,) = [
        row
        for row in rows(output)
        if row["method"] == "COAR" and row["alpha"] == str(alpha) and row["passes"] == "196.0"
    ]
    assert float(found["correlation"]) == pytest.approx(expected, abs=1e-3)
    assert float(found["low"]) < expected < float(found["high"])


def test_masks_of_the_evaluation_are_none_of_those_fitted_to(output: Path) -> None:
    masks = ComponentDataset.load(output / "dataset").ablated(0, 170)
    fitted = {tuple(mask) for mask in masks.tolist() if sum(mask) > 1}
    fresh = {tuple(mask) for mask in fresh_masks(22, 0.1, 30, FAST["seed"]).tolist()}
    # Masks that ablate four of 22 at least are too many to meet by chance.
    assert not {mask for mask in fitted & fresh if sum(mask) > 3}


def test_leaving_one_out_is_what_each_zeroed_filter_takes(
    output: Path, lenet: Path, by_hand: ByHand
) -> None:
    truth = Truth(load_subject(settings(lenet)).subject, output / "evaluation" / "outputs")
    found, passes = truth.leave_one_out()
    assert truth.subject.passes.forward == 0  # the run has kept them
    assert passes == 23
    whole = by_hand.margins([])
    for number in (0, 5, 6, 21):
        expected = whole - by_hand.margins([number])
        torch.testing.assert_close(found[:, number], expected, atol=1e-4, rtol=0)


def test_the_table_has_every_method_at_every_share(output: Path) -> None:
    found = defaultdict(set)
    for row in rows(output):
        found[row["method"]].add((row["passes"], row["alpha"]))
    assert set(found) == {
        "COAR", "ridge", "least squares", "leave one out", "gradient × parameter",
        "neuron conductance", "internal influence",
    }  # fmt: skip
    passes = sorted({float(one) for one, _ in found["COAR"]})
    assert passes == [46, 55, 64, 83, 121, 196]  # 20 gradients of 2.3 passes, and 0 to 150 masks
    assert {float(one) for one, _ in found["gradient × parameter"]} == {2.3}
    assert {float(one) for one, _ in found["leave one out"]} == {23}


def test_the_report_shows_images_classes_and_both_curves(output: Path) -> None:
    folder = output / "evaluation"
    drawn = {path.name for path in (folder / "curves").glob("*.png")}
    assert {"budget.png", "alphas.png", "classes.png"} < drawn and len(drawn) == 5
    report = (folder / "report.html").read_text()
    for text in ("How far they can be trusted", "What images rest on", "What classes share"):
        assert text in report
    assert "conv2[" in report and "<script src" not in report
    held = json.loads((folder / "manifest.json").read_text())
    assert held["number_of_components"] == 22 and held["fitted"]["masks"] == 150


def test_means_of_classes_are_those_of_their_images(output: Path, by_hand: ByHand) -> None:
    weights = Attributions.load(output / "attributions").weights
    table = list(csv.DictReader((output / "evaluation" / "classes.csv").open()))
    assert [row["component"] for row in table][::21] == ["conv1[0]", "conv2[15]"]
    for label in sorted(set(by_hand.labels.tolist())):
        expected = weights[by_hand.labels == label].mean(0)
        found = torch.tensor([float(row[str(label)]) for row in table])
        torch.testing.assert_close(found, expected)


def test_a_second_run_computes_nothing_again(output: Path, config: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("computed again")

    before = (output / "evaluation" / "correlations.csv").read_bytes()
    monkeypatch.setattr("aim_plugins.attribution.subject.BatchSubject.paired_outputs", refuse)
    monkeypatch.setattr("aim_plugins.attribution.subject.BatchSubject.gradients", refuse)
    assert main(["attribute", "run", str(config), "--output", str(output)]) == 0
    assert (output / "evaluation" / "correlations.csv").read_bytes() == before


def test_a_run_that_was_killed_goes_on(config: Path, tmp_path: Path, output: Path) -> None:
    """Killed while masks are measured, then while fresh ones are; the figures are the same."""
    folder = tmp_path / "killed"
    from aim_plugins.attribution.subject import BatchSubject

    original, calls = BatchSubject.paired_outputs, [0]
    for most in (2, 4):

        def stop(self: BatchSubject, *given: Tensor, most: int = most) -> Tensor:
            calls[0] += 1
            if calls[0] > most:
                raise KeyboardInterrupt
            return original(self, *given)

        calls[0] = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BatchSubject, "paired_outputs", stop)
            assert main(["attribute", "run", str(config), "--output", str(folder)]) == 130
    assert main(["attribute", "run", str(config), "--output", str(folder)]) == 0
    name = "evaluation/correlations.csv"
    assert (folder / name).read_bytes() == (output / name).read_bytes()


def test_shards_of_two_machines_are_one_run(config: Path, tmp_path: Path, output: Path) -> None:
    for number in (1, 2):
        folder = str(tmp_path / str(number))
        words = ["attribute", "build", str(config), "--output", folder]
        assert main([*words, "--shard", f"{number}/2"]) == 0
    folders = [str(tmp_path / "1"), str(tmp_path / "2")]
    merged = tmp_path / "merged"
    assert main(["attribute", "merge", *folders, "-o", str(merged)]) == 0
    name = "dataset/component_dataset.safetensors"
    assert (merged / name).read_bytes() == (output / name).read_bytes()


def test_shards_may_share_a_folder(config: Path, tmp_path: Path, output: Path, capsys) -> None:
    words = ["attribute", "build", str(config), "--output", str(tmp_path / "shared")]
    assert main([*words, "--shard", "2/2"]) == 0
    assert "lacks" in capsys.readouterr().out
    fit = ["attribute", "fit", str(config), "--output", str(tmp_path / "shared")]
    assert main(fit) == 2
    assert "masks 0-63 (block 0)" in (said := capsys.readouterr().err) and "--shard 1/2" in said
    assert main([*words, "--shard", "1/2"]) == 0
    name = "dataset/component_dataset.safetensors"
    assert (tmp_path / "shared" / name).read_bytes() == (output / name).read_bytes()


def test_fitting_needs_neither_model_nor_images(config: Path, output: Path, monkeypatch) -> None:
    monkeypatch.setattr(stages, "load_subject", None)
    before = Attributions.load(output / "attributions")
    assert main(["attribute", "fit", str(config), "--output", str(output)]) == 0
    torch.testing.assert_close(Attributions.load(output / "attributions").weights, before.weights)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--num-ablations", "151"], "num_ablations=151, but"),
        (["--alpha", "0.2"], "alpha=0.2, but"),
        (["--prior", "None", "--seed", "4"], "seed=4, but"),
    ],
)
def test_a_fit_refuses_a_dataset_of_other_settings(
    config: Path, output: Path, words: list[str], said: str, capsys
) -> None:
    command = ["attribute", "fit", str(config), "--output", str(output), *words]
    assert main(command) == 2
    assert said in capsys.readouterr().err


def test_an_evaluation_refuses_attributions_of_other_images(
    config: Path, output: Path, tmp_path: Path, capsys
) -> None:
    import shutil

    for part in ("dataset", "attributions"):
        shutil.copytree(output / part, tmp_path / part)
    words = ["attribute", "evaluate", str(config), "--output", str(tmp_path)]
    assert main([*words, "--example-classes", "1,2"]) == 2
    assert "attributions of other images" in capsys.readouterr().err
    assert not (tmp_path / "evaluation").exists()


def test_a_dataset_of_another_seed_is_not_mixed_in(config: Path, output: Path, capsys) -> None:
    words = ["attribute", "build", str(config), "--output", str(output), "--seed", "5"]
    assert main(words) == 2
    assert "seed is 3 there, not 5" in capsys.readouterr().err
