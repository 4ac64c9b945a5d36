"""Attributors by name."""

from __future__ import annotations

from aim_plugins.core.errors import did_you_mean
from aim_plugins.coverage.relevance.attributor import Attributor
from aim_plugins.coverage.relevance.captum_attributors import CAPTUM_ATTRIBUTORS
from aim_plugins.coverage.relevance.gradient import LRPEpsilon

DEFAULT_ATTRIBUTOR = LRPEpsilon.name

_KINDS: tuple[type[Attributor], ...] = (LRPEpsilon, *CAPTUM_ATTRIBUTORS)

ATTRIBUTORS: dict[str, type[Attributor]] = {kind.name: kind for kind in _KINDS}
"""Every attributor: our LRP-ε, and captum's by the short names of the WISDOM tool."""


def make_attributor(name: str = DEFAULT_ATTRIBUTOR, reduction: str = "mean") -> Attributor:
    """An attributor by name.

    Args:
        name: A key of `ATTRIBUTORS`.
        reduction: See `Attributor`.

    Raises:
        ValueError: If there is none of this name, or no such reduction.

    >>> make_attributor("lc").captum_name
    'LayerConductance'
    """
    if name not in ATTRIBUTORS:
        raise ValueError(f"attributor={name!r}: {did_you_mean(name, ATTRIBUTORS)}")
    return ATTRIBUTORS[name](reduction)
