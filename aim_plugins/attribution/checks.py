"""What is refused before it becomes part of what all examples share."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from aim_plugins.modulation.components import Components


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
    values: Float[Tensor, "masks examples"], names: Sequence[str], first: str, start: int = 0
) -> None:
    """Refuses outputs that are not finite, of which one example's would spoil those of all.

    Args:
        values: Outputs.
        names: Names of the examples.
        first: What a row is, in a word, such as "mask".
        start: Number of the first row.

    Raises:
        ValueError: If one is not finite; its example and row are named.
    """
    if not values.isfinite().all():
        row, place = (~values.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"the output of example {names[place]!r} under {first} {start + row} is "
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
