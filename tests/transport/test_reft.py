"""pyreft's interventions become transports.

The formulas are those in the docstrings of pyreft 0.1.0, interventions.py; R comes from torch's own
parametrization, whose state the default `state_dict` of those modules keeps.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aim_plugins.modulation.activation_map import ActivationMap
from aim_plugins.modulation.activations import AffineMap
from aim_plugins.modulation.low_rank import LowRankMap
from aim_plugins.transport.exchange.reading import read_vectors

WIDTH, RANK = 32, 3
SITE = "model.layers.1"
KEY = "intkey_layer_1_comp_block_output_unit_pos_nunit_1#0.bin"
DOTTED = "intkey_layer.1.comp.block_output.unit.pos.nunit.1#0.bin"
"""As earlier versions of pyvene write it."""


class Rotated(nn.Module):
    """The parts of a pyreft intervention whose state is what torch keeps of them."""

    def __init__(self, source: nn.Module | nn.Parameter) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rotate_layer = nn.Module()
        self.rotate_layer.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(WIDTH, RANK)))
        nn.utils.parametrizations.orthogonal(self.rotate_layer)
        with torch.no_grad():  # as training moves it: below the diagonal, which keeps signs
            noise = 0.1 * torch.randn(WIDTH, RANK).tril(-1)
            self.rotate_layer.parametrizations.weight.original.add_(noise)
        self.learned_source = source

    @property
    def rotation(self) -> Tensor:
        return self.rotate_layer.weight.detach()


def write(folder: Path, kind: str, state: dict[str, Tensor], key: str = KEY) -> Path:
    folder.mkdir(exist_ok=True)
    types = [f"<class 'pyreft.interventions.{kind}'>"]
    (folder / "config.json").write_text(json.dumps({"intervention_types": types}))
    torch.save(state, folder / key)
    return folder


def points() -> Tensor:
    return torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("key", [KEY, DOTTED])
def test_lobireft_is_a_steering_vector(tiny_llama: Any, tmp_path: Path, key: str) -> None:
    """LobiReFT(h) = h + R^T b, with R^T the weight that pyreft calls rotate_layer."""
    module = Rotated(nn.Parameter(torch.tensor([1.0, -2.0, 0.5])))
    folder = write(tmp_path / "f", "LobireftIntervention", module.state_dict(), key)
    one = read_vectors(folder, tiny_llama).maps.maps[SITE]
    expected = points() + module.learned_source.detach() @ module.rotation.T
    torch.testing.assert_close(one(points()), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("away", "kind"), [(0.0, AffineMap), (0.1, LowRankMap)])
def test_loreft_is_its_formula(
    tiny_llama: Any, tmp_path: Path, away: float, kind: type[ActivationMap]
) -> None:
    """LoReFT(h) = h + R^T (W h + b - R h); its `state_dict` holds weight, bias, rotate_layer."""
    rotation, bias = Rotated(nn.Parameter(torch.zeros(RANK))).rotation, torch.ones(RANK)
    state = {"weight": rotation.T.contiguous(), "bias": bias, "rotate_layer": rotation}
    state["weight"] = state["weight"] + away  # without, the low-rank part cancels
    one = read_vectors(write(tmp_path / "f", "LoreftIntervention", state), tiny_llama)
    h = points()
    expected = h + (h @ state["weight"].T + bias - h @ rotation) @ rotation.T
    torch.testing.assert_close(one.maps.maps[SITE](h), expected, rtol=0, atol=1e-5)
    assert type(one.maps.maps[SITE]) is kind


def test_along_single_neurons_every_kind_is_a_map_of_each(tiny_llama: Any, tmp_path: Path) -> None:
    """NodiReFT(h) = h + P^T (W h + b); NoReFT(h) = h + P^T (W h + b - P h)."""
    project = torch.zeros(RANK, WIDTH)
    project[range(RANK), [2, 20, 9]] = torch.tensor([1.0, 0.5, -1.0])
    weight, bias, h = -0.3 * project, torch.tensor([1.0, 2.0, 3.0]), points()
    state = {
        "proj_layer.weight": project,
        "learned_source.weight": weight,
        "learned_source.bias": bias,
    }
    shared = h @ weight.T + bias
    expected = {
        "NodireftIntervention": h + shared @ project,
        "NoreftIntervention": h + (shared - h @ project.T) @ project,
    }
    for kind, value in expected.items():
        one = read_vectors(write(tmp_path / "f", kind, state), tiny_llama).maps.maps[SITE]
        torch.testing.assert_close(one(h), value, rtol=0, atol=1e-5)


def test_kinds_that_mix_neurons_are_their_formulas(tiny_llama: Any, tmp_path: Path) -> None:
    """ConsReFT(h) = h + R^T (b - R h); DiReFT(h) = h + R^T (W h + b)."""
    plain = Rotated(nn.Parameter(torch.tensor([1.0, -2.0, 0.5])))
    linear = Rotated(nn.Linear(WIDTH, RANK))
    h = points()
    for kind, module, inner in (
        ("ConsreftIntervention", plain, plain.learned_source - h @ plain.rotation),
        ("DireftIntervention", linear, linear.learned_source(h)),
    ):
        folder = write(tmp_path / "f", kind, module.state_dict())
        found = read_vectors(folder, tiny_llama).maps.maps[SITE](h)
        expected = h + inner.detach() @ module.rotation.T
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_other_folders_are_refused(tiny_llama: Any, tmp_path: Path) -> None:
    state = Rotated(nn.Parameter(torch.zeros(RANK))).state_dict()
    other = KEY.replace("block_output", "mlp_output")
    for number, (kind, held, key, message) in enumerate(
        (
            ("LobireftIntervention", state, other, "not of a block's output"),
            ("RotatedSpaceIntervention", state, KEY, "names RotatedSpaceIntervention"),
            ("LoreftIntervention", state, KEY, "is no state of a LoreftIntervention"),
            ("LobireftIntervention", state, KEY.replace("r_1", "r_7"), "names block 7"),
        )
    ):
        with pytest.raises(ValueError, match=message):
            read_vectors(write(tmp_path / str(number), kind, held, key), tiny_llama)
    folder = write(tmp_path / "f", "LobireftIntervention", state)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="does not say the intervention_types"):
        read_vectors(folder, tiny_llama)
