"""Small labelled images, and small networks of the families that channels are removed from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vision_bench.data.classification import ArrayImages, ClassificationData, load_dataset
from vision_bench.models.load import load_model
from vision_bench.models.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def arrays(labels: list[int], classes: int = 4, side: int = 8) -> ClassificationData:
    """Random images, all different, under these labels."""
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), side, side, 3), np.uint8)
    names = [f"kind{one}" for one in range(classes)]
    return ClassificationData(
        "made-up", ArrayImages(pixels), labels, names, preprocessing=PREPROCESSING
    )


@pytest.fixture
def folder(tmp_path: Path) -> ClassificationData:
    """Files of three classes, the second image of the class "b" damaged."""
    rng = np.random.default_rng(1)
    for kind, count in (("a", 4), ("b", 3), ("c", 5)):
        (tmp_path / kind).mkdir()
        for number in range(count):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{number}.png")
    (tmp_path / "b" / "1.png").write_bytes(b"no image")
    return load_dataset("folder", tmp_path, preprocessing=PREPROCESSING)


def resnet20() -> nn.Module:
    return load_model("cifar10_resnet20", weights="random").module


def bottleneck() -> nn.Module:
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10, width_per_group=8)


def densenet() -> nn.Module:
    from timm.models.densenet import DenseNet

    return DenseNet(growth_rate=8, block_config=(2, 2), num_classes=10)


def mixer() -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(num_classes=10, img_size=32, patch_size=8, num_blocks=2, embed_dim=16)


def vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=10
    )


def efficientnet() -> nn.Module:
    """Squeeze-and-excitation, depthwise convolutions, and padding as TensorFlow has it."""
    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.efficientnet import EfficientNet

    blocks = decode_arch_def([["ds_r1_k3_s1_e1_c8_se0.25"], ["ir_r2_k3_s2_e4_c16_se0.25"]])
    return EfficientNet(blocks, num_classes=10, stem_size=8, num_features=32, pad_type="same")


def vgg() -> nn.Module:
    """A flattening of 2 × 2 pixels between the last convolution and the first linear layer."""
    from torchvision.models.vgg import make_layers

    return nn.Sequential(
        make_layers([4, "M", 8, "M", 8, "M"], batch_norm=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 12),
        nn.ReLU(inplace=True),
        nn.Linear(12, 10),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    one.__name__: one for one in (resnet20, bottleneck, densenet, mixer, vit, efficientnet, vgg)
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    """One of the networks, in eval mode, with weights of which none is zero."""
    return _build(request.param)


@pytest.fixture
def build() -> Callable[[str], nn.Module]:
    """Makes one of the networks by its name."""
    return _build


@pytest.fixture
def images() -> Tensor:
    """Four images [4, 3, 32, 32]."""
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _build(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = NETWORKS[name]().eval()
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.ndim == 1:
                # Normalisations that do something, and residual branches that don't start at zero.
                tensor.data.add_(torch.rand_like(tensor) / 2)
            elif tensor.ndim > 1 and not tensor.any():  # the heads of timm's Mixer
                tensor.data.normal_(std=0.1)
    return model
