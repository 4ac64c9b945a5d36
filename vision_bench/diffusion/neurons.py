"""Which axis of a module's output holds the neurons, and the output as places with neurons.

Rank does not tell: the queries' norm of a transformer has an output [rows, tokens, heads, neurons],
a convolution one [rows, neurons, height, width]. The module's class does.
"""

from __future__ import annotations

import re

from jaxtyping import Float
from torch import Tensor, nn

# By name, for diffusers moves its classes from module to module between releases.
_FIRST = re.compile(r"GroupNorm|AdaGroupNorm|SpatialNorm|\w*BatchNorm\w*|_ConvNd")
_LAST = re.compile(r"\w*(LayerNorm|RMSNorm)\w*|Linear")
_IMAGE = re.compile(
    # The attention of a UNet or an autoencoder takes an image apart and puts it together again.
    r"\w*Block2D\w*|(Up|Down)sample2D|UNet2D\w*|\w*Transformer2DModel|GLUMBConv|\w*Attention\w*"
    # These norms turn an image round and back.
    r"|LayerNorm2d|\w*CascadeLayerNorm"
)
"""Classes whose output of four axes is an image [rows, neurons, height, width]."""


def neurons_axis(module: nn.Module, output: Tensor, site: str) -> int:
    """The axis of an output on which a module's neurons lie: 1 or -1.

    Args:
        module: The module.
        output: Its output [rows, neurons], [rows, neurons, places...] or
            [rows, places..., neurons].
        site: The site's name, for the error.

    Raises:
        ValueError: If the output has four axes or more and the class is not known, or no axis but
            that of rows.
    """
    names = [one.__name__ for one in type(module).__mro__]
    if output.dim() < 2:
        raise ValueError(
            f"modules: {site!r} has an output of the shape {tuple(output.shape)}, not one of rows "
            "with neurons: leave it out of the pattern"
        )
    if any(map(_FIRST.fullmatch, names)):
        return 1
    if output.dim() == 4 and any(map(_IMAGE.fullmatch, names)):
        return 1
    if output.dim() < 4 or any(map(_LAST.fullmatch, names)):
        return -1
    raise ValueError(
        f"modules: {site!r} has an output of the shape {tuple(output.shape)}, and which axis holds "
        f"the neurons of a {names[0]} is not known: choose a norm, a convolution or a block beside "
        "it"
    )


def is_image(output: Tensor, axis: int) -> bool:
    """Whether an output lays out its places as an image, neurons first, and not as tokens."""
    return axis == 1 and output.dim() > 2


def as_places(output: Float[Tensor, "rows ..."], axis: int) -> Float[Tensor, "rows places neurons"]:
    """An output with its places (pixels or tokens) on one axis and its neurons on the last.

    Args:
        output: The output; heads count as places.
        axis: Axis of its neurons.
    """
    return output.movedim(axis, -1).reshape(len(output), -1, output.shape[axis])


def per_neuron(
    vectors: Float[Tensor, "#rows neurons"], output: Float[Tensor, "rows ..."], axis: int
) -> Float[Tensor, "#rows ..."]:
    """Vectors of neurons, for each row or one for all, broadcasting over an output's places."""
    shape = [len(vectors), *[1] * (output.dim() - 1)]
    shape[axis] = vectors.shape[-1]
    return vectors.reshape(shape)
