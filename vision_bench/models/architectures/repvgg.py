"""RepVGG for 32×32 images: three branches in training, one plain convolution when fused.

Ding et al., "RepVGG: Making VGG-style ConvNets Great Again" (arXiv:2101.03697). A block adds a 3×3
convolution, a 1×1 convolution and, where shapes allow, the identity, each behind its own batch
normalisation. In eval mode all three are linear, so one 3×3 convolution does the same (section
3.3). Key names and widths are those of pytorch-cifar-models.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_WIDTHS = {
    "a0": (48, 48, 96, 192, 1280),
    "a1": (64, 64, 128, 256, 1280),
    "a2": (64, 96, 192, 384, 1408),
}
_DEPTHS = (2, 4, 14, 1)


class ConvNorm(nn.Module):
    """A convolution without bias and its batch normalisation."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.conv = convolution
        self.bn = nn.BatchNorm2d(convolution.out_channels)

    def forward(self, inputs: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _ _ _"]:
        """Applies both."""
        return self.bn(self.conv(inputs))


class RepVGGBlock(nn.Module):
    """Sum of up to three normalised branches, then ReLU; or one convolution, then ReLU.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        stride: Stride of both convolutions; the identity needs 1.
        fused: Build the single convolution instead of the branches.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, fused: bool = False) -> None:
        super().__init__()
        self.stride = stride
        if fused:
            self.rbr_reparam = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
            return
        same = inputs == outputs and stride == 1
        self.rbr_identity = nn.BatchNorm2d(inputs) if same else None
        self.rbr_dense = ConvNorm(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False))
        self.rbr_1x1 = ConvNorm(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, inputs: Float[Tensor, "batch inputs h w"]) -> Float[Tensor, "batch _ _ _"]:
        """Applies the block."""
        if hasattr(self, "rbr_reparam"):
            return self.rbr_reparam(inputs).relu()
        outputs = self.rbr_dense(inputs) + self.rbr_1x1(inputs)
        if self.rbr_identity is not None:
            outputs = outputs + self.rbr_identity(inputs)
        return outputs.relu()

    @torch.no_grad()
    def fuse(self) -> None:
        """Replaces the branches by the one convolution that equals their sum in eval mode."""
        if hasattr(self, "rbr_reparam"):
            return
        dense = self.rbr_dense.conv
        branches = [_fold(dense, self.rbr_dense.bn), _fold(self.rbr_1x1.conv, self.rbr_1x1.bn)]
        if self.rbr_identity is not None:
            identity = nn.Conv2d(dense.in_channels, dense.out_channels, 1, bias=False)
            nn.init.dirac_(identity.weight)
            branches.append(_fold(identity.to(dense.weight), self.rbr_identity))
        fused = nn.Conv2d(dense.in_channels, dense.out_channels, 3, self.stride, padding=1)
        fused.to(dense.weight).load_state_dict(
            {
                "weight": torch.stack([weight for weight, _ in branches]).sum(0),
                "bias": torch.stack([bias for _, bias in branches]).sum(0),
            }
        )
        self.rbr_reparam = fused
        del self.rbr_dense, self.rbr_1x1, self.rbr_identity


class RepVGG(nn.Module):
    """RepVGG-A0, -A1 or -A2 without the strides of its first two stages.

    Args:
        size: "a0", "a1" or "a2".
        classes: Number of classes.
        fused: Build the plain network of a fused checkpoint (keys `rbr_reparam`).
    """

    def __init__(self, size: str, classes: int, *, fused: bool = False) -> None:
        super().__init__()
        stem, *widths = _WIDTHS[size]
        self.stage0 = RepVGGBlock(3, stem, 1, fused=fused)
        inputs = stem
        for stage, (width, depth) in enumerate(zip(widths, _DEPTHS, strict=True), start=1):
            strides = [1 if stage == 1 else 2] + [1] * (depth - 1)
            blocks = nn.Sequential()
            for stride in strides:
                blocks.append(RepVGGBlock(inputs, width, stride, fused=fused))
                inputs = width
            self.add_module(f"stage{stage}", blocks)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch classes"]:
        """Returns the logits of normalised images."""
        features = images
        for stage in ("stage0", "stage1", "stage2", "stage3", "stage4"):
            features = getattr(self, stage)(features)
        return self.linear(features.mean((2, 3)))


def fuse_repvgg(model: RepVGG) -> RepVGG:
    """Copies a trained model into its plain form, which gives the same logits faster.

    Args:
        model: The model; it stays as it is.

    Returns:
        A copy in eval mode with one 3×3 convolution per block.
    """
    plain = copy.deepcopy(model).eval()
    for module in list(plain.modules()):
        if isinstance(module, RepVGGBlock):
            module.fuse()
    return plain


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """3×3 kernel and bias of a bias-free convolution followed by its batch normalisation."""
    folded = fuse_conv_bn_eval(convolution.eval(), norm.eval())
    weight, bias = folded.weight, folded.bias
    assert bias is not None
    # A 1×1 kernel is a 3×3 kernel whose border is zero.
    border = (3 - weight.shape[-1]) // 2
    return nn.functional.pad(weight, [border] * 4), bias
