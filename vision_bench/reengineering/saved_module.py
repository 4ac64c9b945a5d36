"""A re-engineered module in a folder that is plain, and which other tools read too.

| file                 | what it holds                                                     |
|----------------------|-------------------------------------------------------------------|
| `module.safetensors` | the weights, by their names in the architecture                    |
| `module.json`        | the architecture by name, its widths, the classes, preprocessing   |
| `module.onnx`        | the same network for ONNX Runtime, OpenVINO and others             |

Nothing is pickled. There is no `.pt2` file of `torch.export`, because PyTorch unpickles whatever
such a file holds when it is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from aim_plugins.core import artifact
from aim_plugins.core.artifact import ArtifactMetadata
from aim_plugins.core.files import write_atomic
from vision_bench.models.architectures.cifar import CIFAR_MODELS
from vision_bench.models.architectures.lenet import LENET
from vision_bench.models.load import load_model
from vision_bench.models.model import VisionModel
from vision_bench.models.names import RANDOM
from vision_bench.reengineering.cutting import set_widths, widths
from vision_bench.reengineering.module import Module
from vision_bench.reengineering.onnx_file import check_onnx, to_onnx

ONNX_FILE = "module.onnx"


@dataclass(frozen=True)
class ModuleMetadata(ArtifactMetadata):
    """What a module was made of.

    Attributes:
        base_model: Name of the architecture, as `load_model` takes it.
        base_classes: Its number of classes.
        source: Fingerprint of the model that the module was made of.
        classes: Names of the classes that the module tells apart, in the order of its outputs.
        preprocessing: What its images need.
        image_shape: Channels, height and width of the images that `module.onnx` takes.
        widths: Inputs and outputs of each layer of the architecture that are left; without inputs,
            the layer is a constant.
    """

    KIND: ClassVar[str] = "module"
    FORCIBLE: ClassVar[bool] = False
    MADE_BY: ClassVar[str] = "`vision-bench reengineer run`"

    base_classes: int = 0
    source: str = ""
    classes: Sequence[str] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    image_shape: Sequence[int] = ()
    widths: Mapping[str, Sequence[int]] = field(default_factory=dict)


def save_module(
    folder: str | Path,
    module: Module,
    source: VisionModel,
    classes: Sequence[str],
    example: Tensor,
    *,
    method: str = "channel",
) -> Path:
    """Writes a module into a folder, and checks its ONNX file in both runtimes.

    Args:
        folder: Where it goes.
        module: The module, in eval mode, on the CPU.
        source: The model that it was made of.
        classes: Names of its classes, in the order of its outputs.
        example: Images [batch, channels, height, width], on which the runtimes are compared.
        method: What had a mask of its own: "channel" or "weight".

    Returns:
        The folder.

    Raises:
        ImportError: If onnx, onnxscript, onnxruntime or openvino is not installed.
        ValueError: If the module cannot be written as ONNX, or a runtime answers otherwise.
        OSError: If a file cannot be written.
    """
    described = ModuleMetadata.of_model(
        source.module,
        sites=list(widths(module.base)),
        method=method,
        base_classes=source.classes,
        source=source.fingerprint,
        classes=list(classes),
        preprocessing=_preprocessing(source),
        image_shape=list(example.shape[1:]),
        widths=widths(module.base),
    )
    described = replace(described, base_model=source.name)
    properties = {
        "classes": json.dumps(described.classes),
        "preprocessing": json.dumps(described.preprocessing),
    }
    content = to_onnx(module, example, properties)
    check_onnx(content, module, example)
    place = artifact.save(folder, module.state_dict(), described)
    write_atomic(place / ONNX_FILE, content)
    return place


def is_whole(folder: str | Path) -> bool:
    """Whether a folder holds all files of a module."""
    files = (*artifact.artifact_files(folder, ModuleMetadata), Path(folder, ONNX_FILE))
    return all(file.is_file() for file in files)


def load_module(folder: str | Path) -> Module:
    """Builds the module of a folder: the architecture by its name, cut to its widths.

    Returns:
        The module, in eval mode, on the CPU.

    Raises:
        ValueError: If a file is missing, damaged or of another kind, or the architecture is not
            the one that the weights are of.
    """
    tensors, described = artifact.load(folder, ModuleMetadata)
    if not _is_built_in(described.base_model):
        raise ValueError(
            f"module={str(folder)!r} names the architecture {described.base_model!r}, which is no "
            "lenet5, pytorch-cifar-models, torchvision: or timm: name: a stranger's folder may not "
            "have others loaded"
        )
    base = load_model(
        described.base_model,
        weights=RANDOM,
        classes=described.base_classes,
        preprocessing=described.preprocessing,
        seed=0,
    ).module
    set_widths(base, described.widths)
    head = nn.Linear(tensors["head.weight"].shape[1], len(described.classes))
    module = Module(base, head).eval()
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"module={str(folder)!r} holds weights of another architecture than "
            f"{described.base_model!r} is here ({str(error).splitlines()[-1].strip()}): use the "
            "versions of the libraries that it was made with"
        ) from error
    return module


def _is_built_in(name: str) -> bool:
    """Whether a name is that of an architecture alone, so that building it reads no file."""
    library, colon, model = name.partition(":")
    if colon:
        plain = all(part.isidentifier() or part[:1].isalnum() for part in model.split("."))
        return library in ("torchvision", "timm") and plain and "/" not in model
    return name == LENET or name in CIFAR_MODELS


def _preprocessing(source: VisionModel) -> dict[str, Any]:
    """What `load_model` takes: fields that concern label maps are none of a classifier."""
    known = asdict(source.preprocessing)
    return {name: known[name] for name in known if name != "reduce_labels"}
