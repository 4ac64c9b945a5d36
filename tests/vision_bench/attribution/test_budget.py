"""Parts of a component dataset are what would have been built with fewer masks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from aim_plugins.attribution.dataset import ComponentDataset
from aim_plugins.attribution.fit import fit_attributions
from vision_bench.attribution.budget import part_of
from vision_bench.attribution.init import choose_passes, config_text, least_passes, time_pass
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


@pytest.mark.parametrize("affordable", [8000.0, 30000.0, 200000.0, 1e6, 1e8])
def test_what_is_chosen_costs_no_more_than_what_is_affordable(affordable: float) -> None:
    """Counted anew: masks, gradients at 2.55, three shares of fresh masks, baselines, one out."""
    chosen = choose_passes(500, 200, affordable)
    baselines = 2.55 * (1 + 51 + 50) + 1 + 1 + 5
    each = (
        chosen.num_ablations
        + 2.55 * chosen.gradient_passes
        + 3 * chosen.eval_masks
        + chosen.leaves_one_out
        + baselines
    )
    assert each * chosen.examples <= affordable
    assert (chosen.examples == 200) == (affordable >= 200000)
    assert (chosen.num_ablations >= 100) == (affordable >= 30000)
    assert bool(chosen.leaves_one_out) == (affordable >= 1e6)


def test_the_least_is_affordable_where_it_is_said_to_be() -> None:
    least = least_passes(200)
    chosen = choose_passes(500, 200, least)
    assert (chosen.examples, chosen.num_ablations) == (16, 20)
    assert chosen.passes * chosen.examples == pytest.approx(least)


def test_init_writes_a_config_that_fits_and_that_run_takes(
    lenet: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    # A second for a pass over 40 images: 10 minutes are 24,000 passes over one of them.
    monkeypatch.setattr("vision_bench.attribution.init.time_pass", lambda _: 1.0)
    path = tmp_path / "mine.py"
    words = ["--dataset", "digits", "--model", "lenet5", "--weights", str(lenet)]
    command = ["attribute", "init", *words, "--examples", "40", "-o", str(path)]
    assert main([*command, "--minutes", "1"]) == 2
    assert not path.exists() and "minutes=1 are too few even for 16" in capsys.readouterr().err
    assert main([*command, "--minutes", "10"]) == 0
    text = path.read_text()
    assert "22 of them in 2 layers, conv1 to conv2" in text and "num_ablations = 100" in text
    found = capsys.readouterr()
    assert f"vision-bench attribute run {path}" in found.out and "about 10 minutes" in found.out
    assert "minutes=10 are too few" in found.err and "examples=25" in found.err
    assert "examples = 25" in text
    fast = ["--num-ablations", "20", "--gradient-passes", "4", "--eval-masks", "5"]
    assert main(["attribute", "run", str(path), "--output", str(tmp_path / "out"), *fast]) == 0
    assert main([*command, "--minutes", "10"]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_config_leaves_out_a_baseline_that_is_too_dear(lenet: Path) -> None:
    given = InitSettings(dataset="digits", model="lenet5", weights=str(lenet), examples=4)
    loaded = load_subject(given)
    chosen = dataclasses.replace(choose_passes(22, 4, 4000.0), leaves_one_out=0)
    held: dict[str, object] = {}
    exec(config_text(given, loaded, chosen, time_pass(loaded)), held)
    named = {name: value for name, value in held.items() if not name.startswith("_")}
    assert "leave_one_out" not in str(named["baselines"])
    assert AttributionSettings(**named).examples == 4  # type: ignore[arg-type]
