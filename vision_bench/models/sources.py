"""Where `load_model` finds architectures and weights: one function per library."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.identity import model_fingerprint
from vision_bench.models.architectures import cifar, efficientnet_lite, lenet, segformer
from vision_bench.models.checkpoints import (
    load_weights,
    read_state_dict,
    unwrap_state_dict,
)
from vision_bench.models.known_preprocessing import (
    folder_preprocessing,
    header_preprocessing,
    published_at,
    segformer_preprocessing,
    timm_preprocessing,
    torchvision_preprocessing,
)
from vision_bench.models.libraries import refuse_incomplete, report_left_to_us, require
from vision_bench.models.model import LogitsOnly, VisionModel
from vision_bench.models.names import HUB, RANDOM
from vision_bench.models.preprocessing import Choice, KnownPreprocessing, Preprocessing

_IMAGENET_CLASSES, _ADE20K_CLASSES, _CITYSCAPES_CLASSES = 1000, 150, 19
_DIGITS = 10

Weights = str | Path | None


def load_cifar(
    name: str, weights: Weights, classes: int | None, asked: Choice | None
) -> VisionModel:
    """Loads a model of pytorch-cifar-models; a fused RepVGG checkpoint is recognised."""
    require("torchvision")
    dataset, architecture = cifar.split_name(name)
    data = cifar.DATA[dataset]
    classes = classes or data.classes
    wanted = _wants_weights(name, weights)
    own = wanted and weights != HUB
    known = KnownPreprocessing(
        Preprocessing(mean=data.mean, std=data.std),
        "that of pytorch-cifar-models",
        not own or published_at(_path(weights), [cifar.checkpoint_url(name)]) is not None,
    ).settle(asked, name=name, weights=weights)
    module = cifar.build_cifar_model(architecture, classes)
    if wanted:
        if weights == HUB:
            state = _download(cifar.checkpoint_url(name))
        else:
            state = read_state_dict(_path(weights))
        if architecture.startswith("repvgg") and any("rbr_reparam" in key for key in state):
            from vision_bench.models.architectures.repvgg import RepVGG

            module = RepVGG(architecture.removeprefix("repvgg_"), classes, fused=True)
        load_weights(module, state, name=name, source=_path(weights))
    return _classifier(name, module, classes, known)


def load_lenet(
    name: str, weights: Weights, classes: int | None, asked: Choice | None
) -> VisionModel:
    """Loads LeNet-5, of which no weights are published."""
    if weights == HUB:
        raise ValueError(
            f"weights='hub' of {name!r}: none are published; train it with `vision-bench "
            "demo-models lenet5`, or give the file of your own"
        )
    wanted = _wants_weights(name, weights)
    usual = Preprocessing(
        size=lenet.SIDE, crop=lenet.SIDE, mean=(lenet.MEAN,) * 3, std=(lenet.STD,) * 3
    )
    known = KnownPreprocessing(usual, "that of MNIST", not wanted)
    if wanted:
        known = header_preprocessing(_path(weights)) or known
    known = known.settle(asked, name=name, weights=weights)
    module = lenet.LeNet5(classes or _DIGITS)
    if wanted:
        load_weights(module, read_state_dict(_path(weights)), name=name, source=_path(weights))
    return _classifier(name, module, classes or _DIGITS, known)


def load_torchvision(
    name: str, model_name: str, weights: Weights, classes: int | None, asked: Choice | None
) -> VisionModel:
    """Loads a classifier of torchvision, prepared as the published weights in the file."""
    models = require("torchvision.models")
    names = models.list_models(module=models)
    if model_name not in names:
        raise unknown_name(name, (f"torchvision:{other}" for other in names))
    wanted = _wants_weights(name, weights)
    published = models.get_model_weights(model_name)
    every = [published.DEFAULT, *(one for one in published if one is not published.DEFAULT)]
    own = _path(weights) if wanted and weights != HUB else None
    known = torchvision_preprocessing(every, own).settle(asked, name=name, weights=weights)
    options: dict[str, Any] = {"num_classes": classes or _IMAGENET_CLASSES}
    if wanted and model_name in ("googlenet", "inception_v3"):
        # Their ImageNet weights expect images rescaled by the model itself; torchvision sets this
        # only where it loads the weights.
        imagenet = options["num_classes"] == _IMAGENET_CLASSES
        options |= {"transform_input": imagenet, "init_weights": False}
    module = models.get_model(model_name, weights=None, **options)
    if wanted:
        state = _download(published.DEFAULT.url) if own is None else read_state_dict(own)
        # The published DenseNet files still have the key names of PyTorch 0.3.
        if model_name.startswith("densenet"):
            state = {_DENSENET_KEY.sub(r"\1\2.", key): value for key, value in state.items()}
        load_weights(module, state, name=name, source=_path(weights))
    return _classifier(name, module, options["num_classes"], known)


def load_timm(
    name: str, model_name: str, weights: Weights, classes: int | None, asked: Choice | None
) -> VisionModel:
    """Loads a classifier of timm."""
    timm = require("timm")
    wanted = _wants_weights(name, weights)
    if not timm.is_model(model_name):
        raise unknown_name(name, (f"timm:{other}" for other in timm.list_models()))
    packaged = weights == efficientnet_lite.PACKAGE
    own = None if packaged or weights == HUB or not wanted else _path(weights)
    known = timm_preprocessing(timm, name, model_name, own)
    known = known.settle(asked, name=name, weights=weights)
    options = {} if classes is None else {"num_classes": classes}
    module = timm.create_model(model_name, pretrained=weights == HUB, **options)
    if own is not None or packaged:
        path = own or efficientnet_lite.package_weights()
        state = _timm_keys(read_state_dict(path), module)
        load_weights(module, state, name=name, source=path)
    return _classifier(name, module, module.num_classes, known)


def load_segformer(
    name: str, weights: Weights, classes: int | None, asked: Choice | None
) -> VisionModel:
    """Loads SegFormer B0 to B5 from a file of either layout, a folder or the hub."""
    size = name.removeprefix("segformer-")
    if not _wants_weights(name, weights):
        transformers = require("transformers")
        classes = classes or _ADE20K_CLASSES
        known = segformer_preprocessing(_usual_segformer(size, classes), None)
        known = known.settle(asked, name=name, weights=weights)
        config = segformer.segformer_config(size, classes)
        return _segmenter(name, transformers.SegformerForSemanticSegmentation(config), known)
    if weights == HUB:
        return load_transformers(_hub_segformer(size, classes), None, classes, asked, name=name)
    if _path(weights).is_dir():
        return load_transformers(str(weights), None, classes, asked, name=name)
    return _segformer_file(name, size, _path(weights), classes, asked)


def load_original_segformer(
    name: str, weights: Weights, classes: int | None, asked: Choice | None
) -> VisionModel:
    """Loads a SegFormer checkpoint in its authors' layout, whose size is read off its tensors."""
    _refuse_weights(name, weights)
    path = Path(name)
    state = read_state_dict(path)
    if not segformer.is_original_layout(state):
        raise ValueError(
            f"model={name!r} is no SegFormer in its authors' layout (no key patch_embed1.proj): "
            "give the architecture's name as model, and this file as weights"
        )
    size = segformer.size_of(state)
    return _segformer_file(f"segformer-{size}", size, path, classes, asked, state)


def load_transformers(
    source: str,
    weights: Weights,
    classes: int | None,
    asked: Choice | None,
    *,
    name: str | None = None,
) -> VisionModel:
    """Loads a segmentation model that transformers saved, from a folder or the hub."""
    _refuse_weights(source, weights)
    transformers = require("transformers")
    local = Path(source).is_dir()
    try:
        with report_left_to_us(transformers):
            module, report = transformers.AutoModelForSemanticSegmentation.from_pretrained(
                source,
                local_files_only=local,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except (OSError, ValueError) as error:
        where = "folder" if local else "hub name (and no folder here)"
        raise ValueError(
            f"model={source!r}: transformers loads no segmentation model from this {where}: {error}"
        ) from error
    refuse_incomplete(report, name or source, source)
    if classes is not None and classes != module.config.num_labels:
        raise ValueError(
            f"model={source!r} has {module.config.num_labels} classes, not {classes}: choose the "
            "data set it was trained for"
        )
    known = folder_preprocessing(source, local) or KnownPreprocessing(
        _usual_segformer("", _ADE20K_CLASSES), "that of SegFormer's authors", False
    )
    known = known.settle(asked, name=name or source, weights=source if name else None)
    return _segmenter(name or source, module, known)


def is_hub_name(name: str) -> bool:
    """Tells whether a name has the form OWNER/NAME of the Hugging Face hub.

    >>> is_hub_name("nvidia/segformer-b0-finetuned-ade-512-512"), is_hub_name("./models/b0")
    (True, False)
    """
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None


def unknown_name(name: str, known: Iterable[str]) -> ValueError:
    """Builds the error of a name that no model has, with the nearest names."""
    hint = did_you_mean(name, known, count=3, cutoff=0.4, otherwise="no name is near.")
    return ValueError(
        f"model={name!r} is no model and no file or folder here; {hint} Others are "
        "'torchvision:NAME', 'timm:NAME', 'clip:FOLDER', and the folder or hub name OWNER/NAME of "
        "a segmentation model"
    )


_NUMBERED = re.compile(r"(?:label|class)?[\s_-]*\d+", re.IGNORECASE)
_DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


def _classifier(
    name: str, module: nn.Module, classes: int, known: KnownPreprocessing
) -> VisionModel:
    fingerprint = model_fingerprint(module, name)
    return VisionModel(
        name,
        module.eval(),
        "classification",
        classes,
        known.preprocessing,
        fingerprint,
        known.source,
    )


def _segmenter(name: str, module: Any, known: KnownPreprocessing) -> VisionModel:
    # A folder's name says nothing: the same model may lie in two places.
    fingerprint = model_fingerprint(module)
    classes = module.config.num_labels
    wrapped = LogitsOnly(module).eval()
    return VisionModel(
        name,
        wrapped,
        "segmentation",
        classes,
        known.preprocessing,
        fingerprint,
        known.source,
        class_names=_own_names(module.config),
    )


def _own_names(config: Any) -> tuple[str, ...] | None:
    """Names of the classes in a config of transformers, unless they are its LABEL_0, LABEL_1 …"""
    names = [config.id2label.get(index) for index in range(config.num_labels)]
    named = all(isinstance(name, str) and not _NUMBERED.fullmatch(name) for name in names)
    return tuple(names) if named else None


def _wants_weights(name: str, weights: Weights) -> bool:
    if weights is None:
        raise ValueError(
            f"weights=None for {name!r}: give a checkpoint's path, 'hub' to download the published "
            "one, or 'random' for an untrained model"
        )
    return weights != RANDOM


def _refuse_weights(name: str, weights: Weights) -> None:
    if weights is not None:
        raise ValueError(
            f"weights={str(weights)!r}, but model={name!r} has weights: leave them out"
        )


def _path(weights: Weights) -> Path:
    assert weights is not None
    return Path(weights)


def _download(url: str) -> dict[str, Tensor]:
    content = torch.hub.load_state_dict_from_url(
        url, map_location="cpu", check_hash=True, weights_only=True
    )
    return unwrap_state_dict(content, source=url)


def _timm_keys(state: dict[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
    if efficientnet_lite.is_efficientnet_pytorch_layout(state):
        return efficientnet_lite.convert_to_timm_keys(state)
    if state.keys() == module.state_dict().keys():
        return state
    # By timm's convention, what renames the keys of a model's original authors.
    rename = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    return state if rename is None else rename(state, module)


def _usual_segformer(size: str, classes: int) -> Preprocessing:
    side = _ade_side(size) if classes == _ADE20K_CLASSES else 512
    return Preprocessing(size=side, resize="square")


def _ade_side(size: str) -> int:
    """Side of the images that a SegFormer was trained with (arXiv:2105.15203, section 4.1)."""
    return 640 if size == "b5" else 512


def _hub_segformer(size: str, classes: int | None) -> str:
    if classes == _CITYSCAPES_CLASSES:
        return f"nvidia/segformer-{size}-finetuned-cityscapes-1024-1024"
    if classes not in (None, _ADE20K_CLASSES):
        raise ValueError(
            f"weights='hub' are of {_ADE20K_CLASSES} classes (ADE20K) or {_CITYSCAPES_CLASSES} "
            f"(Cityscapes), not {classes}: give the file of your own weights"
        )
    side = _ade_side(size)
    return f"nvidia/segformer-{size}-finetuned-ade-{side}-{side}"


def _segformer_file(
    name: str,
    size: str,
    path: Path,
    classes: int | None,
    asked: Choice | None,
    state: dict[str, Tensor] | None = None,
) -> VisionModel:
    transformers = require("transformers")
    # Where the file was read before, it was given as the model.
    given = (name, path) if state is None else (str(path), None)
    state = read_state_dict(path) if state is None else state
    if segformer.is_original_layout(state):
        state = segformer.convert_original_keys(state)
    if classes is None:
        bias = state.get("decode_head.classifier.bias")
        classes = _ADE20K_CLASSES if bias is None else len(bias)
    known = segformer_preprocessing(_usual_segformer(size, classes), path)
    known = known.settle(asked, name=given[0], weights=given[1])
    # transformers renames published keys to those of its own version's modules.
    with report_left_to_us(transformers):
        module, report = transformers.SegformerForSemanticSegmentation.from_pretrained(
            None,
            config=segformer.segformer_config(size, classes),
            state_dict=state,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    refuse_incomplete(report, name, path)
    return _segmenter(name, module, known)
