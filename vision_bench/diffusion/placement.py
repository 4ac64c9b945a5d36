"""How a map moves an output: as it was fitted.

Maps fitted on the means of images move an image as a whole, by what its mean moves:
x + λ (T(mean x) - mean x). Moving each pixel by such a map would scale the image's contrast by what
scales its mean. Tokens move one by one, whatever the pooling, as in the paper's code.

That holds for all methods. The paper's code does so in `linear_ot` alone: its `gaussian_ot` puts
each pixel through the map of the means where the image's mean lies in the support, and its `aura`
multiplies each pixel, by the AUROC of maxima over pixels. With `pooling="all"` both do so here,
fitted to pixels.

Source: arXiv 2410.23054, eq. 1, and github.com/apple/ml-act: `LearnableOTHook.forward`,
`GaussianOTHook.forward` and `AURAHook.forward`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.modulation.activations import AffineMap
from vision_bench.diffusion.neurons import is_image, per_neuron

POOLINGS = ("mean", "all")
"""What of an image's places a map is fitted on: their mean, or each by itself."""

# Adding it changes no bit of any number; 0.0 turns -0.0 into 0.0.
_NOTHING = -0.0


def check_pooling(pooling: str) -> None:
    """Refuses a word that is none of `POOLINGS`.

    Raises:
        ValueError: If it is another.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling={pooling!r} is unknown: write 'mean' or 'all'")


class Placed:
    """A map with a strength for each row, ready to move outputs.

    Args:
        one: The map, on the device of the outputs.
        strengths: Strength λ of each row; rows of strength 0 keep every bit.
        pooling: One of `POOLINGS`.
    """

    def __init__(self, one: AffineMap, strengths: Float[Tensor, " rows"], pooling: str) -> None:
        device = one.scale.device
        weights = strengths.to(device, torch.float32)[:, None]
        self._pooling = pooling
        self._bounded = one.is_bounded
        self._support = one.support_min, one.support_max
        self._clip = one.clip
        # λ (T(x) - x) = slope x + shift
        self._slope = weights * (one.scale - 1)
        self._shift = weights * one.shift
        # Found before the strengths are on an accelerator, which would have to be waited for.
        rows = (strengths == 0).nonzero().flatten()
        self._still = rows.to(device) if len(rows) else None
        self._shaped: dict[tuple[int, int], _Operands] = {}

    def __call__(self, output: Float[Tensor, "rows ..."], axis: int) -> Float[Tensor, "rows ..."]:
        """What becomes of an output; computed in float32 at least, and rounded once.

        Args:
            output: A module's output.
            axis: Axis of its neurons, see `neurons_axis`.
        """
        if self._pooling == "mean" and is_image(output, axis):
            return self._as_a_whole(output)
        if not self._bounded:
            operands = self._operands(output, axis)
            return _rounded(_scaled_and_shifted, output, output, operands.factor, operands.summand)
        if self._clip:
            return self._clipped(output, axis)
        return self._within_support(output, axis)

    def _as_a_whole(self, output: Tensor) -> Tensor:
        dtype = torch.promote_types(output.dtype, torch.float32)
        means = output.mean(tuple(range(2, output.dim())), dtype=dtype)
        near = means.clamp(*self._support) if self._bounded and self._clip else means
        step = torch.addcmul(self._shift, near, self._slope)
        if self._bounded and not self._clip:
            step = torch.where(_inside(means, *self._support), step, _NOTHING)
        if self._still is not None:
            step = step.index_fill(0, self._still, _NOTHING)
        return _rounded(torch.add, output, output, per_neuron(step, output, 1))

    def _clipped(self, output: Tensor, axis: int) -> Tensor:
        """As a new tensor, changed in place: on a CPU a second one takes longer than the sums."""
        operands = self._operands(output, axis)
        exact = output.to(torch.promote_types(output.dtype, torch.float32))
        # One bound at a time: both at once are slow for images on a CPU.
        step = exact.clamp(min=operands.low).clamp_(max=operands.high)
        step = step.mul_(operands.slope).add_(operands.shift)
        if step.dtype == output.dtype:
            moved = step.add_(output)
        else:
            moved = _rounded(torch.add, output, output, step)
        if self._still is not None:
            moved.index_copy_(0, self._still, output.index_select(0, self._still))
        return moved

    def _within_support(self, output: Tensor, axis: int) -> Tensor:
        operands = self._operands(output, axis)
        moved = _rounded(_scaled_and_shifted, output, output, operands.factor, operands.summand)
        return torch.where(_inside(output, operands.low, operands.high), moved, output)

    def _operands(self, output: Tensor, axis: int) -> _Operands:
        """The map's vectors in shapes that broadcast over an output."""
        key = (output.dim(), axis)
        if key not in self._shaped:
            factor, summand = 1.0 + self._slope, self._shift
            if self._still is not None:
                factor = factor.index_fill(0, self._still, 1.0)
                summand = summand.index_fill(0, self._still, _NOTHING)
            ends = (one[None] for one in self._support)
            rows = (self._slope, self._shift, factor, summand, *ends)
            self._shaped[key] = _Operands(*(per_neuron(one, output, axis) for one in rows))
        return self._shaped[key]


class _Operands(NamedTuple):
    slope: Tensor
    shift: Tensor
    factor: Tensor
    summand: Tensor
    low: Tensor
    high: Tensor


def transport_output(
    output: Float[Tensor, "rows ..."],
    one: AffineMap,
    strengths: Float[Tensor, " rows"],
    axis: int,
    pooling: str,
) -> Float[Tensor, "rows ..."]:
    """Moves an output by a map that is used once, see `Placed`."""
    return Placed(one.to(output.device), strengths, pooling)(output, axis)


def _inside(activations: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return (low < activations) & (activations < high)


def _scaled_and_shifted(
    output: Tensor, factor: Tensor, summand: Tensor, out: Tensor | None = None
) -> Tensor:
    if out is None:  # faster on a CPU, where addcmul is slow for images
        return output.mul(factor).add_(summand)
    return torch.addcmul(summand, output, factor, out=out)


def _rounded(operation: Callable[..., Tensor], output: Tensor, *operands: Tensor) -> Tensor:
    """An operation's result in the type of the output, without its operands' copies in between."""
    if output.requires_grad or output.dtype == torch.float32:
        return operation(*operands).to(output.dtype)
    return operation(*operands, out=torch.empty_like(output))
