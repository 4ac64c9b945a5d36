"""In which order components are ablated: by the paper's statistic, or by what margins are foreseen.

The statistic looks at one component at a time, and not at what its ablation costs the references;
in a narrow network, where few components serve one class alone, that is much. Attributions foresee
the margins under any ablation, so components can be chosen together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.attribution.attributions import Attributions
from aim_plugins.attribution.edit import edit_scores, edited_components
from vision_bench.attribution.editing.choice import Trial
from vision_bench.attribution.editing.choices import STATISTIC

_PRICE = 2.0
"""How much more the references' lost margins weigh than what the targets lack."""


def by_statistic(
    targets: Float[Tensor, "targets components"],
    references: Float[Tensor, "references components"],
    count: int,
    *,
    lower: bool,
) -> list[int]:
    """The components of the most telling t-statistics, as COAR-Edit takes them.

    Args:
        targets: Attributions of the images that are to change.
        references: Attributions of those that are to stay.
        count: How many components.
        lower: Whether margins of the targets are to be lowered.
    """
    scores = edit_scores(targets, references)
    return edited_components(scores, count, "lower" if lower else "raise")


def by_margins(
    targets: Float[Tensor, "targets components"],
    references: Float[Tensor, "references components"],
    margins: tuple[Float[Tensor, " targets"], Float[Tensor, " references"]],
    count: int,
    *,
    lower: bool,
) -> list[int]:
    """Components one after another, each the one that leaves the best margins to be foreseen.

    What counts is by how much targets lack a margin of the usual size on the other side, or on
    theirs if they are to be raised, and twice what references have lost.

    Args:
        targets: Attributions of the images that are to change.
        references: Attributions of those that are to stay.
        margins: Those of both as foreseen without any ablation.
        count: How many components.
        lower: Whether margins of the targets are to be lowered.
    """
    sign = -1.0 if lower else 1.0
    wanted = float((margins[0].abs().sum() + margins[1].abs().sum()) / sum(map(len, margins)))
    now, lost = sign * margins[0], margins[1].new_zeros(len(margins[1]))
    order: list[int] = []
    for _ in range(count):
        lacking = (wanted - (now[:, None] - sign * targets)).clamp(min=0).mean(0)
        costs = lacking + _PRICE * (lost[:, None] + references).clamp(min=0).mean(0)
        costs[order] = float("inf")
        best = int(costs.argmin())
        order.append(best)
        now, lost = now - sign * targets[:, best], lost + references[:, best]
    return order


def trials_of(
    attributions: Attributions,
    count: int,
    sizes: Sequence[int],
    orders: Sequence[str],
    *,
    lower: bool,
) -> list[Trial]:
    """The edits to try, the smallest first.

    Args:
        attributions: Of the targets, then of the references.
        count: How many targets there are.
        sizes: Numbers of components, ascending.
        orders: Names of the orders.
        lower: Whether margins of the targets are to be lowered.
    """
    targets, references = attributions.weights[:count], attributions.weights[count:]
    whole = torch.zeros(1, targets.shape[1], dtype=torch.bool)
    margins = attributions.predict(whole)[0]
    found = {}
    for name in orders:
        if name == STATISTIC:
            found[name] = by_statistic(targets, references, sizes[-1], lower=lower)
        else:
            given = margins[:count], margins[count:]
            found[name] = by_margins(targets, references, given, sizes[-1], lower=lower)
    return [Trial(name, tuple(order[:size])) for size in sizes for name, order in found.items()]
