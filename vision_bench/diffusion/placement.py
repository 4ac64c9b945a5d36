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

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.modulation.activations import AffineMap
from vision_bench.diffusion.neurons import is_image, per_neuron

POOLINGS = ("mean", "all")
"""What of an image's places a map is fitted on: their mean, or each by itself."""

Mover = Callable[[Tensor], Tensor]
"""Moves outputs of a module."""

# Adding it changes no bit of any number; 0.0 turns -0.0 into 0.0.
_NOTHING = -0.0


def check_pooling(pooling: str) -> None:
    """Refuses a word that is none of `POOLINGS`.

    Raises:
        ValueError: If it is another.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling={pooling!r} is unknown: write 'mean' or 'all'")


class RowStrengths:
    """Strengths of the rows of a batch, on a device; shared by all maps that move the batch.

    Args:
        strengths: Strength λ of each row.
        device: Where the outputs are.

    Attributes:
        weights: The strengths, one row each.
        still: Which rows have strength 0; None if there are none.
    """

    def __init__(self, strengths: Float[Tensor, " rows"], device: torch.device) -> None:
        self.weights = strengths.to(device, torch.float32)[:, None]
        # Found before the strengths are on an accelerator, which would have to be waited for.
        rows = (strengths == 0).nonzero().flatten()
        self.still = rows.to(device) if len(rows) else None

    def fill(self, table: Float[Tensor, "rows ..."], value: float) -> Tensor:
        """Writes a value into the rows of strength 0, in place."""
        return table if self.still is None else table.index_fill_(0, self.still, value)


def place(
    one: AffineMap, rows: RowStrengths, pooling: str, output: Float[Tensor, "rows ..."], axis: int
) -> Mover:
    """Makes a map ready to move outputs of a module.

    What it computes is float32 at least, and rounded once. Rows of strength 0 keep every bit.

    Args:
        one: The map, on the device of the outputs.
        rows: The strengths.
        pooling: One of `POOLINGS`.
        output: An output of that module, as long as all others and of as many axes.
        axis: Axis of its neurons, see `neurons_axis`.
    """
    # λ (T(x) - x) = slope x + shift
    slope = rows.weights * (one.scale - 1)
    shift = rows.fill(rows.weights * one.shift, _NOTHING)
    low, high = one.support_min[None], one.support_max[None]
    if one.clip and rows.still is not None:
        # What is added there is 1 · -0 + -0; 0 times an infinite activation would be no number.
        slope = rows.fill(slope, _NOTHING)
        low, high = (rows.fill(end.repeat(len(slope), 1), 1.0) for end in (low, high))
    low, high, slope, shift = (
        per_neuron(table, output, axis) for table in (low, high, slope, shift)
    )
    bounds = (low, high) if one.is_bounded else None
    if pooling == "mean" and is_image(output, axis):
        return functools.partial(
            _move_whole, slope=slope, shift=shift, bounds=bounds, clip=one.clip, rows=rows
        )
    if bounds and one.clip:
        return functools.partial(_move_clipped, slope=slope, shift=shift, bounds=bounds)
    if bounds:
        return functools.partial(_move_inside, factor=1.0 + slope, summand=shift, bounds=bounds)
    return functools.partial(_move_all, factor=1.0 + slope, summand=shift)


def _move_whole(
    output: Tensor,
    slope: Tensor,
    shift: Tensor,
    bounds: tuple[Tensor, Tensor] | None,
    clip: bool,
    rows: RowStrengths,
) -> Tensor:
    dtype = torch.promote_types(output.dtype, torch.float32)
    means = output.mean(tuple(range(2, output.dim())), keepdim=True, dtype=dtype)
    step = torch.addcmul(shift, means.clamp(*bounds) if bounds and clip else means, slope)
    if bounds and not clip:
        step = torch.where(_inside(means, *bounds), step, _NOTHING)
    return _rounded(torch.add, output, output, rows.fill(step, _NOTHING))


def _move_clipped(
    output: Tensor, slope: Tensor, shift: Tensor, bounds: tuple[Tensor, Tensor]
) -> Tensor:
    # As a new tensor, changed in place: on a CPU a second one takes longer than the sums.
    exact = output.to(torch.promote_types(output.dtype, torch.float32))
    # One bound at a time: both at once are slow for images on a CPU.
    low, high = bounds
    step = exact.clamp(min=low).clamp_(max=high).mul_(slope).add_(shift)
    if step.dtype == output.dtype:
        return step.add_(output)
    return _rounded(torch.add, output, output, step)


def _move_inside(
    output: Tensor, factor: Tensor, summand: Tensor, bounds: tuple[Tensor, Tensor]
) -> Tensor:
    return torch.where(_inside(output, *bounds), _move_all(output, factor, summand), output)


def _move_all(output: Tensor, factor: Tensor, summand: Tensor) -> Tensor:
    return _rounded(_scaled_and_shifted, output, output, factor, summand)


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
