"""LeNet-5 is the network of the papers, and its file says how images were prepared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

pytest.importorskip("torchvision")

from aim_plugins.coverage.activations import neuron_layers  # noqa: E402
from vision_bench.models.architectures.lenet import LeNet5  # noqa: E402
from vision_bench.models.known_preprocessing import write_header  # noqa: E402
from vision_bench.models.load import load_model  # noqa: E402
from vision_bench.models.preprocessing import Preprocessing  # noqa: E402


@pytest.fixture(scope="module")
def lenet() -> LeNet5:
    torch.manual_seed(0)
    return LeNet5(10).eval()


def saved(lenet: LeNet5, folder: Path, header: dict[str, str] | None = None) -> Path:
    save_file(lenet.state_dict(), folder / "own.safetensors", header)
    return folder / "own.safetensors"


def test_it_has_the_neurons_and_weights_of_the_papers(lenet):
    layers = neuron_layers(lenet, lambda: lenet(torch.zeros(1, 3, 28, 28)))
    assert layers.sizes == (6, 16, 120, 84, 10)
    assert layers.neurons == 236
    # 6 (25 + 1) + 16 (6 · 25 + 1) + 120 (400 + 1) + 84 (120 + 1) + 10 (84 + 1)
    assert sum(one.numel() for one in lenet.parameters()) == 61_706


def test_a_grey_image_is_seen_as_it_is(lenet):
    grey = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    state = {name: one.double() for name, one in lenet.state_dict().items()}
    features = grey
    for name, pad in (("conv1", 2), ("conv2", 0)):
        convolved = F.conv2d(features, state[f"{name}.weight"], state[f"{name}.bias"], padding=pad)
        windows = convolved.clamp(min=0).unfold(2, 2, 2).unfold(3, 2, 2)
        features = windows.amax((-1, -2))
    hidden = features.reshape(3, 400)
    for name in ("fc1", "fc2", "fc3"):
        hidden = hidden.clamp(min=0) if name != "fc1" else hidden
        hidden = hidden @ state[f"{name}.weight"].T + state[f"{name}.bias"]
    with torch.no_grad():
        logits = lenet(grey.float().expand(3, 3, 28, 28))
    torch.testing.assert_close(logits.double(), hidden, atol=1e-5, rtol=1e-5)


def test_a_file_says_in_its_header_how_images_are_prepared(lenet, tmp_path):
    own = Preprocessing(size=28, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    model = load_model("lenet5", weights=saved(lenet, tmp_path, write_header(own)))
    assert model.preprocessing == own
    assert model.preprocessing_source == "of own.safetensors's header"
    assert (model.task, model.classes, model.module.training) == ("classification", 10, False)
    images = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(model.module(images), lenet(images))


def test_of_a_file_without_a_header_preprocessing_is_asked_for(lenet, tmp_path):
    path = saved(lenet, tmp_path)
    with pytest.raises(ValueError, match=r"preprocessing lacks size, mean, std.*'published' for"):
        load_model("lenet5", weights=path)
    model = load_model("lenet5", weights=path, preprocessing="published")
    assert (model.preprocessing.size, model.preprocessing.mean) == (28, (0.1307,) * 3)


@pytest.mark.parametrize("said", ["[28]", "{", json.dumps({"sise": 28})])
def test_a_header_that_is_no_preprocessing_is_refused(lenet, tmp_path, said):
    path = saved(lenet, tmp_path, {"preprocessing": said})
    with pytest.raises(ValueError, match=r"own\.safetensors': preprocessing in its header: "):
        load_model("lenet5", weights=path)


def test_what_is_not_there_is_said_at_once(lenet, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_model("lenet5", weights=tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="none are published; train it"):
        load_model("lenet5", weights="hub")
    with pytest.raises(ValueError, match="'random' for an untrained model"):
        load_model("lenet5")
    with pytest.raises(ValueError, match=r"did you mean .*lenet5"):
        load_model("lenet", weights="random")
    with pytest.raises(ValueError, match=r"fc3\.weight is \[10, 84\], not \[4, 84\]"):
        path = saved(lenet, tmp_path)
        load_model("lenet5", weights=path, classes=4, preprocessing="published")
