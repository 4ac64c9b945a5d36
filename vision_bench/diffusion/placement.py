"""How a map moves an output: as it was fitted.

Maps fitted on the means of images move an image as a whole, by what its mean moves:
x + λ (T(mean x) - mean x). Moving each pixel by such a map would scale the image's contrast by what
scales its mean. Tokens move one by one, whatever the pooling, as in the paper's code.

Source: arXiv 2410.23054, eq. 1, and its public code.
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
        one: The map.
        strengths: Strength λ of each row; rows of strength 0 keep every bit.
        pooling: One of `POOLINGS`.
        device: Device of the outputs.
    """

    def __init__(
        self,
        one: AffineMap,
        strengths: Float[Tensor, " rows"],
        pooling: str,
        device: torch.device | str = "cpu",
    ) -> None:
        self._map = one.to(device)
        self._bounded = one.is_bounded
        self._displacement = one.displacement_on(device)
        self._weights = strengths.to(device, torch.float32)[:, None]
        self._still = self._weights == 0
        self._pooling = pooling

    def __call__(self, output: Float[Tensor, "rows ..."], axis: int) -> Float[Tensor, "rows ..."]:
        """What becomes of an output; computed in float32 at least, and rounded once.

        Args:
            output: A module's output.
            axis: Axis of its neurons, see `neurons_axis`.
        """
        if self._pooling == "mean" and is_image(output, axis):
            step = torch.where(self._still, _NOTHING, self._weights * self._of_means(output))
            return _rounded(torch.add, output, output, per_neuron(step, output, axis))
        if not self._bounded:
            factor, summand = (per_neuron(one, output, axis) for one in self._affine)
            return _rounded(_scaled_and_shifted, output, output, factor, summand)
        return self._within_support(output, axis)

    @functools.cached_property
    def _affine(self) -> tuple[Float[Tensor, "rows neurons"], Float[Tensor, "rows neurons"]]:
        """Factor and summand of x + λ (T(x) - x), where no support interferes."""
        factor = 1.0 + self._weights * (self._map.scale - 1)
        summand = self._weights * self._map.shift
        return torch.where(self._still, 1.0, factor), torch.where(self._still, _NOTHING, summand)

    def _of_means(self, output: Tensor) -> Float[Tensor, "rows neurons"]:
        dtype = torch.promote_types(output.dtype, torch.float32)
        return self._displacement(output.mean(tuple(range(2, output.dim())), dtype=dtype))

    def _within_support(self, output: Tensor, axis: int) -> Tensor:
        places = output.movedim(axis, -1)
        exact = places.to(torch.promote_types(output.dtype, torch.float32))
        rows = (-1, *[1] * (output.dim() - 1))
        moved = torch.addcmul(exact, self._weights.reshape(rows), self._displacement(exact))
        kept = torch.where(self._still.reshape(rows), places, moved.to(output.dtype))
        return kept.movedim(-1, axis)


def transport_output(
    output: Float[Tensor, "rows ..."],
    one: AffineMap,
    strengths: Float[Tensor, " rows"],
    axis: int,
    pooling: str,
) -> Float[Tensor, "rows ..."]:
    """Moves an output by a map that is used once, see `Placed`."""
    return Placed(one, strengths, pooling, output.device)(output, axis)


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
