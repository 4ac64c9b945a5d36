"""Whether rows of a batch are what factors take them for: components of one act on no other.

Layers are seen one by one, each with whatever axes its model gives it. That rows come first, or
behind the tokens next to an attention that takes them so, is a guess which a model may defeat, as
by turning its activations round inside. Running it tells.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aim_plugins.modulation.ablation import multiplied, uniforms
from aim_plugins.modulation.components import Components

_NEAR = 1e-2
"""Share of the difference between factors of two rows up to which outputs count as equal."""


@torch.no_grad()
def check_rows(
    model: nn.Module,
    run: Callable[[], Float[Tensor, "rows ..."]],
    components: Components,
    owners: Int[Tensor, " batch"] | None = None,
) -> None:
    """Checks that rows of a batch under factors of their own give what each gives alone.

    The model runs once for each row and once more; two or three rows are enough.

    Args:
        model: The model, in eval mode.
        run: Runs it on a batch, always the same, and returns an output for each row of factors.
        components: Components of the model.
        owners: Which row of the factors each row of the batch goes by, where they are others.

    Raises:
        ValueError: If there is a single row, or outputs of rows are not their own; the first site
            by which they are not is named.
    """
    count = len(run())
    if count < 2:
        raise ValueError(f"run gives {count} rows, which cannot be told apart: give two or more")
    if _told_apart(model, run, components, owners, count):
        return
    for start, end in zip(components.starts, components.starts[1:], strict=False):
        own = components.take(range(start, end))
        if not _told_apart(model, run, own, owners, count):
            where = f"={own.sites[0].name!r}"
            break
    else:
        where = ""
    raise ValueError(
        f"components{where}: factors of one row of a batch act on others, as the layer sees rows "
        "in another order or on another axis than the model is given them: run one mask at a time, "
        "or leave such layers out, by a pattern of the others"
    )


def _told_apart(
    model: nn.Module,
    run: Callable[[], Tensor],
    components: Components,
    owners: Tensor | None,
    count: int,
) -> bool:
    # Near 1, so that no part of the model falls silent.
    factors = torch.stack(
        [torch.from_numpy(uniforms(len(components), 0, row)).float() + 0.5 for row in range(count)]
    ).to(next(model.parameters()).device)
    alone = []
    for row in range(count):
        with multiplied(model, components, factors[row : row + 1]):
            alone.append(_flat(run()))
    with multiplied(model, components, factors, owners):
        together = _flat(run())
    each = torch.stack(alone)  # [masks, rows, values]
    spread = (each.amax(0) - each.amin(0)).amax()
    rounding = max(4 * torch.finfo(next(model.parameters()).dtype).eps, 1e-5) * each.abs().amax()
    errors = (together - each[range(count), range(count)]).abs().amax()
    # What is not finite says nothing of rows.
    return not bool(errors > _NEAR * spread + rounding)


def _flat(outputs: Tensor) -> Tensor:
    return outputs.detach().double().cpu().reshape(len(outputs), -1)
