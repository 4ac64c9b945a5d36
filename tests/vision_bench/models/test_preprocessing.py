"""Preprocessing is known from what was published with the weights, or it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("torchvision")

from vision_bench.data.images import to_tensor  # noqa: E402
from vision_bench.models.load import load_model  # noqa: E402
from vision_bench.models.model import VisionModel  # noqa: E402
from vision_bench.models.preprocessing import Preprocessing, read_choice  # noqa: E402


@pytest.fixture(scope="module")
def own_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of torchvision's smallest network, whose training nobody knows."""
    from torchvision.models import squeezenet1_1

    path = tmp_path_factory.mktemp("weights") / "best.pth"
    torch.save(squeezenet1_1(num_classes=4).state_dict(), path)
    return path


def load_own(path: Path, preprocessing: object = None) -> VisionModel:
    name = "torchvision:squeezenet1_1"
    return load_model(name, weights=path, classes=4, preprocessing=preprocessing)


def test_weights_of_ones_own_are_not_guessed_to_be_imagenets(own_weights):
    with pytest.raises(ValueError) as error:
        load_own(own_weights)
    message = str(error.value)
    assert "preprocessing lacks size, mean, std" in message and str(own_weights) in message
    assert "'published' for that of torchvision's SqueezeNet1_1_Weights.IMAGENET1K_V1" in message
    with pytest.raises(ValueError, match="preprocessing lacks mean, std"):
        load_own(own_weights, {"size": 48})


def test_given_fields_stand_alone_where_nothing_is_known(own_weights):
    fields = {"size": 48, "crop": 48, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
    model = load_own(own_weights, fields)
    assert model.preprocessing == Preprocessing(48, 48, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    assert model.preprocessing_source == "as given"


def test_published_asks_for_that_of_the_published_weights(own_weights):
    from torchvision.models import SqueezeNet1_1_Weights

    model = load_own(own_weights, "published")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 270, 3), np.uint8))
    expected = SqueezeNet1_1_Weights.IMAGENET1K_V1.transforms()(image)
    torch.testing.assert_close(to_tensor(image, model.preprocessing), expected)
    assert "IMAGENET1K_V1" in model.preprocessing_source


def test_given_fields_change_what_is_known():
    options = {"weights": "random", "preprocessing": {"size": 320, "crop": 288}}
    model = load_model("torchvision:squeezenet1_1", **options)
    assert (model.preprocessing.size, model.preprocessing.crop) == (320, 288)
    assert model.preprocessing.mean == (0.485, 0.456, 0.406)
    assert "as given, the rest that of torchvision's" in model.preprocessing_source
    # A crop that was known may no longer fit.
    with pytest.raises(ValueError, match="preprocessing: crop=224 is above size=48"):
        load_model("torchvision:squeezenet1_1", weights="random", preprocessing={"size": 48})


def test_a_published_file_is_known_by_its_checksum_under_any_name(own_weights, monkeypatch):
    from hashlib import sha256

    from torchvision.models import SqueezeNet1_1_Weights

    digest = sha256(own_weights.read_bytes()).hexdigest()
    entry = SqueezeNet1_1_Weights.IMAGENET1K_V1
    published = f"https://download.pytorch.org/models/squeezenet1_1-{digest[:8]}.pth"
    weights = type(entry.value)(published, entry.transforms, entry.meta)
    monkeypatch.setattr(entry, "_value_", weights)
    assert load_own(own_weights).preprocessing.size == 256


@pytest.mark.parametrize("nested", [True, False])
def test_timms_config_beside_a_file_is_followed(tmp_path, nested):
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "model.bin")
    config = {"input_size": [3, 48, 48], "crop_pct": 0.75, "interpolation": "bilinear"}
    config |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_mode": "center"}
    content = {"architecture": "test_resnet"} | ({"pretrained_cfg": config} if nested else config)
    (tmp_path / "config.json").write_text(json.dumps(content))
    model = load_model("timm:test_resnet", weights=tmp_path / "model.bin")
    assert model.preprocessing == Preprocessing(64, 48, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert "config.json" in model.preprocessing_source


def test_a_timm_file_alone_is_asked_about(tmp_path):
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "best.pth")
    with pytest.raises(ValueError, match=r"or 'published' for that of timm's test_resnet"):
        load_model("timm:test_resnet", weights=tmp_path / "best.pth")


@pytest.mark.parametrize(
    ("file", "known"),
    [
        ("segformer.b0.512x512.ade.160k.pth", True),
        ("iter_160000.pth", False),
        ("birds_512x512_upgrade.pth", False),
        ("run3-256x256-cascade-velocity.pth", False),
    ],
)
def test_segformers_published_files_are_known_by_name(tmp_path, file, known):
    pytest.importorskip("transformers")
    own = load_model("segformer-b0", weights="random").module.model
    torch.save(own.state_dict(), tmp_path / file)
    if known:
        assert load_model("segformer-b0", weights=tmp_path / file).preprocessing.size == 512
        return
    with pytest.raises(ValueError, match="'published' for that of SegFormer's authors"):
        load_model("segformer-b0", weights=tmp_path / file)


def test_an_image_processor_beside_a_file_is_followed(tmp_path):
    transformers = pytest.importorskip("transformers")
    own = load_model("segformer-b0", weights="random").module.model
    torch.save(own.state_dict(), tmp_path / "pytorch_model.bin")
    transformers.SegformerImageProcessor(size=96).save_pretrained(tmp_path)
    model = load_model("segformer-b0", weights=tmp_path / "pytorch_model.bin")
    assert model.preprocessing.size == 96
    assert "preprocessor_config.json" in model.preprocessing_source


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resize": "foo"}, "resize='foo': choose one of 'short', 'square'"),
        ({"size": 48, "crop": 64}, "crop=64 is above size=48"),
        ({"interpolation": "bilinaer"}, "interpolation='bilinaer': did you mean 'bilinear'"),
        ({"size": 0}, "size=0: give a whole number from 1 upwards"),
        ({"mean": [float("nan"), 0, 0]}, "give a finite number"),
        ({"crp": 3}, "did you mean 'crop'"),
        ("size 48", "preprocessing holds 'size'"),
    ],
)
def test_every_value_is_checked(fields, message):
    with pytest.raises(ValueError, match="preprocessing") as error:
        read_choice(fields)
    assert message in str(error.value)


def test_preprocessing_made_in_python_is_checked_too():
    with pytest.raises(ValueError, match="resize='foo'"):
        Preprocessing(resize="foo")  # type: ignore[arg-type]
