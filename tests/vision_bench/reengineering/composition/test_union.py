"""Unions of masks, and heads side by side, against loops by hand; modules read from folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from aim_plugins.modulation.channels import layer_macs
from aim_plugins.modulation.masks import WeightMasks
from aim_plugins.modulation.retained import LearnedMasks, MaskMetadata, MaskPoint
from vision_bench.reengineering.composition.modules import (
    check_members,
    mask_folder,
    read_members,
    union_problem,
)
from vision_bench.reengineering.composition.union import side_by_side, union_of
from vision_bench.reengineering.costs import size_of
from vision_bench.reengineering.problem import Problem, binary, multiclass

CLASSES = ["ant", "bee", "cat", "dog", "elk"]


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, len(CLASSES)))


def save(
    folder: Path,
    problem: Problem | None,
    *,
    seed: int = 0,
    method: str = "weight",
    model: nn.Module | None = None,
) -> str:
    """A module of the network with random masks and a random head."""
    model = model or network()
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: one.shape for name, one in model.named_parameters()}
    masks = {name: torch.rand(one, generator=generator) < 0.4 for name, one in shapes.items()}
    outputs = len(problem) if problem else 0
    head = {
        "weight": torch.randn(outputs, len(CLASSES), generator=generator),
        "bias": torch.randn(outputs, generator=generator),
    }
    kept = sum(int(one.sum()) for one in masks.values())
    metadata = MaskMetadata.of_model(
        model,
        method=method,
        sites=list(masks),
        shapes=[list(one) for one in shapes.values()],
        classes=list(problem.names) if problem else [],
        class_indices=[list(group) for group in problem.groups] if problem else [],
        ratios=[kept / sum(one.numel() for one in shapes.values())],
    )
    LearnedMasks([MaskPoint(masks, head if problem else {})], metadata).save(folder)
    return str(folder)


def some(*classes: str) -> Problem:
    return multiclass(CLASSES, classes)


def test_the_union_retains_what_any_module_does(tmp_path: Path) -> None:
    folders = [save(tmp_path / str(seed), some("ant", "bee"), seed=seed) for seed in range(3)]
    points = [one.point for one in read_members(folders)]
    union, model = union_of(points), network()
    kept = 0
    for name, parameter in model.named_parameters():
        for place, found in enumerate(union.masks[name].flatten().tolist()):
            assert found == any(bool(one.masks[name].flatten()[place]) for one in points)
            kept += found
        assert union.masks[name].shape == parameter.shape
    total = sum(one.numel() for one in model.parameters())
    size = size_of(model, WeightMasks(model), union, layer_macs(model, torch.zeros(2, 4)))
    assert size.ratio == pytest.approx(kept / total)
    # Each weight of a linear layer is multiplied once for an input.
    weights = sum(int(one.sum()) for name, one in union.masks.items() if name.endswith("weight"))
    assert size.macs == pytest.approx(weights)


def test_channels_are_open_where_any_module_has_them_open() -> None:
    points = [
        MaskPoint(
            {"2.weight": torch.tensor([[one, True]])}, channels={"0": torch.tensor([one, True])}
        )
        for one in (False, True)
    ]
    union = union_of(points)
    assert union.channels["0"].tolist() == [True, True]
    assert union.masks["2.weight"].tolist() == [[True, True]]
    assert union_of([points[0], points[0]]).channels["0"].tolist() == [False, True]


def test_heads_side_by_side_answer_with_the_largest_output_of_any_that_knows_the_class() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = some("dog", "ant"), some("bee", "dog", "elk")
    outputs = [torch.randn(20, len(one), generator=generator) for one in (first, second)]
    union = some("ant", "bee", "dog", "elk")
    found = side_by_side(outputs, [first.groups, second.groups], union)
    for image in range(20):
        own = dict(zip(first.names, outputs[0][image].tolist(), strict=True))
        other = dict(zip(second.names, outputs[1][image].tolist(), strict=True))
        for place, name in enumerate(union.names):
            known = [one[name] for one in (own, other) if name in one]
            assert found[image, place].item() == pytest.approx(max(known))


def test_a_module_of_one_class_answers_with_its_log_odds() -> None:
    problems = [binary(CLASSES, "elk"), binary(CLASSES, "bee")]
    outputs = [torch.tensor([[2.0, 0.5], [0.0, 3.0]]), torch.tensor([[1.0, 1.0], [-1.0, -2.0]])]
    found = side_by_side(outputs, [one.groups for one in problems], some("bee", "elk"))
    assert found.tolist() == [[0.0, 1.5], [1.0, -3.0]]
    share = torch.softmax(outputs[0], 1)[:, 0]
    assert torch.allclose(found[:, 1], torch.log(share / (1 - share)))


def test_a_class_that_two_modules_know_is_one_output(tmp_path: Path) -> None:
    folders = [
        save(tmp_path / "one", some("dog", "ant")),
        save(tmp_path / "other", some("bee", "dog"), seed=1),
        save(tmp_path / "binary", binary(CLASSES, "elk"), seed=2),
    ]
    problem = union_problem(read_members(folders))
    assert problem == Problem(("ant", "bee", "dog", "elk"), ((0,), (1,), (3,), (4,)))


def test_members_do_not_depend_on_the_order_of_folders(tmp_path: Path) -> None:
    folders = [save(tmp_path / str(seed), some("ant", "bee"), seed=seed) for seed in (0, 1)]
    folders.append(save(tmp_path / "later", some("ant", "elk"), seed=2))
    one, other = read_members(folders), read_members(folders[::-1])
    assert [member.name for member in one] == [member.name for member in other]
    # Modules of the same classes are told apart by their folders.
    assert {member.name for member in one} == {"ant, bee (0)", "ant, bee (1)", "ant, elk"}


def test_modules_of_the_same_classes_are_named_by_where_they_lie(tmp_path: Path) -> None:
    places = ("one/mask", "other/mask", "deep/one/mask")
    folders = [save(tmp_path / place, some("ant", "bee"), seed=n) for n, place in enumerate(places)]
    names = {member.name for member in read_members(folders)}
    assert names == {f"ant, bee ({folders[0]})", "ant, bee (other)", f"ant, bee ({folders[2]})"}


def test_results_of_a_study_are_as_good_as_their_masks(tmp_path: Path) -> None:
    save(tmp_path / "run" / "mask", some("ant", "bee"))
    assert mask_folder(tmp_path / "run") == mask_folder(tmp_path / "run" / "mask")


def test_modules_that_do_not_go_together_are_refused_by_name(tmp_path: Path) -> None:
    good = save(tmp_path / "good", some("ant", "bee"))
    twin = save(tmp_path / "twin", some("ant", "bee"))
    with pytest.raises(ValueError, match="'.*good' and '.*twin' hold the same masks"):
        read_members([good, twin])
    with pytest.raises(ValueError, match="hold the same masks"):
        read_members([good, good])
    channels = save(tmp_path / "channels", some("ant", "bee"), seed=1, method="channel")
    with pytest.raises(ValueError, match="'.*good' has granularity='weight', '.*channels'"):
        read_members([good, channels])
    headless = save(tmp_path / "headless", None, seed=1)
    with pytest.raises(ValueError, match="'.*headless' holds masks without a head"):
        read_members([good, headless])


def test_modules_of_another_model_or_other_data_are_refused(tmp_path: Path) -> None:
    good = save(tmp_path / "good", some("ant", "bee"))
    foreign = save(tmp_path / "foreign", some("ant", "elk"), seed=2, model=network(seed=1))
    members = read_members([good, foreign])
    with pytest.raises(ValueError, match="'.*foreign' was learned on another model"):
        check_members(members, network(), CLASSES)
    alike = read_members([good, save(tmp_path / "alike", some("ant", "elk"), seed=1)])
    check_members(alike, network(), CLASSES)
    with pytest.raises(ValueError, match="calls class 1 'bee', the data 'cow'"):
        check_members(alike, network(), ["ant", "cow", "cat", "dog", "elk"])


def test_binary_modules_of_one_class_have_nothing_to_tell_apart(tmp_path: Path) -> None:
    folders = [save(tmp_path / str(one), binary(CLASSES, "elk"), seed=one) for one in (0, 1)]
    with pytest.raises(ValueError, match="all of them know 'elk' alone"):
        union_problem(read_members(folders))
