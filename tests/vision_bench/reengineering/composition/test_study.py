"""`vision-bench reengineer compose`, end to end on digits: figures against masks by hand."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from aim_plugins.modulation.channels import ChannelMasks, layer_macs
from aim_plugins.modulation.retained import LearnedMasks, MaskMetadata, MaskPoint
from vision_bench.cli import main
from vision_bench.data.classification import load_dataset
from vision_bench.models.load import load_model
from vision_bench.reengineering.channels import find_channel_groups
from vision_bench.reengineering.composition.study import ComposeStudy
from vision_bench.reengineering.removal import remove_channels
from vision_bench.reengineering.saved_module import load_module

pytestmark = pytest.mark.usefixtures("one_thread")

FIRST, SECOND, TARGET = (3, 5), (8, 5, 1), 0
UNION = (0, 1, 3, 5, 8)
SHARED = {
    "dataset": "digits",
    "model": "lenet5",
    "n_epochs": 6,
    "lr_mask": 0.4,
    "train_batch_size": 32,
    "augment": "none",
    "validation_share": 0.3,
    "points": 3,
    "train_limit": 400,
    "runtimes": False,
}


@pytest.fixture(scope="module")
def config(lenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "digits.json"
    path.write_text(json.dumps(SHARED | {"weights": str(lenet)}))
    return path


@pytest.fixture(scope="module")
def modules(config: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("modules")
    problems = {
        "first": ("--classes", ",".join(map(str, FIRST))),
        "second": ("--classes", ",".join(map(str, SECOND))),
        "binary": ("--target-class", str(TARGET)),
    }
    for name, words in problems.items():
        given = ["reengineer", "run", str(config), "--output", str(root / name), *words]
        assert main(given) == 0
    return [root / name for name in problems]


@pytest.fixture(scope="module")
def output(config: Path, modules: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "composed"
    assert compose(config, folder, modules) == 0
    return folder


def compose(config: Path, folder: Path, modules: list[Path], *words: str) -> int:
    given = ["reengineer", "compose", str(config), "--output", str(folder)]
    return main([*given, *words, "--modules", *map(str, modules)])


def table(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / name).read_text().splitlines()))


def images_of(lenet: Path) -> tuple[torch.nn.Module, Tensor, Tensor]:
    model = load_model("lenet5", weights=lenet, classes=10)
    data = load_dataset("digits", preprocessing=model.preprocessing)
    kept = [place for place, label in enumerate(data.labels.tolist()) if label in UNION]
    images = torch.stack([data[place][0] for place in kept])
    labels = torch.tensor([UNION.index(int(data.labels[place])) for place in kept])
    return model.module, images, labels


def zeroed(lenet: Path, masks: dict[str, Tensor]) -> torch.nn.Module:
    module = load_model("lenet5", weights=lenet, classes=10).module
    for name, parameter in module.named_parameters():
        parameter.copy_(parameter * masks[name])
    return module


@torch.no_grad()
def test_the_composed_model_answers_as_weights_zeroed_by_hand(
    output: Path, modules: list[Path], lenet: Path
) -> None:
    learned = LearnedMasks.load(output / "mask")
    parts = [LearnedMasks.load(one / "mask").selected for one in modules]
    for name, mask in learned.selected.masks.items():
        assert torch.equal(mask, sum(one.masks[name].int() for one in parts) > 0)
    _, images, labels = images_of(lenet)
    hidden = F.relu(zeroed(lenet, dict(learned.selected.masks))(images))
    head = learned.selected.head
    right = (hidden @ head["weight"].T + head["bias"]).argmax(1) == labels
    rows = {row["what"]: row for row in table(output, "composition.csv")}
    row = rows["composed, new head"]
    assert float(row["accuracy"]) == pytest.approx(float(right.double().mean()))
    assert int(row["images"]) == len(images)
    kept = sum(int(mask.sum()) for mask in learned.selected.masks.values())
    total = sum(mask.numel() for mask in learned.selected.masks.values())
    assert float(row["retained_ratio"]) == pytest.approx(kept / total)
    assert list(learned.metadata.ratios) == pytest.approx([kept / total])
    assert [one for (one,) in learned.metadata.class_indices] == list(UNION)


@torch.no_grad()
def test_it_is_held_against_the_whole_model_and_the_modules_own_heads(
    output: Path, modules: list[Path], lenet: Path
) -> None:
    rows = {row["what"]: row for row in table(output, "composition.csv")}
    module, images, labels = images_of(lenet)
    logits = module(images)
    restricted = logits[:, list(UNION)].argmax(1) == labels
    whole = logits.argmax(1) == torch.tensor(UNION)[labels]
    scores = torch.full((len(images), 10), -torch.inf)
    for folder, classes in zip(modules, (FIRST, SECOND, (TARGET,)), strict=True):
        point = LearnedMasks.load(folder / "mask").selected
        hidden = F.relu(zeroed(lenet, dict(point.masks))(images))
        outputs = hidden @ point.head["weight"].T + point.head["bias"]
        if len(classes) == 1:
            outputs = outputs[:, :1] - outputs[:, 1:]
        for place, label in enumerate(classes):
            scores[:, label] = torch.maximum(scores[:, label], outputs[:, place])
    naive = scores.argmax(1) == torch.tensor(UNION)[labels]
    for what, right in (
        ("whole model, all classes", whole),
        ("whole model, restricted", restricted),
        ("modules' own heads side by side", naive),
    ):
        assert float(rows[what]["accuracy"]) == pytest.approx(float(right.double().mean()))
        difference = right.double().mean() - restricted.double().mean()
        assert float(rows[what]["difference"]) == pytest.approx(float(difference))


def test_controls_retain_as_much_as_the_composed_model(
    config, modules, output, tmp_path, monkeypatch
) -> None:
    kept = []
    right = ComposeStudy.right

    def counting(study: ComposeStudy, point: MaskPoint, relu: bool = True) -> object:
        kept.append(sum(int(one.sum()) for one in point.masks.values()))
        return right(study, point, relu)

    monkeypatch.setattr(ComposeStudy, "right", counting)
    assert compose(config, tmp_path / "out", modules) == 0
    assert len(kept) == 3 and len(set(kept)) == 1
    told = {row["what"] for row in table(tmp_path / "out", "composition.csv")}
    assert {"largest weights, as much", "random weights, as much"} < told


def test_overlaps_are_those_of_retained_weights(output: Path, modules: list[Path]) -> None:
    rows = table(output, "overlaps.csv")
    sets = {}
    for folder in modules:
        masks = LearnedMasks.load(folder / "mask").selected.masks
        sets[folder.name] = {
            (name, place)
            for name, mask in masks.items()
            for place, one in enumerate(mask.flatten().tolist())
            if one
        }
    names = {"3, 5": "first", "8, 5, 1": "second", "0 or not": "binary"}
    every = [row for row in rows if not row["layer"]]
    assert len(every) == 3
    for row in rows:
        one, other = (
            {element for element in sets[names[row[side]]] if element[0].startswith(row["layer"])}
            for side in ("first", "second")
        )
        expected = len(one & other) / len(one | other)
        assert float(row["jaccard"]) == pytest.approx(expected)
        assert float(row["chance_low"]) <= float(row["chance"]) <= float(row["chance_high"])


def test_the_order_of_modules_does_not_matter(config, modules, output, tmp_path) -> None:
    assert compose(config, tmp_path / "out", modules[::-1]) == 0
    for name in ("composition.csv", "overlaps.csv", "mask/mask.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (output / name).read_bytes()


def test_masks_may_be_named_themselves_and_be_composed_further(
    config, modules, output, tmp_path, capsys
) -> None:
    """What is composed of a composed model and one of its parts is the composed model."""
    assert compose(config, tmp_path / "out", [output, modules[0] / "mask"]) == 0
    again, before = (LearnedMasks.load(one / "mask") for one in (tmp_path / "out", output))
    assert again.metadata.ratios == before.metadata.ratios
    for name, mask in before.selected.masks.items():
        assert torch.equal(again.selected.masks[name], mask)
    said = capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    for sentence in ("Composed of 2 modules", "Against the restricted model", "within layers"):
        assert sentence in page
    assert "Composed of 2 modules" in said
    for name in ("overlaps.png", "overlaps.svg", "layers.png"):
        assert (tmp_path / "out" / "curves" / name).is_file()


def test_a_finished_study_is_shown_again_without_a_pass(config, modules, output, monkeypatch):
    from vision_bench.reengineering import problem_study

    before = (output / "composition.csv").read_text()
    monkeypatch.setattr(problem_study, "fit_head", None)
    assert compose(config, output, modules) == 0
    assert (output / "composition.csv").read_text() == before


def test_what_cannot_be_composed_is_refused_in_one_line(
    config, modules, lenet, tmp_path, capsys
) -> None:
    first, other = modules[0], tmp_path / "other.safetensors"
    with safe_open(lenet, framework="pt") as file:
        state = {name: -file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file(state, other, file.metadata())
    cases = [
        ([first], (), "names 1 of at least two"),
        ([first, first / "mask"], (), "hold the same masks"),
        ([first, tmp_path / "none"], (), "no such folder"),
        ([first, tmp_path], (), "holds no mask/mask.json"),
        (modules, ("--weights", str(other)), "was learned on another model"),
        (modules, ("--lr-head", "0"), "lr_head=0.0"),
    ]
    for folders, words, message in cases:
        assert compose(config, tmp_path / "out", folders, *words) == 2
        said = capsys.readouterr().err
        assert message in said
        assert len([line for line in said.splitlines() if line.startswith("error:")]) == 1
        assert not (tmp_path / "out").exists()


def test_a_module_that_retains_everything_is_named(config, modules, tmp_path, capsys) -> None:
    known = LearnedMasks.load(modules[0] / "mask")
    point = known.selected
    every = {name: torch.ones_like(mask) for name, mask in point.masks.items()}
    metadata = replace(known.metadata, ratios=[1.0], selected=0, notes=[])
    LearnedMasks([replace(point, masks=every)], metadata).save(tmp_path / "all")
    assert compose(config, tmp_path / "out", [tmp_path / "all", modules[1]]) == 0
    said = capsys.readouterr().out
    assert "The module of 3, 5 retains everything" in said
    assert "The module of 8, 5, 1 retains everything" not in said


def save_channels(folder: Path, model: torch.nn.Module, classes: tuple[int, ...]) -> Path:
    """A module of random channels, each group with some open and some closed, and a random head."""
    images = torch.zeros(1, 3, 28, 28)
    groups = find_channel_groups(model, images)
    gates = ChannelMasks(model, groups, layer_macs(model, images))
    generator = torch.Generator().manual_seed(classes[0])
    opened = {
        one.name: torch.randperm(one.size, generator=generator) < one.size // 3 for one in groups
    }
    gates.set_open(opened)
    masks, outputs = gates.binary(), len(classes)
    metadata = MaskMetadata.of_model(
        model,
        method="channel",
        sites=list(masks),
        shapes=[list(one.shape) for one in masks.values()],
        classes=[str(one) for one in classes],
        class_indices=[[one] for one in classes],
        ratios=[gates.retained_ratio()],
    )
    head = {"weight": torch.randn(outputs, 10, generator=generator), "bias": torch.zeros(outputs)}
    return LearnedMasks([MaskPoint(masks, head, opened)], metadata).save(folder)


def test_of_channels_the_macs_are_those_that_removal_leaves(config, lenet, tmp_path) -> None:
    model = load_model("lenet5", weights=lenet, classes=10).module
    folders = [
        save_channels(tmp_path / "one", model, (3, 5)),
        save_channels(tmp_path / "other", model, (1, 8)),
    ]
    words = ("--runtimes", "--round-to", "1")
    assert compose(config, tmp_path / "out", folders, *words) == 0
    point = LearnedMasks.load(tmp_path / "out" / "mask").selected
    written = load_module(tmp_path / "out" / "module")
    kept = {name: int(channels.sum()) for name, channels in point.channels.items()}
    assert written.base.conv1.out_channels == kept["conv1"]
    assert torch.equal(written.head.weight, point.head["weight"])
    assert (tmp_path / "out" / "module" / "module.onnx").is_file()
    parts = [LearnedMasks.load(one).selected.channels for one in folders]
    images = torch.zeros(1, 3, 28, 28)
    for name, channels in point.channels.items():
        assert torch.equal(channels, parts[0][name] | parts[1][name])
        assert 0 < int(channels.sum()) < len(channels)
    smaller = remove_channels(model, find_channel_groups(model, images), point.channels, images)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        smaller(images)
    (row,) = [
        one for one in table(tmp_path / "out", "composition.csv") if one["what"].startswith("comp")
    ]
    # PyTorch counts a multiplication and an addition each.
    assert float(row["macs"]) == pytest.approx(counter.get_total_flops() / 2)
    weights = sum(one.numel() for one in smaller.parameters())
    whole = sum(one.numel() for one in model.parameters())
    assert float(row["retained_ratio"]) == pytest.approx(weights / whole)
    overlaps = table(tmp_path / "out", "overlaps.csv")
    assert int(overlaps[0]["elements"]) == sum(len(one) for one in point.channels.values())
