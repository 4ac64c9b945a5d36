"""Files in the original's layout become transports that do what its hooks do."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.exchange.ml_act import convert_statedicts

FIRST, SECOND = "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"
WIDTH = 32


def vector(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (WIDTH,)), generator=torch.Generator().manual_seed(seed))


def linear_state(seed: int = 0, support: Any = None) -> OrderedDict[str, Any]:
    """What a linear_ot hook saves: its net's parameters, and the bounds it was fitted with."""
    low, high = -vector(seed + 2).abs().double(), vector(seed + 3).abs().double()
    return OrderedDict(
        {
            "net.w1": 1 + 0.1 * vector(seed, 1, WIDTH),
            "net.b1": vector(seed + 1, 1, WIDTH),
            "quantiles_dict_src": {"q_0_100": [low, high], "q_5_95": [low / 2, high / 2]},
            "quantiles_src": [-1e6, 1e6] if support is None else support,
        }
    )


def gaussian_state() -> OrderedDict[str, Any]:
    """What a gaussian_ot or mean_ot hook saves; the first neuron hardly varies."""
    spread = vector(5).abs() + 0.5
    spread[0] = 1e-5
    low, high = -vector(6).abs(), vector(7).abs()
    moved = spread > 1e-4
    return OrderedDict(
        mu1=vector(1),
        mu2=vector(2),
        std1=spread,
        std2=vector(4).abs() + 0.5,
        quantiles_dict_src={"q_0_100": [low, high]},
        quantiles_src=[low[moved].view(1, -1), high[moved].view(1, -1)],
    )


NAME = "incr-linear_ot-mean"
"""How the original names the folder of causal linear maps of means."""


def write(folder: Path, states: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, state in states.items():
        torch.save(state, folder / f"{name}.statedict")
    return folder


def test_linear_maps_keep_scale_shift_and_the_support_in_force(
    tiny_llama: Any, tmp_path: Path
) -> None:
    plain, bounded = linear_state(0), linear_state(10)
    for state in (plain, bounded):
        low, high = state["quantiles_dict_src"]["q_5_95"]
        state["quantiles_src"] = [low.view(1, -1), high.view(1, -1)]
    folder = write(tmp_path / NAME, {SECOND: bounded, f"{FIRST}:0": plain})
    transport = convert_statedicts(folder, tiny_llama)
    assert list(transport.maps.maps) == [FIRST, SECOND]  # in the order of execution
    x = 2 * vector(20, 100, WIDTH).double()
    for site, state in ((FIRST, plain), (SECOND, bounded)):
        low, high = state["quantiles_dict_src"]["q_5_95"]
        moved = x * state["net.w1"] + state["net.b1"]
        expected = torch.where((low < x) & (x < high), 0.3 * moved + 0.7 * x, x)
        found = transport.maps.maps[site].to("cpu", torch.float64)(x, 0.3)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert transport.metadata.support == "q5_95"
    assert (transport.metadata.method, transport.metadata.pooling) == ("linear", "mean")


def test_maps_without_a_support_act_everywhere(tiny_llama: Any, tmp_path: Path) -> None:
    for support in (None, "q_all"):
        folder = write(tmp_path / NAME, {FIRST: linear_state(0, support)})
        transport = convert_statedicts(folder, tiny_llama)
        assert not transport.maps.maps[FIRST].is_bounded
        assert transport.metadata.support == "none"


@pytest.mark.parametrize(("support", "name"), [("minmax", "q_0_100"), ("q5_95", "q_5_95")])
def test_another_support_can_be_asked_for(
    tiny_llama: Any, tmp_path: Path, support: str, name: str
) -> None:
    state = linear_state()
    folder = write(tmp_path / NAME, {FIRST: state})
    transport = convert_statedicts(folder, tiny_llama, support=support)
    one, (low, high) = transport.maps.maps[FIRST], state["quantiles_dict_src"][name]
    assert torch.equal(one.support_min, low.float()) and torch.equal(one.support_max, high.float())
    assert transport.metadata.support == support


def test_gaussian_and_mean_leave_neurons_alone_that_hardly_vary(
    tiny_llama: Any, tmp_path: Path
) -> None:
    state = gaussian_state()
    folder = write(tmp_path / "renamed", {FIRST: state})
    x = 0.1 * vector(20, 50, WIDTH).double()
    low, high = (bound.double() for bound in state["quantiles_dict_src"]["q_0_100"])
    inside = (low < x) & (x < high)
    moved = {
        "gaussian": state["std2"] / state["std1"] * (x - state["mu1"]) + state["mu2"],
        "mean": x - state["mu1"] + state["mu2"],
    }
    for method, expected in moved.items():
        expected = torch.where(inside, expected, x)
        expected[:, 0] = x[:, 0]
        one = convert_statedicts(
            folder, tiny_llama, method=method, pooling="mean", incremental="causal"
        ).maps.maps[FIRST]
        found = one.to("cpu", torch.float64)(x)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_files_of_gaussian_and_mean_look_alike(tiny_llama: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "renamed", {FIRST: gaussian_state()})
    with pytest.raises(ValueError, match="gaussian and mean: say which"):
        convert_statedicts(folder, tiny_llama, pooling="mean", incremental="causal")
    named = write(tmp_path / "incr-mean_ot-mean", {FIRST: gaussian_state()})
    assert convert_statedicts(named, tiny_llama).metadata.method == "mean"


@pytest.mark.parametrize(
    ("name", "incremental", "pooling"),
    [
        ("incr-linear_ot-mean", "causal", "mean"),
        ("atonce-linear_ot-mean", "atonce", "mean"),
        ("atonce-linear_ot-last", "atonce", "last"),
    ],
)
def test_the_folder_s_name_tells_how_the_hooks_were_fitted(
    tiny_llama: Any, tmp_path: Path, name: str, incremental: str, pooling: str
) -> None:
    """It is the values of `incremental`, `name` and `pooling_op` of the original's config."""
    known = convert_statedicts(write(tmp_path / name, {FIRST: linear_state()}), tiny_llama).metadata
    assert (known.incremental, known.pooling, known.method) == (incremental, pooling, "linear")


def test_of_another_folder_one_has_to_say_it(tiny_llama: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "renamed", {FIRST: linear_state()})
    with pytest.raises(ValueError, match="pooling is missing.*'renamed'.*--pooling mean"):
        convert_statedicts(folder, tiny_llama)
    with pytest.raises(ValueError, match="incremental is missing.*--incremental causal"):
        convert_statedicts(folder, tiny_llama, pooling="max")
    known = convert_statedicts(folder, tiny_llama, pooling="max", incremental="atonce").metadata
    assert (known.incremental, known.pooling) == ("atonce", "max")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"incremental": "atonce"}, "causal"),
        ({"pooling": "max"}, "mean"),
        ({"method": "aura"}, "linear"),
    ],
)
def test_what_the_folder_s_name_contradicts_is_refused(
    tiny_llama: Any, tmp_path: Path, asked: dict[str, str], says: str
) -> None:
    folder = write(tmp_path / NAME, {FIRST: linear_state()})
    (name,) = asked
    with pytest.raises(ValueError, match=f"{name}=.* 'incr-linear_ot-mean' says '{says}'"):
        convert_statedicts(folder, tiny_llama, **asked)


def test_aura_dampens_experts_only(tiny_llama: Any, tmp_path: Path) -> None:
    auroc = torch.linspace(0, 1, WIDTH)
    folder = write(tmp_path / "atonce-aura-max", {FIRST: {"auroc": auroc}})
    transport = convert_statedicts(folder, tiny_llama)
    expected = [1.0 if one <= 0.5 else 1 - 2 * (one - 0.5) for one in auroc.tolist()]
    torch.testing.assert_close(transport.maps.maps[FIRST].scale, torch.tensor(expected))
    assert (transport.metadata.pooling, transport.metadata.incremental) == ("max", "atonce")


def test_a_converted_transport_is_saved_like_any_other(tiny_llama: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / NAME, {FIRST: linear_state()})
    transport = convert_statedicts(folder, tiny_llama, positions="last")
    loaded = LearnedTransport.load(transport.save(tmp_path / "transport"))
    loaded.check_model(tiny_llama)
    assert loaded.fingerprint == transport.fingerprint
    assert loaded.maps.positions == "last"


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_files_that_would_run_code_are_refused(tiny_llama: Any, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    folder = write(tmp_path / NAME, {FIRST: {**linear_state(), "extra": Payload(trap)}})
    with pytest.raises(ValueError, match="more than tensors") as caught:
        convert_statedicts(folder, tiny_llama)
    assert "\n" not in str(caught.value)
    # A plain pickle, not even in torch's container.
    (folder / f"{FIRST}.statedict").write_bytes(pickle.dumps(Payload(trap)))
    with pytest.raises(ValueError, match="statedict"):
        convert_statedicts(folder, tiny_llama)
    assert not trap.exists()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_files_cut_short_are_refused(tiny_llama: Any, tmp_path: Path, share: float) -> None:
    folder = write(tmp_path / NAME, {FIRST: linear_state()})
    path = folder / f"{FIRST}.statedict"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="statedict"):
        convert_statedicts(folder, tiny_llama)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net.A": torch.eye(2)}, "net.A"),
        ({"net.b1": torch.zeros(1, 3)}, "different lengths"),
        ({"net.b1": torch.zeros(2, WIDTH)}, r"\[2, 32\]"),
        ({"net.b1": "zeros"}, "net.b1 is no tensor"),
        ({"net.w1": torch.full((1, WIDTH), torch.nan)}, "not finite"),
        ({"quantiles_src": "q_1_99"}, "no bounds for support='q1_99'; it has minmax, q5_95"),
        ({"quantiles_src": [torch.zeros(WIDTH), torch.ones(WIDTH)]}, "does not tell its support"),
        ({"quantiles_dict_src": {"q_0_100": [torch.zeros(3)] * 2}}, "another length"),
        ({"quantiles_dict_src": {"q_0_100": 1.0}}, "no pair"),
    ],
)
def test_other_content_is_refused_by_name(
    tiny_llama: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = write(tmp_path / NAME, {FIRST: {**linear_state(), **change}})
    with pytest.raises(ValueError, match=message):
        convert_statedicts(folder, tiny_llama)


def test_folders_without_files_or_with_several_methods_are_refused(
    tiny_llama: Any, tmp_path: Path
) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=r"holds no \*\.statedict"):
            convert_statedicts(folder, tiny_llama)
    states = {FIRST: linear_state(), SECOND: {"auroc": vector(0)}}
    with pytest.raises(ValueError, match="not method='linear'"):
        convert_statedicts(write(tmp_path / NAME, states), tiny_llama)
    how = {"pooling": "mean", "incremental": "atonce"}
    with pytest.raises(ValueError, match="mixes the methods aura, linear"):
        convert_statedicts(write(tmp_path / "renamed", states), tiny_llama, **how)


def test_another_model_is_refused(tiny_llama: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / NAME, {"transformer.h.0.ln_1": linear_state()})
    with pytest.raises(ValueError, match="no module 'transformer.h.0.ln_1'"):
        convert_statedicts(folder, tiny_llama)
    folder = write(tmp_path / "wide" / NAME, {"model.layers.0.mlp.up_proj": linear_state()})
    with pytest.raises(ValueError, match="64 neurons, its map 32"):
        convert_statedicts(folder, tiny_llama)
