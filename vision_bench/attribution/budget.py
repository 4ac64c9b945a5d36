"""Attributions from parts of a component dataset: what more masks would buy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from aim_plugins.attribution.attributions import Attributions
from aim_plugins.attribution.dataset import ComponentDataset
from aim_plugins.attribution.fit import fit_attributions
from vision_bench.attribution.findings import COAR, LEAST_SQUARES, RIDGE
from vision_bench.attribution.init import GRADIENT_COST

_HALVINGS = 4
"""The smallest part is the whole halved so often."""

_LARGEST = 4000
"""Masks or components, whichever are fewer, above which a fit takes too long to be repeated."""


def part_of(dataset: ComponentDataset, masks: int, *, gradients: bool) -> ComponentDataset:
    """The first masks of a dataset, as if no more had been asked for.

    Args:
        dataset: The whole.
        masks: How many masks.
        gradients: Whether the masks with gradients, and these, are there too. Without, such masks
            are ordinary ones behind the others.
    """
    plan = dataset.plan
    rows = list(range(masks))
    if gradients:
        rows += range(plan.masks, plan.rows)
        own = dataclasses.replace(plan, masks=masks)
    else:
        own = dataclasses.replace(plan, masks=masks, gradient_passes=0)
    packed = np.asarray(dataset.packed[0 : plan.rows])[rows]
    values = np.asarray(dataset.values[0 : plan.rows])[rows]
    if not gradients:
        return ComponentDataset(own, packed, values)
    return ComponentDataset(own, packed, values, dataset.kept, dataset.change)


def fits_by_budget(
    dataset: ComponentDataset, prior: Literal["gradient"] | None
) -> Iterator[tuple[str, float, Attributions]]:
    """Attributions of every kind from parts of a dataset.

    Args:
        dataset: The whole.
        prior: Whether attributions go by gradients too.

    Yields:
        What kind they are, what they cost in forward passes, and they. The whole dataset is not
        fitted to by gradients, as this is the fit that is evaluated.
    """
    plan, components = dataset.plan, dataset.components
    if prior is not None:
        for masks in parts(plan.masks, least=0)[:-1]:
            part = part_of(dataset, masks, gradients=True)
            if part.plan.rows >= 2 and _is_quick(part.plan.rows, components):
                found = fit_attributions(part, prior=prior)
                yield COAR, passes_of(masks, plan.gradient_passes), found
    for masks in parts(plan.rows, least=10):
        if not _is_quick(masks, components):
            continue
        part = part_of(dataset, masks, gradients=False)
        yield RIDGE, float(masks), fit_attributions(part, prior=None)
        yield LEAST_SQUARES, float(masks), fit_attributions(part, prior=None, penalty=0.0)


def passes_of(masks: int, gradients: int) -> float:
    """What masks and gradients cost, in forward passes.

    >>> passes_of(100, 20)
    146.0
    """
    return round(masks + GRADIENT_COST * gradients, 6)


def parts(count: int, least: int) -> Sequence[int]:
    """Numbers of masks to try, rising by factors of 2, the last one all.

    >>> parts(1000, 10)
    [62, 125, 250, 500, 1000]
    >>> parts(100, 0)
    [0, 6, 12, 25, 50, 100]
    """
    halved = {count >> times for times in range(_HALVINGS + 1)}
    return sorted({one for one in halved if one >= max(least, 1)} | ({0} if not least else set()))


def _is_quick(rows: int, components: int) -> bool:
    return min(rows, components) <= _LARGEST
