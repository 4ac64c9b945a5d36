"""`vision-bench attribute import`: files in the layout of COAR's authors, taken and judged."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from aim_plugins.attribution.attributions import Attributions
from aim_plugins.attribution.dataset import ComponentDataset
from vision_bench.cli import main

MASKS = 150


@pytest.fixture(scope="module")
def published(output: Path, tmp_path_factory) -> Path:
    """What the authors' regression makes of the same outputs: of masks in standardised units."""
    dataset = ComponentDataset.load(output / "dataset")
    rows = dataset.plan.masks + dataset.plan.gradient_passes
    kept = 1.0 - dataset.ablated(0, rows)
    outputs = np.asarray(dataset.values[:rows], np.float64)
    standardised = (kept - 0.9) / np.sqrt(0.1 * 0.9)
    found = LinearRegression().fit(standardised, outputs)
    held = {
        "weight": torch.tensor(found.coef_.T).float(),
        "bias": torch.tensor(found.intercept_).float(),
        "lam": torch.zeros(1),
    }
    path = tmp_path_factory.mktemp("published") / "coar_attributions.pt"
    torch.save(held, path)
    return path


def take(config: Path, folder: Path, published: Path, *options: str) -> int:
    words = ["--published", str(published), "--masks", str(MASKS), "--output", str(folder)]
    return main(["attribute", "import", str(config), *words, *options])


def test_published_attributions_predict_as_those_of_the_same_regression_here(
    config: Path, output: Path, published: Path, tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "theirs"
    assert take(config, folder, published) == 0
    assert "of 24 of the 24 images of coar_attributions.pt" in capsys.readouterr().out
    assert main(["attribute", "evaluate", str(config), "--output", str(folder)]) == 0
    with open(folder / "evaluation" / "correlations.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    theirs = [line for line in lines if line["method"] == "published"]
    assert {float(line["passes"]) for line in theirs} == {MASKS}
    with open(output / "evaluation" / "correlations.csv", newline="") as file:
        own = [one for one in csv.DictReader(file) if one["method"] == "least squares"]
    most = max(float(one["passes"]) for one in own)
    expected = {one["alpha"]: one["correlation"] for one in own if float(one["passes"]) == most}
    for line in theirs:
        assert float(line["correlation"]) == pytest.approx(float(expected[line["alpha"]]), abs=1e-3)
    page = (folder / "evaluation" / "report.html").read_text()
    assert "Published: read from a file of others" in page
    manifest = json.loads((folder / "evaluation" / "manifest.json").read_text())
    assert manifest["fitted"]["masks"] == MASKS


def test_of_a_file_of_the_whole_split_the_images_named_are_taken(
    config: Path, output: Path, published: Path, tmp_path: Path
) -> None:
    names = Attributions.load(output / "attributions").examples
    held = torch.load(published, weights_only=True)
    count = 797  # images of the test split of digits
    weights = torch.arange(count).float().expand(len(held["weight"]), count)
    whole = tmp_path / "whole.pt"
    torch.save({"weight": weights, "bias": torch.zeros(count)}, whole)
    assert take(config, tmp_path / "out", whole, "--alpha", "0.5") == 0
    found = Attributions.load(tmp_path / "out" / "attributions")
    assert found.examples == names
    # Of masks with a deviation of 1/2 the weights of 0 and 1 are twice as large.
    from vision_bench.data.classification import load_dataset

    data = load_dataset("digits")
    places = [data.names.index(name) for name in names]
    assert found.weights[:, 0].tolist() == [2.0 * place for place in places]


def test_files_of_other_images_or_components_are_refused_in_a_line(
    config: Path, output: Path, published: Path, tmp_path: Path, capsys
) -> None:
    held = torch.load(published, weights_only=True)
    for change, message in (
        (lambda t: {"weight": t["weight"][1:], "bias": t["bias"]}, "choose the components that"),
        (
            lambda t: {"weight": t["weight"][:, 1:], "bias": t["bias"][1:]},
            "has attributions of 23 images: they are neither all 797 of digits-test nor the 24",
        ),
        (lambda t: {"weight": t["weight"]}, "holds no attributions"),
    ):
        path = tmp_path / "changed.pt"
        torch.save(change(held), path)
        assert take(config, tmp_path / "out", path) == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()
    assert take(config, output, published) == 2
    assert "holds a component dataset" in capsys.readouterr().err
    assert take(config, tmp_path / "out", tmp_path / "none.pt") == 2
    assert "published=" in capsys.readouterr().err


def test_an_evaluation_of_published_ones_refuses_another_alpha(
    config: Path, published: Path, tmp_path: Path, capsys
) -> None:
    assert take(config, tmp_path, published) == 0
    words = ["attribute", "evaluate", str(config), "--output", str(tmp_path), "--alpha", "0.2"]
    assert main(words) == 2
    assert "run `attribute import` again" in capsys.readouterr().err
