"""Saved modules, in PyTorch, in other runtimes, and in a process without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vision_bench.models.load import load_model
from vision_bench.reengineering.channels import find_channel_groups
from vision_bench.reengineering.latency import measure_latency
from vision_bench.reengineering.module import Module, make_head
from vision_bench.reengineering.onnx_file import check_onnx, to_onnx
from vision_bench.reengineering.removal import remove_channels
from vision_bench.reengineering.saved_module import load_module, save_module

CLASSES = ["one", "seven", "eight"]

ALONE = """
import sys, json
import numpy, onnxruntime
folder, images, logits = sys.argv[1:]
session = onnxruntime.InferenceSession(f"{folder}/module.onnx")
numpy.save(logits, session.run(["logits"], {"images": numpy.load(images)})[0])
print(session.get_modelmeta().custom_metadata_map["classes"])
assert not {"torch", "vision_bench", "aim_plugins"} & sys.modules.keys()
"""

SIGNALLED = """
import gc, signal
import torch
from torch import nn
from vision_bench.reengineering.latency import measure_latency
networks = {"first": nn.Linear(2, 2), "second": nn.Linear(2, 2)}
for _ in range(2):
    measure_latency(networks, (2,), batches=(1,), runtimes=["OpenVINO"], rounds=2)
    gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
signal.raise_signal(signal.SIGUSR1)
"""


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def saved(digits: Tensor, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Module]:
    """A LeNet-5 with half of its channels, of which one group is closed whole."""
    source = load_model("lenet5", weights="random", seed=0)
    groups = find_channel_groups(source.module, digits)
    opened = {one.name: torch.arange(one.size) % 2 == 0 for one in groups}
    opened["fc2"][:] = False
    base = remove_channels(source.module, groups, opened, digits)
    module = Module(base, make_head(10, 3, seed=0)).eval()
    folder = tmp_path_factory.mktemp("saved") / "module"
    return save_module(folder, module, source, CLASSES, digits), module


def test_a_module_is_built_again_from_its_folder(
    saved: tuple[Path, Module], digits: Tensor
) -> None:
    folder, module = saved
    assert torch.equal(load_module(folder)(digits), module(digits))


def test_a_module_needs_no_pytorch(
    saved: tuple[Path, Module], digits: Tensor, tmp_path: Path
) -> None:
    folder, module = saved
    images, logits = tmp_path / "images.npy", tmp_path / "logits.npy"
    np.save(images, digits.numpy())
    ran = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder), str(images), str(logits)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(ran.stdout) == CLASSES
    assert np.allclose(np.load(logits), module(digits).detach().numpy(), atol=1e-5)


def test_the_description_is_plain(saved: tuple[Path, Module]) -> None:
    from safetensors.numpy import load_file

    folder, module = saved
    assert sorted(path.name for path in folder.iterdir()) == [
        "module.json",
        "module.onnx",
        "module.safetensors",
    ]
    described = json.loads((folder / "module.json").read_text())
    assert (described["base_model"], described["classes"]) == ("lenet5", CLASSES)
    assert described["widths"]["conv2"] == [3, 8]
    assert described["widths"]["fc3"] == [0, 10]
    weights = load_file(folder / "module.safetensors")
    assert weights.keys() == module.state_dict().keys()


def test_a_damaged_folder_is_refused(saved: tuple[Path, Module], tmp_path: Path) -> None:
    folder, _ = saved
    for name in ("module.json", "module.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "module.safetensors").write_bytes(b"cut short")
    with pytest.raises(ValueError, match="SHA-256 differs"):
        load_module(tmp_path)


@pytest.mark.parametrize(("name", "share"), [("efficientnet", 0.0), ("mixer", 0.5)])
def test_other_runtimes_answer_as_pytorch(
    name: str, share: float, images: Tensor, build: Callable[[str], nn.Module]
) -> None:
    network = build(name)
    groups = find_channel_groups(network, images[:1])
    generator = torch.Generator().manual_seed(0)
    opened = {one.name: torch.rand(one.size, generator=generator) < share for one in groups}
    smaller = remove_channels(network, groups, opened, images)
    content = to_onnx(smaller, images, {})
    assert check_onnx(content, smaller, images).keys() == {"ONNX Runtime", "OpenVINO"}
    assert max(check_onnx(content, smaller, images).values()) <= 1e-5
    with pytest.raises(ValueError, match="ONNX Runtime answers otherwise"):
        check_onnx(content, nn.Sequential(smaller, nn.Softmax(-1)), images)


def test_a_head_is_the_same_for_a_seed() -> None:
    state = torch.random.get_rng_state()
    assert torch.equal(make_head(4, 2, 3).weight, make_head(4, 2, 3).weight)
    assert not torch.equal(make_head(4, 2, 3).weight, make_head(4, 2, 4).weight)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_latencies_are_measured_for_each_batch() -> None:
    modules = {"whole": nn.Flatten(), "again": nn.Flatten()}
    found = measure_latency(modules, (1, 4, 4), batches=(1, 2), runtimes=["PyTorch"], rounds=3)
    assert [(one.runtime, one.batch, one.threads) for one in found] == [
        ("PyTorch", 1, 1),
        ("PyTorch", 2, 1),
    ]
    for one in found:
        assert one.speed_up["whole"] == 1
        low, high = one.spread["again"]
        assert 0 < low <= one.speed_up["again"] <= high


@pytest.mark.skipif(sys.platform == "win32", reason="has other signals")
def test_signals_are_handled_after_networks_ran_in_openvino() -> None:
    process = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (0, "handled\n"), process.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rounds": 1}, "rounds=1 .* give 2"), ({"runtimes": ["TVM"]}, "'TVM' is none of 'PyTorch'")],
)
def test_latencies_that_cannot_be_measured_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_latency({"whole": nn.Flatten()}, (1, 4, 4), **options)
