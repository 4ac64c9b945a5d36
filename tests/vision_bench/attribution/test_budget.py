"""Parts of a component dataset are what would have been built with fewer masks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aim_plugins.attribution.dataset import ComponentDataset
from aim_plugins.attribution.fit import fit_attributions
from vision_bench.attribution.budget import part_of
from vision_bench.attribution.init import choose_passes, config_text, time_pass
from vision_bench.attribution.settings import AttributionSettings, InitSettings
from vision_bench.attribution.subject import load_subject
from vision_bench.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_part_fits_as_a_dataset_of_fewer_masks(
    config: Path, output: Path, tmp_path: Path
) -> None:
    words = ["attribute", "build", str(config), "--output", str(tmp_path)]
    assert main([*words, "--num-ablations", "70"]) == 0
    fewer = ComponentDataset.load(tmp_path / "dataset")
    part = part_of(ComponentDataset.load(output / "dataset"), 70, gradients=True)
    one, other = fit_attributions(fewer), fit_attributions(part)
    torch.testing.assert_close(one.weights, other.weights)
    assert part.plan.rows == 90


def test_masks_alone_are_fitted_without_gradients(output: Path) -> None:
    whole = ComponentDataset.load(output / "dataset")
    part = part_of(whole, 170, gradients=False)
    assert part.kept is None and part.plan.rows == 170
    assert (part.ablated(0, 170) == whole.ablated(0, 170)).all()


@pytest.mark.parametrize("affordable", [100.0, 1000.0, 5000.0, 100000.0])
def test_what_is_chosen_costs_about_what_is_affordable(affordable: float) -> None:
    chosen = choose_passes(500, affordable)
    assert chosen.num_ablations >= 100
    assert chosen.passes <= max(affordable, 630)
    assert chosen.leaves_one_out == (affordable >= 5000)


def test_init_writes_a_config_that_run_takes(lenet: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "mine.py"
    words = ["--dataset", "digits", "--model", "lenet5", "--weights", str(lenet)]
    command = ["attribute", "init", *words, "--examples", "12", "-o", str(path)]
    assert main([*command, "--minutes", "0"]) == 0
    text = path.read_text()
    assert "22 of them in 2 layers, conv1 to conv2" in text and "num_ablations = 100" in text
    found = capsys.readouterr()
    assert f"vision-bench attribute run {path}" in found.out and "minutes=0" in found.err
    fast = ["--num-ablations", "20", "--gradient-passes", "4", "--eval-masks", "5"]
    assert main(["attribute", "run", str(path), "--output", str(tmp_path / "out"), *fast]) == 0
    assert main([*command, "--minutes", "0"]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_config_leaves_out_a_baseline_that_is_too_dear(lenet: Path) -> None:
    given = InitSettings(dataset="digits", model="lenet5", weights=str(lenet), examples=4)
    loaded = load_subject(given)
    chosen = choose_passes(22, 30.0)
    held: dict[str, object] = {}
    exec(config_text(given, loaded, chosen, time_pass(loaded)), held)
    named = {name: value for name, value in held.items() if not name.startswith("_")}
    assert "leave_one_out" not in str(named["baselines"])
    assert AttributionSettings(**named).examples == 4  # type: ignore[arg-type]
