"""The models of pytorch-cifar-models, loading its published checkpoints key for key.

Layers, key names and widths are those of https://github.com/chenyaofo/pytorch-cifar-models: models
of the ImageNet era whose first strides are dropped, so that a 32×32 image keeps its resolution.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

_RELEASES = "https://github.com/chenyaofo/pytorch-cifar-models/releases/download"


@dataclass(frozen=True)
class CifarData:
    """A data set of the published checkpoints, with the normalisation they were trained with."""

    classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


DATA = {
    "cifar10": CifarData(10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": CifarData(100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}


class CifarResNet(nn.Module):
    """ResNet-(6n+2) with projection shortcuts, He et al. (arXiv:1512.03385), section 4.2.

    Args:
        blocks: Residual blocks in each of the three stages, n.
        classes: Number of classes.
    """

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _residual_stage(16, 16, blocks, stride=1)
        self.layer2 = _residual_stage(16, 32, blocks, stride=2)
        self.layer3 = _residual_stage(32, 64, blocks, stride=2)
        self.fc = nn.Linear(64, classes)

    def forward(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch classes"]:
        """Returns the logits of normalised images."""
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.fc(features.mean((2, 3)))


class CifarVGG(nn.Module):
    """VGG with batch normalisation, Simonyan and Zisserman (arXiv:1409.1556), table 1.

    Args:
        configuration: Column of the table: "A", "B", "D" or "E".
        classes: Number of classes.
    """

    def __init__(self, configuration: str, classes: int) -> None:
        from torchvision.models.vgg import cfgs, make_layers

        super().__init__()
        self.features = make_layers(cfgs[configuration], batch_norm=True)
        # Five poolings leave one pixel of 512 channels, so the head needs no 7×7 window.
        self.classifier = nn.Sequential(
            nn.Linear(512, 512),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(512, 512),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(512, classes),
        )

    def forward(self, images: Float[Tensor, "batch 3 32 32"]) -> Float[Tensor, "batch classes"]:
        """Returns the logits of normalised images of 32×32 pixels."""
        return self.classifier(self.features(images).flatten(1))


def cifar_mobilenetv2(width: float, classes: int) -> nn.Module:
    """Builds MobileNetV2 with two strides fewer, Sandler et al. (arXiv:1801.04381), table 2.

    Args:
        width: Multiplier of the channels.
        classes: Number of classes.

    Returns:
        The model with random weights.
    """
    from torchvision.models import MobileNetV2

    # Rows of the paper's table: expansion, channels, repetitions, stride.
    stages = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2)]
    stages += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    model = MobileNetV2(
        num_classes=classes,
        width_mult=width,
        inverted_residual_setting=[list(stage) for stage in stages],
    )
    _stem(model.features).stride = (1, 1)
    return model


def cifar_shufflenetv2(widths: tuple[int, int, int, int], classes: int) -> nn.Module:
    """Builds ShuffleNetV2 without stem stride and pooling, Ma et al. (arXiv:1807.11164), table 5.

    Args:
        widths: Channels of the three stages and of the last convolution.
        classes: Number of classes.

    Returns:
        The model with random weights.
    """
    from torchvision.models import ShuffleNetV2

    model = ShuffleNetV2([4, 8, 4], [24, *widths], num_classes=classes)
    _stem(model.conv1).stride = (1, 1)
    model.maxpool = nn.Identity()
    return model


def _repvgg(size: str, classes: int) -> nn.Module:
    from vision_bench.models.architectures.repvgg import RepVGG

    return RepVGG(size, classes)


_BUILDERS: dict[str, Callable[[int], nn.Module]] = {
    "resnet20": lambda classes: CifarResNet(3, classes),
    "resnet32": lambda classes: CifarResNet(5, classes),
    "resnet44": lambda classes: CifarResNet(7, classes),
    "resnet56": lambda classes: CifarResNet(9, classes),
    "vgg11_bn": lambda classes: CifarVGG("A", classes),
    "vgg13_bn": lambda classes: CifarVGG("B", classes),
    "vgg16_bn": lambda classes: CifarVGG("D", classes),
    "vgg19_bn": lambda classes: CifarVGG("E", classes),
    "mobilenetv2_x0_5": lambda classes: cifar_mobilenetv2(0.5, classes),
    "mobilenetv2_x0_75": lambda classes: cifar_mobilenetv2(0.75, classes),
    "mobilenetv2_x1_0": lambda classes: cifar_mobilenetv2(1.0, classes),
    "mobilenetv2_x1_4": lambda classes: cifar_mobilenetv2(1.4, classes),
    "shufflenetv2_x0_5": lambda classes: cifar_shufflenetv2((48, 96, 192, 1024), classes),
    "shufflenetv2_x1_0": lambda classes: cifar_shufflenetv2((116, 232, 464, 1024), classes),
    "shufflenetv2_x1_5": lambda classes: cifar_shufflenetv2((176, 352, 704, 1024), classes),
    "shufflenetv2_x2_0": lambda classes: cifar_shufflenetv2((244, 488, 976, 2048), classes),
    "repvgg_a0": lambda classes: _repvgg("a0", classes),
    "repvgg_a1": lambda classes: _repvgg("a1", classes),
    "repvgg_a2": lambda classes: _repvgg("a2", classes),
}

CIFAR_MODELS = tuple(f"{data}_{model}" for data in DATA for model in _BUILDERS)
"""Names of the published checkpoints, such as `cifar10_resnet56`."""

# The first eight digits of each file's SHA-256, from the repository's table of models.
_CHECKSUMS = {
    "cifar10": (
        "4118986f ef93fc4d 2a3cabcb 187c023a eaeebf42 c01e4a43 6ee7ea24 57191229 ca14ced9 a53c314e "
        "fe6a5b48 3bbbd6e2 1308b4e9 98807be3 296694dd ec31611c ef08a50e 38d2431b 09488915"
    ),
    "cifar100": (
        "23dac2f1 84213ce6 ffe32858 f2eff4c8 57d0759e 5ebe5778 7d8c4031 b98f7bd7 9f915757 d7891e60 "
        "1311f9ff 8a269f5e 1977720f 9ae22beb e2c85ad8 e7e584cd 2df1edd0 c06b21a7 8e71b1f8"
    ),
}


def split_name(name: str) -> tuple[str, str]:
    """Splits a checkpoint's name into its data set and its architecture.

    >>> split_name("cifar100_vgg16_bn")
    ('cifar100', 'vgg16_bn')
    """
    data, _, architecture = name.partition("_")
    return data, architecture


def build_cifar_model(architecture: str, classes: int) -> nn.Module:
    """Builds a model with random weights, drawn from PyTorch's global generator.

    Args:
        architecture: Name without the data set, such as `resnet56`.
        classes: Number of classes.

    Returns:
        The model in training mode.

    Raises:
        ValueError: If there is no such architecture.
    """
    if architecture not in _BUILDERS:
        raise ValueError(
            f"architecture={architecture!r} is not one of pytorch-cifar-models: "
            f"{', '.join(_BUILDERS)}"
        )
    return _BUILDERS[architecture](classes)


def checkpoint_url(name: str) -> str:
    """Address of a published checkpoint; the file's name ends with the start of its SHA-256.

    >>> checkpoint_url("cifar10_resnet56").rpartition("/")[2]
    'cifar10_resnet56-187c023a.pt'
    """
    data, architecture = split_name(name)
    checksum = _CHECKSUMS[data].split()[list(_BUILDERS).index(architecture)]
    family = re.match("resnet|vgg|mobilenetv2|shufflenetv2|repvgg", architecture)
    assert family is not None
    return f"{_RELEASES}/{family.group()}/{name}-{checksum}.pt"


def _residual_stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    from torchvision.models.resnet import BasicBlock

    shortcut = None
    if stride > 1:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        )
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(1, blocks)))


def _stem(features: nn.Module) -> nn.Conv2d:
    """The first convolution of a model."""
    return next(module for module in features.modules() if isinstance(module, nn.Conv2d))
