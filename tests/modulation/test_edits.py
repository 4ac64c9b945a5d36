"""Edits on disk and as changes, random ablation as a change, and what both refuse."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aim_plugins.modulation.ablation import ablation_mask
from aim_plugins.modulation.arguments import columns_of, describe_columns
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.columns import Column, applied
from aim_plugins.modulation.component_kinds import find_components
from aim_plugins.modulation.edits import (
    ComponentEdit,
    EditedComponents,
    baked,
    read_edit,
)
from aim_plugins.modulation.random_ablation import RandomAblation


def network(seed: int = 0, width: int = 6) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, width, 3),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(9 * width, 4),
        ).eval()


def filters(model: nn.Module, *numbers: int) -> ComponentEdit:
    components = find_components(model, "conv_filters").take(numbers or (1, 4))
    return ComponentEdit.of_model(
        *(model, components),
        scores=[-2.5, 1e-3][: len(components)],
        method="coar",
        targets=["cat 1"],
        references=["dog 7", "dog 9"],
        settings={"side": "bottom"},
    )


@pytest.fixture
def model() -> nn.Module:
    return network()


@torch.no_grad()
def output(model: nn.Module, rows: int = 4) -> Tensor:
    return model(torch.linspace(-1, 1, rows * 75).view(rows, 3, 5, 5))


def zeroed(model: nn.Module, numbers: Any, factor: float = 0.0) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight[numbers] *= factor  # type: ignore[index]
    return other


# On disk ------------------------------------------------------------------------------------------


def test_an_edit_is_read_as_it_was_written(model: nn.Module, tmp_path: Path) -> None:
    edit = filters(model)
    loaded = ComponentEdit.load(edit.save(tmp_path / "edit"))
    assert list(loaded.components.names()) == ["0[1]", "0[4]"]
    assert loaded.scores == (-2.5, 1e-3)
    assert dataclasses.asdict(loaded.metadata) == dataclasses.asdict(edit.metadata)
    assert loaded.metadata.sites == ["0"]
    assert loaded.metadata.references == ["dog 7", "dog 9"]
    assert loaded.fingerprint == edit.fingerprint != filters(model, 1, 5).fingerprint
    assert {one.name for one in (tmp_path / "edit").iterdir()} == {"edit.safetensors", "edit.json"}
    assert read_edit(tmp_path / "edit") is read_edit(tmp_path / "edit")


def test_damaged_and_missing_edits_are_refused(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="edit='nowhere': no such folder"):
        read_edit("nowhere")
    with pytest.raises(ValueError, match="has no file 'edit.json'"):
        read_edit(tmp_path)
    folder = filters(model).save(tmp_path / "edit")
    content = json.loads((folder / "edit.json").read_text())
    content["components"][0]["members"] = [2]
    (folder / "edit.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="was altered"):
        read_edit(folder)


def test_an_edit_of_nothing_and_scores_of_others_are_refused(model: nn.Module) -> None:
    components = find_components(model, "conv_filters")
    with pytest.raises(ValueError, match="an edit of none changes nothing"):
        ComponentEdit.of_model(model, components.take([]), method="coar")
    with pytest.raises(ValueError, match="scores has 1 values for 6 components"):
        ComponentEdit.of_model(model, components, scores=[1.0], method="coar")


# As a change --------------------------------------------------------------------------------------


def test_strengths_are_rows_of_one_batch_and_those_of_scaled_weights(model: nn.Module) -> None:
    edit, plain = filters(model), output(model)
    changes = EditedComponents.read({"edit": edit, "edit_strength": "0:1:0.25"})
    with EditedComponents.applied(model, [*changes[:4]]):
        found = output(model)
    assert torch.equal(found[0], plain[0])
    for row, change in enumerate(changes[:4]):
        expected = output(zeroed(model, [1, 4], 1 - change.strength))[row]
        assert torch.allclose(found[row], expected, atol=1e-6)
        with EditedComponents.applied(model, [change]):
            assert torch.allclose(output(model)[row], found[row], atol=1e-6)
    with EditedComponents.applied(model, [None]):
        assert torch.equal(output(model), plain)
    assert torch.equal(output(model), plain)


def test_without_a_strength_the_components_are_ablated(model: nn.Module) -> None:
    [change] = EditedComponents.read({"edit": filters(model)})
    with EditedComponents.applied(model, [change]):
        assert torch.allclose(output(model), output(zeroed(model, [1, 4])), atol=1e-6)
    with filters(model).applied(model):
        assert torch.allclose(output(model), output(zeroed(model, [1, 4])), atol=1e-6)


def test_rows_of_different_edits_share_a_batch(model: nn.Module) -> None:
    one = EditedComponents.read({"edit": filters(model), "edit_strength": [0.5, 1]})
    [other] = EditedComponents.read({"edit": filters(model, 0, 2)})
    with EditedComponents.applied(model, [one[0], other, None, one[1]]):
        found = output(model)
    copies = zeroed(model, [1, 4], 0.5), zeroed(model, [0, 2]), model, zeroed(model, [1, 4])
    for row, copied in enumerate(copies):
        assert torch.allclose(found[row], output(copied)[row], atol=1e-6)


def test_a_baked_copy_is_the_edited_model_and_the_model_stays(model: nn.Module) -> None:
    edit, plain = filters(model), output(model)
    for strength in (0.0, 0.3, 1.0):
        copied = baked(model, edit, strength)
        assert torch.equal(copied[0].weight, zeroed(model, [1, 4], 1 - strength)[0].weight)  # type: ignore[index]
        with edit.applied(model, strength):
            assert torch.allclose(output(model), output(copied), atol=1e-6)
    assert torch.equal(output(model), plain)
    with pytest.raises(ValueError, match="strength=1.5 is out of range: give a number from 0 to 1"):
        baked(model, edit, 1.5)


def test_an_edit_of_another_model_is_refused_unless_forced(model: nn.Module, caplog) -> None:
    edit = filters(model)
    other, wider = network(1), network(0, 8)
    [change] = EditedComponents.read({"edit": edit})
    change.check_model(copy.deepcopy(model).half(), None)
    with pytest.raises(ValueError, match=r"the edit was learned on another model.*force_edit=True"):
        change.check_model(other, None)
    [forced] = EditedComponents.read({"edit": edit, "force_edit": "True"})
    forced.check_model(other, None)
    assert "the edit was learned on" in caplog.text
    with EditedComponents.applied(other, [forced]):
        assert torch.allclose(output(other), output(zeroed(other, [1, 4])), atol=1e-6)
    with (
        pytest.raises(ValueError, match=r"components='0' are 6 features of a layer that has 8"),
        EditedComponents.applied(wider, [forced]),
    ):
        output(wider)


def test_an_edit_by_hand_asks_for_its_own_model_too(model: nn.Module) -> None:
    edit, other = filters(model), network(1)
    for act in (lambda: edit.applied(other).__enter__(), lambda: baked(other, edit)):
        with pytest.raises(ValueError, match="the edit was learned on another model.*force=True"):
            act()
    expected = output(zeroed(other, [1, 4]))
    assert torch.equal(output(baked(other, edit, force=True)), expected)
    with edit.applied(other, force=True):
        assert torch.allclose(output(other), expected, atol=1e-6)
    for strengths in (1.7, [0.5, -0.1], float("nan")):
        with pytest.raises(ValueError, match=r"strength=(1\.7|-0\.1|nan) "):
            edit.applied(model, strengths).__enter__()


def test_an_edit_of_another_size_bakes_nothing(model: nn.Module) -> None:
    wider = network(0, 8)
    before = copy.deepcopy(wider.state_dict())
    with pytest.raises(ValueError, match="components='0' are 6 features of a layer that has 8"):
        baked(wider, filters(model), force=True)
    assert all(torch.equal(one, before[name]) for name, one in wider.state_dict().items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "edit= is missing: .*edit=DIR"),
        ({"edit": ""}, "edit= is missing"),
        ({"edit_strength": 0.5}, "edit= is missing"),
        ({"edit": "x", "edit_strength": "1.5"}, "edit_strength=1.5 is out of range: .* 0 to 1"),
        ({"edit": "x", "edit_strength": -0.5}, "edit_strength=-0.5 is negative"),
        ({"edit": "x", "force_edit": "yes"}, "force_edit='yes' is neither True nor False"),
    ],
)
def test_an_edit_that_cannot_be_read_is_refused(given, message) -> None:
    with pytest.raises(ValueError, match=message):
        EditedComponents.read(given)


# Random ablation ----------------------------------------------------------------------------------


def test_rows_are_ablated_by_their_share_and_seed(model: nn.Module) -> None:
    columns = columns_of(
        ablated_share=[0, 0.4, 0.8], ablated_components="conv_filters", noise_draws=2, noise_seed=5
    )
    assert [column.seed for column in columns] == [5, 6] * 3
    with applied(model, [column.forward for column in columns]):
        found = output(model, len(columns))
    plain = output(model, len(columns))
    for row in range(len(columns)):
        share = (0.0, 0.4, 0.8)[row // 2]
        ablated = ablation_mask(6, share, 5 + row % 2)
        expected = output(zeroed(model, np.flatnonzero(ablated)), len(columns))[row]
        assert torch.allclose(found[row], expected, atol=1e-6)
        assert share or torch.equal(found[row], plain[row])
    assert not torch.allclose(found[2], found[3])


def test_a_pattern_chooses_some_of_them(model: nn.Module) -> None:
    [change] = RandomAblation.read(
        {"ablated_share": 1, "ablated_components": r"conv_filters:0\[[1-2]\]"}
    )
    with RandomAblation.applied(model, [change]):
        assert torch.allclose(output(model), output(zeroed(model, [1, 2])), atol=1e-6)


def test_an_edit_and_an_ablation_act_together(model: nn.Module) -> None:
    columns = columns_of(
        edit=filters(model), ablated_share=1.0, ablated_components=r"conv_filters:0\[0\]"
    )
    with applied(model, [columns[0].forward]):
        assert torch.allclose(output(model), output(zeroed(model, [0, 1, 4])), atol=1e-6)


def test_draws_and_components_are_told_apart() -> None:
    one, other = (
        RandomAblation.read({"ablated_share": 0.1, "ablated_components": kind})[0]
        for kind in ("attention_heads", "mlp_neurons")
    )
    columns = [Column((change,)) for change in (one, other, one.drawn(1), one.drawn(2))]
    assert len({column.fingerprint for column in columns}) == 4
    assert one.fingerprint == one.drawn(1).fingerprint != other.fingerprint
    described = describe_columns(columns[:1])
    assert described["ablated_share"] == [0.1]
    assert described["ablated_components"] == "attention_heads"
    assert described["changes"]["ablation"]["components"] == "attention_heads"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ablated_share": 0.1}, "ablated_components= is missing: name a kind"),
        ({"ablated_components": "attention_heads"}, "ablated_share= is missing"),
        ({"ablated_components": "heads", "ablated_share": 0.1}, "'heads' is of no kind"),
        (
            {"ablated_components": "attention_head:x", "ablated_share": 0.1},
            "did you mean 'attention_heads'",
        ),
        (
            {"ablated_components": "blocks:(", "ablated_share": 0.1},
            r"ablated_components='\(' is no regular expression",
        ),
        (
            {"ablated_components": "blocks", "ablated_share": 1.1},
            "ablated_share=1.1 is out of range: give a number from 0 to 1",
        ),
    ],
)
def test_an_ablation_that_cannot_be_read_is_refused(given, message) -> None:
    with pytest.raises(ValueError, match=message):
        RandomAblation.read(given)


def test_a_model_without_such_components_is_refused_as_soon_as_it_is_loaded(
    model: nn.Module,
) -> None:
    for named, message in (
        ("attention_heads", "ablated_components='attention_heads': Sequential has none"),
        ("conv_filters:conv.*", "ablated_components='conv.*' matches none of the 6"),
    ):
        [change] = RandomAblation.read({"ablated_share": 0.1, "ablated_components": named})
        with pytest.raises(ValueError, match=message):
            change.check_model(model, None)


# Servers ------------------------------------------------------------------------------------------


def changes_beyond_vllm() -> list[Change]:
    return [
        *EditedComponents.read({"edit": filters(network())}),
        *RandomAblation.read({"ablated_share": 0.1, "ablated_components": "blocks"}),
    ]


@pytest.mark.parametrize("name", ["edit", "ablation"])
def test_vllm_refuses_both_with_the_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from aim_plugins.engines.vllm import arguments, parameters

    monkeypatch.setattr(arguments, "require_supported", lambda: None)
    [change] = [one for one in changes_beyond_vllm() if one.name == name]
    with pytest.raises(ValueError, match=f"{name} changes activations in a way that vLLM cannot"):
        arguments.llm_arguments("model", [Column((change,))])
    asked = f"aim_{change.axis.name}"
    with pytest.raises(ValueError, match=f"{asked}=0.5 changes activations by other than affine"):
        parameters.RequestModulation.read({asked: 0.5})
