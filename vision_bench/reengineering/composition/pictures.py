"""Heat maps of what modules share: of each pair, and of each layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize

from aim_plugins.sweep.heat_maps import draw_matrix
from vision_bench.reengineering.composition.findings import Findings

_LONGEST = 28
"""Characters of a name beside a heat map."""


def draw_overlaps(found: Findings) -> dict[str, bytes]:
    """Draws what modules share, and in the mirrored cells what they would by chance.

    Returns:
        The content of the picture's files by suffix.
    """
    names = list(found.modules)
    values = np.full((len(names), len(names)), np.nan)
    for one in found.shared:
        first, second = one.overlap.first, one.overlap.second
        values[first, second] = one.same_layers.expected
        values[second, first] = one.jaccard
    return draw_matrix(
        values,
        _short(names),
        _short(names),
        title=f"{found.noun.capitalize()} that two modules share",
        note="above the diagonal as found, below it by chance within layers",
        norm=Normalize(0, 1),
        slanted=True,
    )


def draw_layers(found: Findings) -> dict[str, bytes]:
    """Draws by how much modules share more of each layer than by chance.

    Returns:
        The content of the picture's files by suffix.
    """
    layers = list(found.shared[0].overlap.layers)
    values = np.array(
        [
            [one.overlap.layers[name].jaccard - one.by_layer[name].expected for one in found.shared]
            for name in layers
        ]
    )
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    return draw_matrix(
        # Rows count from below, and layers from the input.
        values[::-1],
        _short(layers[::-1]),
        [" / ".join(_short(one.names, _LONGEST // 2)) for one in found.shared],
        title=f"{found.noun.capitalize()} shared in each layer, above chance",
        note="Jaccard index less that by chance; input above",
        norm=Normalize(min(low, 0.0), max(high, 0.05)),
        slanted=True,
    )


def _short(names: Sequence[str], longest: int = _LONGEST) -> list[str]:
    """
    >>> _short(["3, 5", "a name that is much too long to stand there"], 12)
    ['3, 5', 'a name that…']
    """
    return [one if len(one) <= longest else f"{one[: longest - 1].rstrip()}…" for one in names]
