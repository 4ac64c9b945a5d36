"""`vision-bench reengineer defects`, end to end with a small network on digits."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from aim_plugins.modulation.retained import LearnedMasks
from tests.conftest import die_in_a_copy
from vision_bench.cli import main
from vision_bench.data.classification import load_dataset
from vision_bench.models.load import load_model
from vision_bench.reengineering.defects import attacked
from vision_bench.reengineering.defects.arms import Reuse
from vision_bench.reengineering.defects.settings import DefectsSettings
from vision_bench.reengineering.target import Target

pytestmark = pytest.mark.usefixtures("one_thread")

ARMS = ("standard", "seam", "random", "regrown", "retrain")
IMAGES = 60


@pytest.fixture(scope="module")
def config(lenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {
        "model": "lenet5",
        "weights": str(lenet),
        "pretrained_on": "digits",
        "dataset": "digits",
        "limit": IMAGES,
        "train_limit": 150,
        "batch_size": 25,
        "train_batch_size": 30,
        "validation_share": 0.2,
        "arms": list(ARMS),
        "n_epochs": 2,
        "lr_mask": 0.3,
        "alpha": 50.0,
        "prune_threshold": 0.2,
        "lr_retrain": 0.02,
        "momentum": 0.9,
        "momentum_retrain": 0.9,
        "augment": "none",
        "eps": 0.5,
        "eps_iter": 0.1,
        "nb_iter": 5,
    }
    path = tmp_path_factory.mktemp("config") / "defects.py"
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    return path


def run(config: Path, output: Path, *options: str) -> int:
    return main(["reengineer", "defects", str(config), "--output", str(output), *options])


@pytest.fixture(scope="module")
def output(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "defects"
    assert run(config, folder) == 0
    return folder


def found(folder: Path) -> dict:
    return json.loads((folder / "defects.json").read_text())["arms"]


def test_accuracy_is_that_of_the_kept_weights_in_a_model_of_ones_own(output, lenet):
    model = load_model("lenet5", weights=lenet, classes=10)
    data = load_dataset("digits", preprocessing=model.preprocessing, limit=IMAGES)
    images = torch.stack([data[index][0] for index in range(IMAGES)])
    arms, answers = found(output), {}
    assert list(arms) == list(ARMS)
    for name, one in arms.items():
        state = load_file(output / "models" / f"{name}.safetensors")
        model.module.load_state_dict(state)
        with torch.no_grad():
            right = int((model.module(images).argmax(1) == data.labels).sum())
        assert (one["right"], one["images"]) == (right, IMAGES)
        assert one["accuracy"]["value"] == pytest.approx(right / IMAGES)
        assert one["dir"]["value"] == pytest.approx(one["flipped"] / right)
        answers[name] = model.module(images).argmax(1) == data.labels
        assert one["right_with_standard"] == int((answers[name] & answers["standard"]).sum())


def test_seam_keeps_what_its_masks_retain_and_random_as_much(output):
    masks = LearnedMasks.load(output / "masks").selected.masks
    state = {name: load_file(output / "models" / f"{name}.safetensors") for name in ARMS}
    size = sum(one.numel() for one in masks.values())
    kept = sum(int(one.sum()) for one in masks.values())
    arms = found(output)
    assert 0 < kept < size
    assert arms["seam"]["retained"] == pytest.approx(kept / size)
    assert arms["random"]["retained"] == pytest.approx(kept / size, abs=1 / size)
    assert arms["standard"]["retained"] == arms["regrown"]["retained"] == 1
    assert arms["retrain"]["retained"] is None  # nothing of the public model is in it
    assert all(not state["seam"][name][~mask].any() for name, mask in masks.items())
    assert any(state["regrown"][name][~mask].any() for name, mask in masks.items())


def test_the_table_has_the_numbers_and_the_page_stands_alone(output):
    rows = list(csv.DictReader((output / "defects.csv").open()))
    arms = found(output)
    assert [row["arm"] for row in rows] == list(ARMS)
    assert float(rows[1]["dir"]) == arms["seam"]["dir"]["value"]
    assert int(rows[1]["right_with_standard"]) == arms["seam"]["right_with_standard"]
    assert rows[0]["dir_less_standard"] == "" and arms["standard"]["dir_less_standard"] is None
    assert rows[-1]["retained"] == ""
    page = (output / "report.html").read_text()
    assert re.search(r"retrain</t[dh]>\s*<td[^>]*>–</td>", page)
    assert "DIR" in page and "<script" not in page and "http:" not in page
    assert (output / "curves" / "inheritance.svg").is_file()


def test_a_killed_run_goes_on_where_it_was(config, output, tmp_path, monkeypatch):
    """First killed between arms, then between batches of the attack."""
    folder, make, attack = tmp_path / "killed", Reuse.make, attacked.Attacker.__call__

    def killed_at_random(self, name, learned):
        if name == "random":
            raise KeyboardInterrupt
        return make(self, name, learned)

    monkeypatch.setattr(Reuse, "make", killed_at_random)
    assert _interrupted(config, folder)
    made: list[str] = []

    def noting(self, name, learned):
        made.append(name)
        return make(self, name, learned)

    def killed_at_the_second_batch(self, positions):
        if positions[0]:
            raise KeyboardInterrupt
        return attack(self, positions)

    monkeypatch.setattr(Reuse, "make", noting)
    monkeypatch.setattr(Reuse, "learn_masks", lambda _: pytest.fail("masks are kept"))
    monkeypatch.setattr(attacked.Attacker, "__call__", killed_at_the_second_batch)
    assert _interrupted(config, folder)
    assert made == ["random", "regrown", "retrain"]
    monkeypatch.setattr(attacked.Attacker, "__call__", attack)
    monkeypatch.setattr(Reuse, "make", lambda *_: pytest.fail("all arms are kept"))
    assert run(config, folder) == 0
    assert found(folder) == found(output)


def _run_killed(config: Path, folder: Path) -> None:
    """A run that the system ends inside SeaM's first stage, in the epoch after the first."""
    batches, calls = Target.batches, []

    def killed(self, epoch):
        calls.append(epoch)
        for batch in batches(self, epoch):
            yield batch
            if calls == [0, 1, 0, 1]:  # two epochs of standard before
                os.kill(os.getpid(), signal.SIGKILL)

    Target.batches = killed
    run(config, folder)


def test_a_run_killed_inside_an_arm_ends_as_one_that_was_not(config, output, tmp_path, monkeypatch):
    folder = tmp_path / "killed"
    die_in_a_copy(lambda: _run_killed(config, folder))
    assert [one.name for one in (folder / "unfinished").iterdir()] == ["stage-1.safetensors"]
    batches, epochs = Target.batches, []

    def killed_in_an_arm(self, epoch):
        epochs.append(epoch)
        for batch in batches(self, epoch):
            yield batch
            if (folder / "unfinished" / "seam.safetensors").exists():
                raise KeyboardInterrupt

    monkeypatch.setattr(Target, "batches", killed_in_an_arm)
    assert _interrupted(config, folder)
    assert epochs[0] == 1 and epochs[-1] == 1  # of stage 1 and of seam; their first ones are kept
    monkeypatch.setattr(Target, "batches", batches)
    assert run(config, folder) == 0
    assert found(folder) == found(output) and not (folder / "unfinished").exists()
    for name in ARMS:
        models = [one / "models" / f"{name}.safetensors" for one in (folder, output)]
        assert models[0].read_bytes() == models[1].read_bytes()


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two classes of four noisy images each, the very first of which is no image."""
    rng, folder = np.random.default_rng(0), tmp_path / "photographs"
    for kind in ("a", "b"):
        (folder / "train" / kind).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (28, 28, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "train" / kind / f"{number}.png")
    (folder / "train" / "a" / "0.png").write_bytes(b"no image")
    return folder


def _on(config: Path, photographs: Path, *options: str) -> int:
    """A run that trains and tests on them."""
    data = ("--dataset", "folder", "--data-root", str(photographs), "--split", "train")
    arms = ("--arms", "standard,retrain")
    return run(config, photographs.parent / "out", *data, *arms, *options)


def test_unreadable_images_are_left_out_even_the_first(config, photographs, capsys):
    assert _on(config, photographs) == 0
    out = photographs.parent / "out"
    assert found(out)["standard"]["images"] == 7
    assert "0.png" in json.dumps(json.loads((out / "manifest.json").read_text())["left_out"])
    # An option given twice counts as it stands last.
    strict = ("--on-error", "raise", "--output", str(photographs.parent / "strict"))
    assert _on(config, photographs, *strict) != 0
    assert "0.png" in capsys.readouterr().err.splitlines()[-1]


def test_images_of_which_none_can_be_read_are_refused(config, photographs, capsys):
    for one in photographs.glob("train/*/*"):
        one.write_bytes(b"no image")
    assert _on(config, photographs) != 0
    assert "holds no readable image" in (told := capsys.readouterr().err) and "give images" in told


@pytest.mark.parametrize("late", ["an image", "scipy", "random weights", "features"])
def test_what_would_fail_late_fails_before_any_training(
    config, photographs, capsys, monkeypatch, late
):
    from vision_bench.reengineering.defects import study

    monkeypatch.setattr(Reuse, "make", lambda *_: pytest.fail("an arm is made"))
    (photographs / "train" / "a" / "0.png").unlink()
    shutil.copytree(photographs / "train", photographs / "val")
    told = {"an image": "3.png", "scipy": "pip install 'aim-plugins[vision]'"}.get(late, late)

    def failing(*_, **__):
        raise ValueError(late)

    if late == "an image":
        (photographs / "val" / "b" / "3.png").write_bytes(b"no image")
    elif late == "scipy":
        monkeypatch.setattr(study, "find_spec", lambda name: None)
    else:
        monkeypatch.setattr(study, {"features": "objective"}.get(late, "random_network"), failing)
    assert _on(config, photographs, "--split", "val", "--on-error", "raise") != 0
    assert told in capsys.readouterr().err.splitlines()[-1]


def _interrupted(config: Path, folder: Path) -> bool:
    try:
        return run(config, folder) != 0
    except KeyboardInterrupt:
        return True


def test_a_folder_of_another_study_is_refused(config, output, capsys):
    assert run(config, output, "--alpha", "1.0") != 0
    assert "alpha" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--arms", "standard,saem"), "seam"),
        (("--arms", "seam"), "standard"),
        (("--pretrained-on", "folder"), "pretrained_classes"),
        (("--prune-threshold", "1.5"), "prune_threshold"),
        (("--alpha", "-1"), "alpha"),
        (("--validation-share", "1"), "validation_share"),
        (("--lr-s3-hidden-layer", "1e30"), "lower lr_s3_hidden_layer=1e+30 or lr_s3_output_layer"),
    ],
)
def test_unusable_settings_are_refused_in_words(config, tmp_path, capsys, options, told):
    assert run(config, tmp_path / "refused", *options) != 0
    assert told in capsys.readouterr().err


def test_by_default_the_settings_are_those_of_the_paper():
    """The README of the authors' code, the defaults of its `reengineering_finetune.py` and
    `retrain.py`, and the training views of its `utils/dataset_loader.py`."""
    made = DefectsSettings("digits", "lenet5")
    assert (made.lr_s1_output_layer, made.lr_s2_output_layer) == (0.1, 0.001)
    assert (made.lr_s3_output_layer, made.lr_s3_hidden_layer, made.lr_mask) == (0.05, 0.005, 0.05)
    assert (made.lr_retrain, made.momentum_retrain) == (0.1, 0.5)
    assert (made.momentum, made.weight_decay, made.train_batch_size) == (0.0, 1e-4, 64)
    assert made.augment == "resized-crop-flip"
    assert (made.alpha, made.prune_threshold, made.n_epochs, made.early_stop) == (0.5, 0.6, 300, 30)
    assert (made.eps, made.eps_iter, made.nb_iter, made.clip) == (0.1, 0.01, 40, 2.2)
