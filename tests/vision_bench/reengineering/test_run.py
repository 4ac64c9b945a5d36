"""`vision-bench reengineer run`, end to end on digits: figures against masks applied by hand."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aim_plugins.modulation.retained import LearnedMasks
from tests.conftest import die_in_a_copy
from vision_bench.cli import main
from vision_bench.data.classification import load_dataset
from vision_bench.models.load import load_model
from vision_bench.reengineering.learn import Learner
from vision_bench.reengineering.training import STATE, read_file

pytestmark = pytest.mark.usefixtures("one_thread")

CHOSEN = (3, 5, 8)
FAST = {
    "dataset": "digits",
    "model": "lenet5",
    "classes": list(CHOSEN),
    "n_epochs": 12,
    "lr_mask": 0.1,
    "train_batch_size": 16,
    "augment": "none",
    "validation_share": 0.3,
    "points": 4,
    "train_limit": 400,
    "runtimes": False,
}


@pytest.fixture(scope="module")
def config(lenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {**FAST, "weights": str(lenet)}
    path = tmp_path_factory.mktemp("config") / "digits.json"
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="module")
def output(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "module"
    assert run(config, folder) == 0
    return folder


def run(config: Path, folder: Path, *words: str) -> int:
    return main(["reengineer", "run", str(config), "--output", str(folder), *words])


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "modules.csv").read_text().splitlines()))


def selected(folder: Path) -> dict[str, str]:
    (found,) = [row for row in rows(folder) if row["selected"] == "1" and row["what"] == "module"]
    return found


def images_of(lenet: Path) -> tuple[torch.nn.Module, Tensor, Tensor]:
    model = load_model("lenet5", weights=lenet, classes=10)
    data = load_dataset("digits", preprocessing=model.preprocessing)
    kept = [place for place, label in enumerate(data.labels.tolist()) if label in CHOSEN]
    images = torch.stack([data[place][0] for place in kept])
    labels = torch.tensor([CHOSEN.index(int(data.labels[place])) for place in kept])
    return model.module, images, labels


def macs_by_hand(module: torch.nn.Module) -> float:
    """Non-zero weights of LeNet-5 on 28 x 28 pixels, each times the places it is used at."""
    places = {"conv1": 28 * 28, "conv2": 10 * 10, "fc1": 1, "fc2": 1, "fc3": 1}
    return sum(
        count * int(torch.count_nonzero(module.get_parameter(f"{name}.weight")))
        for name, count in places.items()
    )


@torch.no_grad()
def test_accuracies_are_those_of_weights_zeroed_by_hand(output: Path, lenet: Path) -> None:
    learned = LearnedMasks.load(output / "mask")
    module, images, labels = images_of(lenet)
    whole = {name: one.clone() for name, one in module.named_parameters()}
    told = [row for row in rows(output) if row["what"] == "module"]
    assert len(told) == len(learned.points) <= 4
    for row, point, ratio in zip(told, learned.points, learned.metadata.ratios, strict=True):
        for name, parameter in module.named_parameters():
            parameter.copy_(whole[name] * point.masks[name])
        hidden = F.relu(module(images))
        outputs = hidden @ point.head["weight"].T + point.head["bias"]
        expected = (outputs.argmax(1) == labels).double().mean()
        assert float(row["accuracy"]) == pytest.approx(float(expected))
        assert float(row["macs"]) == pytest.approx(macs_by_hand(module))
        kept = sum(int((point.masks[name] != 0).sum()) for name in whole)
        total = sum(one.numel() for one in whole.values())  # LeNet has masked layers alone
        assert ratio == pytest.approx(kept / total, abs=1e-6)
        assert float(row["retained_ratio"]) == pytest.approx(ratio)
    ratios = list(learned.metadata.ratios)
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] < 0.6


@torch.no_grad()
def test_the_baselines_need_no_training(output: Path, lenet: Path) -> None:
    module, images, labels = images_of(lenet)
    logits = module(images)
    told = {row["what"]: float(row["accuracy"]) for row in rows(output)}
    of_all = logits.argmax(1) == torch.tensor(CHOSEN)[labels]
    of_three = logits[:, list(CHOSEN)].argmax(1) == labels
    assert told["whole model, all classes"] == pytest.approx(float(of_all.double().mean()))
    assert told["whole model, restricted"] == pytest.approx(float(of_three.double().mean()))


def test_test_images_have_no_part_in_what_is_learned_or_selected(config, output, tmp_path) -> None:
    assert run(config, tmp_path / "few", "--limit", "200") == 0
    few, all_ = (LearnedMasks.load(place / "mask") for place in (tmp_path / "few", output))
    assert int(rows(tmp_path / "few")[0]["images"]) < int(rows(output)[0]["images"])
    assert few.fingerprint == all_.fingerprint
    assert few.metadata.selected == all_.metadata.selected
    assert len(all_.points) >= 3


def test_the_smallest_module_that_validation_images_allow_is_selected(output: Path) -> None:
    """Held against all epochs, of which the path keeps a few."""
    _, notes = read_file(output / "training" / STATE)
    by_validation = json.loads((output / "manifest.json").read_text())
    assert by_validation["validation_images"] > 20
    said = float(selected(output)["validation_accuracy"])
    held = [one for one in notes["epochs"] if one["accuracy"] >= said]
    assert float(selected(output)["share"]) == pytest.approx(min(one["share"] for one in held))


def test_no_image_is_in_two_parts(config: Path, tmp_path: Path) -> None:
    from vision_bench.commands import read_command
    from vision_bench.reengineering.settings import ReengineerSettings
    from vision_bench.reengineering.study import ReengineerStudy

    words = [str(config), "--output", str(tmp_path / "out")]
    settings, _ = read_command(ReengineerSettings, "vision-bench reengineer run", "", words)
    study = ReengineerStudy(settings)
    study.load()
    parts = [
        {image.numpy().tobytes() for images, _ in part.in_order(64) for image in images}
        for part in (study.train, study.validation, study.test)
    ]
    assert [len(part) for part in parts] == [
        len(part.data) for part in (study.train, study.validation, study.test)
    ]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]


def test_the_page_says_what_the_terminal_does(config, tmp_path, capsys) -> None:
    assert run(config, tmp_path / "out", "--n-epochs", "2") == 0
    said = capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    for sentence in ("The module retains", "Against the restricted model"):
        assert sentence in said
        assert sentence in page
    for name in ("modules.png", "modules.svg", "training.png"):
        assert (tmp_path / "out" / "curves" / name).is_file()


@pytest.fixture(scope="module")
def channels(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module of gates on channels, fine-tuned, with everything that is written of it."""
    folder = tmp_path_factory.mktemp("runs") / "channels"
    words = ("--granularity", "channel", "--runtimes", "--fine-tune", "2", "--alpha", "8")
    assert (
        run(config, folder, *words, "--target-share", "0.6", "--lr-mask", "0.02", "--round-to", "1")
        == 0
    )
    return folder


def test_channels_are_removed_from_what_is_saved(channels: Path, lenet: Path) -> None:
    from vision_bench.reengineering.saved_module import load_module

    learned = LearnedMasks.load(channels / "mask")
    module, images, labels = images_of(lenet)
    smaller = load_module(channels / "module")
    kept = {name: int(one.sum()) for name, one in learned.selected.channels.items()}
    assert smaller.base.conv1.out_channels == kept["conv1"] < module.conv1.out_channels
    assert smaller.base.fc2.in_features == kept["fc1"]
    (told,) = [row for row in rows(channels) if row["what"] == "module, fine-tuned"]
    with torch.no_grad():
        right = smaller(images).argmax(1) == labels
    assert float(told["accuracy"]) == pytest.approx(float(right.double().mean()))
    (chosen,) = [
        row for row in rows(channels) if row["selected"] == "1" and row["what"] == "module"
    ]
    assert float(chosen["share"]) <= 0.6


def test_macs_of_a_module_are_those_that_pytorch_counts(channels: Path) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from vision_bench.reengineering.saved_module import load_module

    base = load_module(channels / "module").base
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        base(torch.zeros(1, 3, 28, 28))
    (chosen,) = [
        row for row in rows(channels) if row["selected"] == "1" and row["what"] == "module"
    ]
    assert float(chosen["macs"]) == pytest.approx(counter.get_total_flops() / 2, rel=1e-5)


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(
    config, output, tmp_path, monkeypatch
) -> None:
    killed, train = tmp_path / "killed", Learner.train

    def die_at_the_seventh(self, number, batches):
        if number == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return train(self, number, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "train", die_at_the_seventh)
        die_in_a_copy(lambda: run(config, killed))
    assert not (killed / "modules.csv").exists()
    assert run(config, killed) == 0
    assert (killed / "modules.csv").read_text() == (output / "modules.csv").read_text()


def test_a_finished_run_is_shown_again_without_a_step(
    config, output, tmp_path, monkeypatch
) -> None:
    from vision_bench.reengineering import learn

    before = (output / "modules.csv").read_text()

    def refuse(*_: object) -> float:
        raise AssertionError("trained again")

    monkeypatch.setattr(learn.Learner, "train", refuse)
    assert run(config, output) == 0
    assert (output / "modules.csv").read_text() == before


def test_where_nothing_is_left_the_masks_before_are_kept(config, tmp_path, capsys) -> None:
    assert run(config, tmp_path / "out", "--lr-mask", "1.5", "--alpha", "1000") == 0
    assert "nothing was retained any more" in capsys.readouterr().err
    assert all(ratio > 0 for ratio in LearnedMasks.load(tmp_path / "out" / "mask").metadata.ratios)


def test_early_stop_leaves_an_alpha_that_leads_nowhere(config, tmp_path) -> None:
    # Masks that hardly move make no module better: each alpha is left after two epochs of that.
    words = ("--lr-mask", "1e-6", "--lr-head", "1e-6", "--early-stop", "2", "--alpha", "1,2")
    assert run(config, tmp_path / "out", *words) == 0
    _, notes = read_file(tmp_path / "out" / "training" / STATE)
    assert [epoch["number"] for epoch in notes["epochs"]] == [0, 1, 2, 12, 13]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--classes", "3,eleven"), "classes holds 'eleven'"),
        (("--classes", "3"), "name at least two"),
        (("--classes", "3,5", "--target-class", "8"), "in one way"),
        (("--alpha", "-1"), "alpha=-1"),
        (("--validation-share", "1"), "validation_share=1.0"),
        (("--n-classes", "3"), "n_classes=3 goes with superclass_type='random'"),
        (("--granularity", "filter"), "granularity='filter'"),
        (("--lr-mask", "0"), "lr_mask='0' holds 0"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(config, tmp_path, capsys, words, message) -> None:
    status = run(config, tmp_path / "out", *words)
    said = capsys.readouterr().err
    assert status == 2
    assert message in said
    assert len([line for line in said.splitlines() if line.startswith("error:")]) == 1
    assert not (tmp_path / "out").exists()
