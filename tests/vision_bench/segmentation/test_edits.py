"""`vision-bench segment evaluate` with an edit: alone and beside noise, on a random SegFormer."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aim_plugins.modulation.component_kinds import find_components
from aim_plugins.modulation.edits import ComponentEdit, baked
from aim_plugins.sweep import front
from vision_bench.cli import main
from vision_bench.models.load import load_model
from vision_bench.models.model import named_module

pytestmark = pytest.mark.usefixtures("one_thread")

QUIET = {"METHOD": "utility", "RATIO": 0.0}
NOISY = {"METHOD": "utility", "RATIO": 0.0, "STEP_SIZE": 2.0, "STEP_LIMIT": 2}


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time."""
    monkeypatch.setattr(front, "_draw", lambda folder, points, shown: None)


@pytest.fixture(scope="module")
def named(checkpoint: Path):
    return named_module(load_model(str(checkpoint)).module)


@pytest.fixture(scope="module")
def edit(named, tmp_path_factory) -> Path:
    chosen = find_components(named, "conv_filters", ["decode_head.linear_fuse"]).take(range(0, 9))
    made = ComponentEdit.of_model(named, chosen, method="by hand")
    return made.save(tmp_path_factory.mktemp("edit") / "edit")


@pytest.fixture
def evaluate(ade20k: Path, checkpoint: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(output: str, perturbation: dict, *options: str, model: Path = checkpoint) -> Path:
        settings = {
            "dataset": "ade20k",
            "resize": "short64",
            "overlays": 1,
            "cache_dtype": "float32",
            "model": str(model),
            "data_root": str(ade20k),
            "logits_cache": str(tmp_path / "logits"),
            "output": str(tmp_path / output),
            "PERTURBATION": perturbation,
        }
        path = tmp_path / f"{output}.py"
        path.write_text("\n".join(f"{name} = {value!r}" for name, value in settings.items()))
        assert main(["segment", "evaluate", str(path), *options]) == 0
        return tmp_path / output

    return run


def table(folder: Path, name: str = "sweep.csv") -> list[dict[str, str]]:
    with open(folder / name, newline="") as file:
        return list(csv.DictReader(file))


def test_an_edit_alone_is_the_plain_model_and_the_ablated_checkpoint_at_its_ends(
    evaluate, named, edit, tmp_path
) -> None:
    options = ("--edit", str(edit), "--edit-strength", "0,0.5,1")
    swept = evaluate("swept", QUIET, *options)
    plain = evaluate("plain", QUIET)
    rows = [row for row in table(plain) if not row["metric"].endswith("_expected")]
    own = [row for row in table(swept) if float(row["strength"]) == 0]
    assert own == [row | {"draw": ""} for row in rows]
    folder = tmp_path / "baked"
    baked(named, ComponentEdit.load(edit)).save_pretrained(folder)
    import transformers

    transformers.SegformerImageProcessor(size=512).save_pretrained(folder)
    ablated = evaluate("ablated", QUIET, model=folder)
    with np.load(swept / "confusion.npz") as found, np.load(ablated / "confusion.npz") as expected:
        assert found["edit_strength"].tolist() == [0.0, 0.5, 1.0]
        different = np.abs(found["confusion"][2] - expected["confusion"]).sum()
        assert different <= 1e-3 * expected["confusion"].sum()
        assert np.abs(found["confusion"][2] - found["confusion"][0]).sum() > different
    assert {row["edit_strength"] for row in table(swept, "classes.csv")} == {"0", "0.5", "1"}
    page = (swept / "report.html").read_text()
    assert "Mean IoU along the edit strength, without noise" in page


def test_differences_are_jackknifed_over_images_left_out_of_both(evaluate, edit) -> None:
    swept = evaluate("swept", QUIET, "--edit", str(edit), "--edit-strength", "0,1")
    first, last = table(swept, "differences.csv")
    assert [float(first[one]) for one in ("difference", "difference_low", "p")] == [0, 0, 1]
    images = int(last["images"])
    assert images == 5 and float(last["difference"]) == pytest.approx(
        float(last["value"]) - float(first["value"])
    )
    reach = (float(last["difference_high"]) - float(last["difference_low"])) / 2
    apart = np.hypot(*[(float(one["high"]) - float(one["low"])) / 2 for one in (first, last)])
    assert 0 < reach < apart  # images are hard or easy for both


def test_noise_and_edit_make_a_grid_in_which_each_alone_stands(evaluate, edit) -> None:
    options = ("--edit", str(edit), "--edit-strength", "0,1")
    grid, noise = evaluate("grid", NOISY, *options), evaluate("noise", NOISY)
    rows = [row for row in table(grid) if row["second_strength"] == "0.0"]
    assert [row | {"second_strength": None} for row in rows] == [
        row | {"second_strength": None} for row in table(noise)
    ]
    quiet = evaluate("quiet", QUIET, *options)
    ablated = [row for row in table(grid) if row["second_strength"] == "1.0"]
    found = [row["value"] for row in ablated if (row["metric"], row["strength"]) == ("acc", "0.0")]
    alone = [
        row["value"] for row in table(quiet) if (row["metric"], row["strength"]) == ("acc", "1.0")
    ]
    assert found == alone and len(found) == 1
    page = (grid / "report.html").read_text()
    assert "s = 0" in page and "s = 1" in page


def test_pictures_stand_along_the_strengths_of_the_edit(evaluate, edit, monkeypatch) -> None:
    from vision_bench.segmentation import study

    shown: list[list[float]] = []
    draw = study.report_images

    def noted(views, *arguments, **options):
        shown.append([view.strength for view in views])
        return draw(views, *arguments, **options)

    monkeypatch.setattr(study, "report_images", noted)
    evaluate("swept", QUIET, "--edit", str(edit), "--edit-strength", "0,0.5,1")
    assert shown == [[0.0, 0.5, 1.0]]


def test_laws_alone_leave_an_edit_nothing_to_compare(edit, ade20k, checkpoint, tmp_path, capsys):
    path = tmp_path / "config.py"
    path.write_text(
        f"dataset, model, data_root = 'ade20k', {str(checkpoint)!r}, {str(ade20k)!r}\n"
        f"draws, edit, PERTURBATION = 0, {str(edit)!r}, {NOISY!r}\n"
    )
    assert main(["segment", "evaluate", str(path)]) == 2
    assert "draws=0 leaves edit=" in capsys.readouterr().err
