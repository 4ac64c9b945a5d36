"""Learned masks on disk, and the change of weights that they are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from aim_plugins.modulation.masks import maskable_parameters, random_masks, retained_ratio
from aim_plugins.modulation.retained import (
    LearnedMasks,
    MaskMetadata,
    MaskPoint,
    RetainedWeights,
    read_masks,
)

RATIOS = (0.8, 0.5, 0.1234)


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3)).eval()


def learned_on(model: nn.Module, *, head: bool = False) -> LearnedMasks:
    """A path of random masks, of which the second was selected; parts of 7 and 3 bits and more."""
    names = maskable_parameters(model)
    points = []
    for place, ratio in enumerate(RATIOS):
        masks = random_masks(model, names, ratio, seed=place)
        masks["2.weight"] = masks["2.weight"].any(0, keepdim=True)
        own = {"weight": torch.full((2, 3), float(place)), "bias": torch.ones(2)}
        points.append(MaskPoint(masks, own if head else {}, {"0": torch.arange(7) > place}))
    metadata = MaskMetadata.of_model(
        model,
        sites=names,
        method="weight",
        shapes=[list(points[0].masks[name].shape) for name in names],
        classes=["cat", "dog"] if head else [],
        class_indices=[[2], [0]] if head else [],
        ratios=[retained_ratio(model, one.masks) for one in points],
        selected=1,
        notes=[{"accuracy": 0.5}] * 3,
        settings={"alpha": 2.0},
    )
    return LearnedMasks(points, metadata)


def assert_equal(one: LearnedMasks, other: LearnedMasks) -> None:
    assert dataclasses.asdict(one.metadata) == dataclasses.asdict(other.metadata)
    for point, theirs in zip(one.points, other.points, strict=True):
        for kind in ("masks", "head", "channels"):
            mine, those = getattr(point, kind), getattr(theirs, kind)
            assert list(mine) == list(those) or set(mine) == set(those)
            for name in mine:
                assert mine[name].dtype == those[name].dtype
                assert torch.equal(mine[name], those[name])


def output(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(torch.linspace(-1, 1, 20).view(4, 5))


def test_masks_are_read_as_they_were_written(tmp_path: Path) -> None:
    learned = learned_on(network(), head=True)
    learned.save(tmp_path / "masks")
    loaded = LearnedMasks.load(tmp_path / "masks")
    assert_equal(learned, loaded)
    assert learned.fingerprint == loaded.fingerprint
    # A bit for each element, and nothing that would be run when it is read.
    assert {one.suffix for one in (tmp_path / "masks").iterdir()} == {".json", ".safetensors"}


def test_masks_of_more_than_ten_points_are_not_mixed_up(tmp_path: Path) -> None:
    learned = learned_on(network())
    shapes = {name: mask.shape for name, mask in learned.points[0].masks.items()}
    points = [
        MaskPoint({name: torch.full(shape, place % 3 == 0) for name, shape in shapes.items()})
        for place in range(12)
    ]
    metadata = dataclasses.replace(
        learned.metadata, ratios=[1 - place / 20 for place in range(12)], notes=[{}] * 12
    )
    many = LearnedMasks(points, metadata)
    many.save(tmp_path)
    assert_equal(many, LearnedMasks.load(tmp_path))


def test_the_fingerprint_tells_masks_apart() -> None:
    learned = learned_on(network())
    mask = learned.points[2].masks["0.weight"]
    before = learned.fingerprint
    flipped = {**learned.points[2].masks, "0.weight": mask ^ (torch.arange(35).view(7, 5) == 17)}
    changed = LearnedMasks(
        [*learned.points[:2], dataclasses.replace(learned.points[2], masks=flipped)],
        learned.metadata,
    )
    assert before == learned_on(network()).fingerprint != changed.fingerprint


def test_a_ratio_may_be_named_as_it_is_shown() -> None:
    learned = learned_on(network())
    for place, ratio in enumerate(learned.metadata.ratios):
        assert learned.at(float(f"{ratio:.3f}")) is learned.points[place]
    assert learned.at(1.0) is None
    assert learned.selected is learned.points[1]
    with pytest.raises(ValueError, match=r"retained_ratio=0\.65 is none of the ratios"):
        learned.at(0.65)


def test_of_ratios_close_to_each_other_the_nearest_is_meant() -> None:
    learned = learned_on(network())
    metadata = dataclasses.replace(learned.metadata, ratios=[0.81234, 0.81201, 0.8119])
    close = LearnedMasks(learned.points, metadata)
    for place, ratio in enumerate(metadata.ratios):
        assert close.place_of(ratio) == place
    assert [close.place_of(one) for one in (0.8126, 0.812, 0.8117)] == [0, 1, 2]


def test_the_whole_model_is_told_from_a_mask_that_retains_nearly_all() -> None:
    learned = learned_on(network())
    metadata = dataclasses.replace(learned.metadata, ratios=[0.9997, 0.5, 0.1])
    nearly = LearnedMasks(learned.points, metadata)
    assert nearly.at(1.0) is None
    strengths = [
        one.strength for one in RetainedWeights.read({"mask": nearly, "retained_ratio": "path"})
    ]
    assert strengths == [0.9997, 0.5, 0.1, 1.0]


def test_the_change_is_the_selected_mask_some_of_them_or_all() -> None:
    learned = learned_on(network())
    ratios = learned.metadata.ratios

    def read(**given: object) -> list[float]:
        return [one.strength for one in RetainedWeights.read({"mask": learned, **given})]

    assert read() == [ratios[1]]
    assert read(retained_ratio="path") == [*ratios, 1.0]
    rounded = f"{ratios[2]:.3f},1,{ratios[2]:.4f},{ratios[0]:.3f}"
    assert sorted(read(retained_ratio=rounded)) == sorted([ratios[2], 1.0, ratios[0]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "mask= is missing"),
        ({"retained_ratio": "1.5"}, "retained_ratio"),
        ({"retained_ratio": "0.3"}, "is none of the ratios of these masks"),
        ({"force_mask": "yes"}, "force_mask='yes' is neither True nor False"),
    ],
)
def test_a_change_that_cannot_be_read_is_refused(given: dict, message: str) -> None:
    given = given if not given else {"mask": learned_on(network()), **given}
    with pytest.raises(ValueError, match=message):
        RetainedWeights.read(given)


def test_masks_of_a_module_with_a_head_of_its_own_are_refused_as_a_change(tmp_path: Path) -> None:
    folder = learned_on(network(), head=True).save(tmp_path / "masks")
    message = "masks' is of a module with a head of its own, for 2 classes: use `vision-bench ree"
    with pytest.raises(ValueError, match=message):
        RetainedWeights.read({"mask": folder, "retained_ratio": "0.5"})


def test_the_change_removes_what_the_mask_does_not_retain_and_restores_it() -> None:
    model = network()
    learned = learned_on(model)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    plain = output(model)
    for change, point in zip(
        RetainedWeights.read({"mask": learned, "retained_ratio": "path"}),
        [*learned.points, None],
        strict=True,
    ):
        by_hand = network()
        with torch.no_grad():
            for name, mask in ({} if point is None else point.masks).items():
                by_hand.get_parameter(name)[~mask.expand_as(by_hand.get_parameter(name))] = 0
        with RetainedWeights.applied(model, [change]):
            assert torch.equal(output(model), output(by_hand))
    with RetainedWeights.applied(model, [None]):
        assert torch.equal(output(model), plain)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_masks_of_another_model_are_refused_unless_forced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    learned, other = learned_on(network()), network(seed=1)
    (change,) = RetainedWeights.read({"mask": learned})
    change.check_model(network(), None)
    with pytest.raises(ValueError, match="the mask was learned on another model .*force_mask=True"):
        change.check_model(other, None)
    (forced,) = RetainedWeights.read({"mask": learned, "force_mask": "True"})
    forced.check_model(other, None)
    assert "the mask was learned on" in caplog.text
    narrow = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    before = {name: one.clone() for name, one in narrow.state_dict().items()}
    with pytest.raises(ValueError, match="it was learned on another model"):
        RetainedWeights.applied(narrow, [forced]).__enter__()
    assert all(torch.equal(one, before[name]) for name, one in narrow.state_dict().items())


def test_half_precision_is_the_same_model_and_is_masked_alike() -> None:
    model = network()
    (change,) = RetainedWeights.read({"mask": learned_on(model)})
    half = network().half()
    change.check_model(half, None)
    weight = half[0].weight.clone()
    with RetainedWeights.applied(half, [change]):
        kept = change.learned.selected.masks["0.weight"]
        assert torch.equal(half[0].weight, weight * kept)
    assert torch.equal(half[0].weight, weight)


def test_damaged_and_missing_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_masks(tmp_path / "none")
    folder = learned_on(network()).save(tmp_path / "masks")
    assert read_masks(folder) is read_masks(folder)
    content = (folder / "mask.safetensors").read_bytes()
    (folder / "mask.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match="SHA-256 differs"):
        read_masks(folder)
    (folder / "mask.safetensors").write_bytes(content)
    description = json.loads((folder / "mask.json").read_text())
    (folder / "mask.json").write_text(json.dumps(description | {"selected": 2}))
    with pytest.raises(ValueError, match="was altered"):
        read_masks(folder)
    (folder / "mask.json").unlink()
    with pytest.raises(ValueError, match="has no file 'mask.json'"):
        read_masks(folder)
