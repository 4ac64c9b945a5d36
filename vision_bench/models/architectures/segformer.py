"""SegFormer B0 to B5 through transformers, and checkpoints in the layout of its authors.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers"
(arXiv:2105.15203), table 6. Stage s and block b of the authors' key names (NVlabs/SegFormer), and
what they are called in the checkpoints of transformers:

    authors                          transformers
    backbone.                        segformer.encoder.
      patch_embed{s}.proj, .norm       patch_embeddings.{s-1}.proj, .layer_norm
      norm{s}                          layer_norm.{s-1}
      block{s}.{b}.                    block.{s-1}.{b}.
        norm1, norm2                     layer_norm_1, layer_norm_2
        attn.q                           attention.self.query
        attn.kv                          attention.self.key (first half), .value (second)
        attn.sr, .norm                   attention.self.sr, .layer_norm
        attn.proj                        attention.output.dense
        mlp.fc1, .fc2                    mlp.dense1, .dense2
        mlp.dwconv.dwconv                mlp.dwconv.dwconv
    decode_head.                     decode_head.
      linear_c{s}.proj                 linear_c.{s-1}.proj
      linear_fuse.conv, .bn            linear_fuse, batch_norm
      linear_pred                      classifier

`decode_head.conv_seg` of the authors' files is a leftover that their model never applies, and
`head` is the ImageNet classifier of a bare encoder; both are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from transformers import SegformerConfig

_SMALL, _LARGE = (32, 64, 160, 256), (64, 128, 320, 512)
_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    "b0": ((2, 2, 2, 2), _SMALL, 256),
    "b1": ((2, 2, 2, 2), _LARGE, 256),
    "b2": ((3, 4, 6, 3), _LARGE, 768),
    "b3": ((3, 4, 18, 3), _LARGE, 768),
    "b4": ((3, 8, 27, 3), _LARGE, 768),
    "b5": ((3, 6, 40, 3), _LARGE, 768),
}
"""By size: blocks and channels of the four stages, channels of the decoder."""

SEGFORMER_MODELS = tuple(f"segformer-{size}" for size in _SIZES)

_ENCODER = "segformer.encoder"
_RENAMES = (
    (r"patch_embed(\d)\.proj", _ENCODER + ".patch_embeddings.{stage}.proj"),
    (r"patch_embed(\d)\.norm", _ENCODER + ".patch_embeddings.{stage}.layer_norm"),
    (r"norm(\d)", _ENCODER + ".layer_norm.{stage}"),
    (r"block(\d)\.(\d+)\.(norm[12]|attn\.\w+|mlp\.\w+(?:\.dwconv)?)", ""),
    (r"decode_head\.linear_c(\d)\.proj", "decode_head.linear_c.{stage}.proj"),
    (r"decode_head\.linear_fuse\.conv", "decode_head.linear_fuse"),
    (r"decode_head\.linear_fuse\.bn", "decode_head.batch_norm"),
    (r"decode_head\.linear_pred", "decode_head.classifier"),
)
_BLOCK_RENAMES = {
    "norm1": "layer_norm_1",
    "norm2": "layer_norm_2",
    "attn.q": "attention.self.query",
    "attn.sr": "attention.self.sr",
    "attn.norm": "attention.self.layer_norm",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "mlp.dense1",
    "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
    "mlp.fc2": "mlp.dense2",
}
_DROPPED = ("decode_head.conv_seg.", "head.")


def segformer_config(size: str, classes: int) -> SegformerConfig:
    """Describes a SegFormer to transformers.

    Args:
        size: "b0" to "b5".
        classes: Number of classes: 150 for ADE20K, 19 for Cityscapes.

    Returns:
        The configuration.

    Raises:
        ValueError: If there is no such size.
    """
    from transformers import SegformerConfig

    if size not in _SIZES:
        raise ValueError(f"size={size!r} is no SegFormer: give one of {', '.join(_SIZES)}")
    depths, widths, decoder = _SIZES[size]
    options: dict[str, Any] = {
        "depths": list(depths),
        "hidden_sizes": list(widths),
        "decoder_hidden_size": decoder,
        "num_labels": classes,
    }
    return SegformerConfig(**options)


def is_original_layout(state: Mapping[str, Tensor]) -> bool:
    """Tells whether keys are those of SegFormer's authors."""
    return any(re.match(r"(backbone\.)?patch_embed1\.proj\.", key) for key in state)


def size_of(state: Mapping[str, Tensor]) -> str:
    """Finds the size of a checkpoint in the authors' layout by its blocks, channels and decoder.

    Args:
        state: Tensors by the authors' names.

    Returns:
        "b0" to "b5".

    Raises:
        ValueError: If no size has this shape.
    """
    blocks = [re.match(r"(?:backbone\.)?block(\d)\.(\d+)\.norm1\.weight", key) for key in state]
    depths, widths = [0] * 4, [0] * 4
    for found in filter(None, blocks):
        stage = int(found[1]) - 1
        depths[stage] = max(depths[stage], int(found[2]) + 1)
        widths[stage] = len(state[found[0]])
    for size, (size_depths, size_widths, _) in _SIZES.items():
        if tuple(depths) == size_depths and tuple(widths) == size_widths:
            return size
    raise ValueError(
        f"the weights have {depths} blocks of {widths} channels, which is none of SegFormer "
        f"{', '.join(_SIZES)}"
    )


def convert_original_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the authors' keys to those of transformers' published checkpoints.

    Args:
        state: Tensors by the authors' names, with or without `backbone.`.

    Returns:
        Tensors by transformers' names. A key outside the table of this module keeps its name, so
        that loading reports it.

    >>> from torch import arange
    >>> list(convert_original_keys({"backbone.block1.0.attn.kv.bias": arange(4)}).values())
    [tensor([0, 1]), tensor([2, 3])]
    """
    converted = {}
    for key, value in state.items():
        if key.startswith(_DROPPED):
            continue
        stem, _, kind = key.removeprefix("backbone.").rpartition(".")
        if attention := re.fullmatch(r"block(\d)\.(\d+)\.attn\.kv", stem):
            prefix = f"{_block(attention)}.attention.self"
            # The authors reshape the rows to [2, heads, channels]: keys first, then values.
            for name, half in zip(("key", "value"), value.chunk(2), strict=True):
                converted[f"{prefix}.{name}.{kind}"] = half.clone()
        else:
            converted[f"{_rename(stem)}.{kind}"] = value
    return converted


def _rename(stem: str) -> str:
    for pattern, name in _RENAMES:
        if not (found := re.fullmatch(pattern, stem)):
            continue
        if name:
            return name.format(stage=int(found[1]) - 1 if found.groups() else None)
        if found[3] in _BLOCK_RENAMES:
            return f"{_block(found)}.{_BLOCK_RENAMES[found[3]]}"
    return stem


def _block(found: re.Match[str]) -> str:
    return f"{_ENCODER}.block.{int(found[1]) - 1}.{found[2]}"
