"""What is refused before it becomes part of what all examples share."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from aim_plugins.core.devices import machine_memory
from aim_plugins.modulation.components import Components

_MATRICES = 4
"""Matrices as large as that of masks, or of components, that a fit has in memory at a time."""


def check_mode(model: nn.Module) -> None:
    """Refuses a model in train mode, whose outputs are drawn or depend on the batch.

    Raises:
        ValueError: If a part of it is in train mode, which is named.
    """
    for name, module in model.named_modules():
        if module.training:
            raise ValueError(
                f"model: {name or type(module).__name__} is in train mode, so that outputs are "
                "drawn or depend on the batch: call model.eval()"
            )


def check_finite(
    values: Float[Tensor, "masks examples"], names: Sequence[str], row_word: str, start: int = 0
) -> None:
    """Refuses outputs that are not finite, of which one example's would spoil those of all.

    Args:
        values: Outputs.
        names: Names of the examples.
        row_word: What a row is, such as "mask".
        start: Number of the first row.

    Raises:
        ValueError: If one is not finite; its example and row are named.
    """
    if not values.isfinite().all():
        row, place = (~values.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"the output of example {names[place]!r} under {row_word} {start + row} is "
            f"{values[row, place]:g}: leave that example out, or run the model in float32"
        )


def check_derivatives(
    values: Float[Tensor, "examples components"], names: Sequence[str], components: Components
) -> None:
    """Refuses derivatives that are not finite.

    Args:
        values: Derivatives of outputs by components.
        names: Names of the examples.
        components: The components.

    Raises:
        ValueError: If one is not finite; its example and component are named.
    """
    if not values.isfinite().all():
        place, number = (~values.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"the derivative of example {names[place]!r} by {components.name(number)} is "
            f"{values[place, number]:g}: leave that example out, or run the model in float32"
        )


def check_memory(rows: int, components: int) -> None:
    """Refuses a matrix, with its factors and the room to find them, that the machine cannot hold.

    Args:
        rows: How many masks there are.
        components: How many components.

    Raises:
        ValueError: If it does not fit; what is needed is said.
    """
    side = min(rows, components)
    needed = _MATRICES * 8 * side**2
    if needed > (held := machine_memory()):
        raise ValueError(
            f"masks={rows} of {components} components need {needed / 1e9:.0f} GB for matrices of "
            f"{side} x {side}, and this machine has {held / 1e9:.0f} GB: plan fewer masks, and "
            "gradient_passes in their place"
        )
