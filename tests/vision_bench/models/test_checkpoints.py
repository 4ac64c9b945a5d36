"""Checkpoints as training programs leave them: the weights are read, and nothing in them is run."""

from __future__ import annotations

import argparse
import re
from collections import OrderedDict, defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vision_bench.models.checkpoints import read_state_dict


class Config(dict):  # type: ignore[type-arg]
    """As yacs' and EasyDict's, whose items a pickle sets one by one."""


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(conv1=nn.Conv2d(3, 4, 3), bn1=nn.BatchNorm2d(4)))


@pytest.fixture(scope="module")
def state(network: nn.Module) -> dict[str, Tensor]:
    return network.state_dict()


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def assert_reads(content: object, state: dict[str, Tensor], path: Path, **options: object) -> None:
    torch.save(content, path, **options)
    read = read_state_dict(path)
    assert list(read) == list(state)
    assert all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.th", "a.pth.tar", "a.ckpt", "a.bin", "best"])
def test_a_checkpoint_may_have_any_name(state, tmp_path, name):
    assert_reads(state, state, tmp_path / name)


@pytest.mark.parametrize(
    "key",
    ["net", "model", "state_dict", "model_state", "model_state_dict", "model_ema", "ema"],
)
def test_what_training_programs_wrap_around_weights_is_taken_off(state, tmp_path, key):
    assert_reads({"epoch": 3, key: state, "optimizer": {"lr": 0.1}}, state, tmp_path / "a.pth")
    assert_reads({"model": {key: prefixed(state, "module.")}}, state, tmp_path / "b.pth")


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "model.module.", "net."]
)
def test_prefixes_of_wrapping_modules_are_taken_off(state, tmp_path, prefix):
    assert_reads({"state_dict": prefixed(state, prefix)}, state, tmp_path / "a.ckpt")


def test_a_prefix_that_some_names_lack_is_theirs(tmp_path):
    state = {"model.weight": torch.ones(1), "head.weight": torch.ones(1)}
    assert_reads(state, state, tmp_path / "a.pth")


def test_an_averaged_model_is_read_without_its_counter(network, state, tmp_path):
    averaged = AveragedModel(network)
    assert "n_averaged" in averaged.state_dict()
    assert_reads(averaged.state_dict(), state, tmp_path / "swa.pth")
    assert_reads({"model_ema": averaged.state_dict()}, state, tmp_path / "ema.pth")


def test_a_counter_alone_is_no_state_dict(tmp_path):
    torch.save({"state_dict": {"n_averaged": torch.tensor(3)}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        read_state_dict(tmp_path / "a.pth")


def test_of_weights_and_their_average_the_weights_are_read_and_the_other_is_named(
    state, tmp_path, capsys
):
    average = {name: value * 0 for name, value in state.items()}
    assert_reads({"model_ema": average, "model": state}, state, tmp_path / "a.pth")
    (line,) = capsys.readouterr().err.splitlines()
    assert "'model' are read" in line and "'model_ema'" in line


BESIDE = {
    "a NumPy scalar": np.float64(0.93),
    "a NumPy array": np.arange(3),
    "a Namespace": argparse.Namespace(lr=0.1, path=Path("data"), best=np.float32(1)),
    "a SimpleNamespace": SimpleNamespace(lr=0.1),
    "a class and a function": {"class": Config, "function": prefixed},
    "a dictionary's subclass": Config(lr=0.1, inner=Config(a=np.float64(1))),
    "a defaultdict": defaultdict(list, loss=[0.1]),
    "a Python 2 name": range(3),
}


@pytest.mark.parametrize("what", BESIDE)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_weights_beside_something_else_are_read(state, tmp_path, what, zipped):
    content = {"args": BESIDE[what], "state_dict": state, "best_acc1": np.float64(0.5)}
    assert_reads(content, state, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_checkpoint_is_not_run(state, tmp_path, zipped):
    path, bad = tmp_path / "bad.pt", Malicious(tmp_path / "ran")
    torch.save({"state_dict": bad}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"pickled io\.open \(nothing here unpickles code\) under"):
        read_state_dict(path)
    # Beside weights it stands for nothing.
    content = {"model": state, "args": bad}
    assert_reads(content, state, path, _use_new_zipfile_serialization=zipped)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: {"model": net, "epoch": 1}])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_whole_pickled_module_is_refused_with_the_mend(network, tmp_path, wrap, zipped):
    path = tmp_path / "whole.pt"
    torch.save(wrap(network), path, _use_new_zipfile_serialization=zipped)
    what = r"torch\.nn\.modules\.container\.Sequential" if zipped else "module"
    with pytest.raises(ValueError, match=rf"whole pickled {what}.*save model\.state_dict\(\)"):
        read_state_dict(path)


def test_a_weight_that_is_no_tensor_is_not_left_out(state, tmp_path):
    torch.save(state | {"bn1.bias": np.zeros(4)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        read_state_dict(tmp_path / "a.pth")


def test_a_torchscript_program_is_refused_with_the_mend(network, tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
    with pytest.raises(ValueError, match=r"TorchScript.*save the model\.state_dict\(\)"):
        read_state_dict(tmp_path / "a.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("legacy", [True, False])
def test_a_damaged_file_is_named(tmp_path, suffix, legacy):
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pt":
        torch.save({"w": torch.zeros(999)}, path, _use_new_zipfile_serialization=not legacy)
    else:
        save_file({"w": torch.zeros(999)}, path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read_state_dict(path)


def test_a_file_without_weights_is_refused(tmp_path):
    torch.save({"epoch": 3, "loss": [0.1]}, tmp_path / "log.pt")
    with pytest.raises(ValueError, match=r"holds no state dict but \['epoch', 'loss'\]"):
        read_state_dict(tmp_path / "log.pt")


def test_a_missing_file_and_one_of_another_kind_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        read_state_dict(tmp_path / "none.pt")
    np.savez(tmp_path / "weights.npz", w=np.zeros(3))
    (tmp_path / "notes.txt").write_text("no weights\n")
    for name in ("weights.npz", "notes.txt"):
        with pytest.raises(ValueError, match=f"{name} is no PyTorch checkpoint"):
            read_state_dict(tmp_path / name)
