"""Learning the map of a site, and what is found while doing so."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.modulation.activation_map import ActivationMap
from aim_plugins.transport.holdout import held_share, moved_spreads
from aim_plugins.transport.incremental import TITLES
from aim_plugins.transport.maps import fit_map
from aim_plugins.transport.metadata import MapsMetadata
from aim_plugins.transport.methods.method import Method
from aim_plugins.transport.statistics import constant_neurons, separation
from aim_plugins.transport.summary import moves_text, share_text

logger = logging.getLogger(__name__)

ENOUGH = 2 / 3
"""Share of the maps' moves that has to hold on held-out inputs for a fit to keep quiet."""


@dataclass(frozen=True)
class FittedSite:
    """What the fit found at a site.

    Attributes:
        site: The site.
        constant_neurons: Neurons whose source responses are all the same.
        moved: How far the map moves source responses, in units of their spread; see `holdout`. This
            and the next are None where they are unknown.
        held: The share of it that holds on inputs held out from the fit.
        separation: Of methods that settle sites with each other, how far apart the sides are along
            the difference of their means; see `statistics.separation`.
    """

    site: str
    constant_neurons: int
    moved: float | None
    held: float | None
    separation: float | None = None


def learn_site(
    method: Method,
    support: str,
    responses: Float[Tensor, "responses neurons"],
    owners: Int[Tensor, " responses"],
    n_source: int,
    site: str,
    *,
    measure: bool = True,
) -> tuple[ActivationMap, FittedSite]:
    """Learns the map of a site from the responses of both sides.

    Args:
        method: The method.
        support: Where the map acts.
        responses: The responses in the order of their inputs, those of the source first.
        owners: The input of each response; the source has the numbers below `n_source`.
        n_source: Source inputs.
        site: The site's name.
        measure: Whether to find how far the map moves and what of it holds, which takes several
            fits.

    Returns:
        The map, and what was found.

    Raises:
        ValueError: If the responses do not allow a fit.
    """
    count = int((owners < n_source).sum())
    source, target = responses[:count], responses[count:]
    learned = fit_map(method, support, source, target, site)
    moved, held, apart = None, None, None
    sides = owners[:count], owners[count:] - n_source
    if method.shared:
        apart = separation(source, target, sides)
    elif measure:
        moved = moved_spreads(learned, source, target)
        held = held_share(method, support, source, target, sides)
    # A single response is no ground to call a neuron constant.
    constant = int(constant_neurons(source).sum()) if count > 1 else 0
    return learned, FittedSite(site, constant, moved, held, apart)


def describe_sites(
    found: Sequence[FittedSite], n_source: int, n_target: int, *, inputs: str, outputs: str
) -> dict[str, Any]:
    """What the metadata say of all sites; warns of maps that chance made, and of dead neurons.

    Args:
        found: The findings.
        n_source: Source inputs.
        n_target: Target inputs.
        inputs: What the inputs are called, such as "sentences".
        outputs: What the model makes of them, such as "texts".
    """
    moved, held = (_mean(getattr(one, name) for one in found) for name in ("moved", "held"))
    constant = {one.site: one.constant_neurons for one in found if one.constant_neurons}
    if constant:
        most = max(constant, key=lambda site: constant[site])
        logger.warning(
            "%d neurons at %d sites never change over the source %s, most of them (%d) at "
            "%s: only their means are transported. More or more varied %s may mend it",
            *(sum(constant.values()), len(constant), inputs, constant[most], most, inputs),
        )
    if held is not None and held < ENOUGH:
        logger.warning(
            "%s of what the maps do holds on %s held out from the fit; the rest is "
            "chance of these %d + %d %s, and %s may break down: give more %s",
            *(share_text(held), inputs, n_source, n_target, inputs, outputs, inputs),
        )
    return {"constant_neurons": constant, "moved": moved, "held": held}


def fit_report(
    metadata: MapsMetadata, found: Sequence[FittedSite], seconds: float, folder: Path
) -> str:
    """What was fitted, in a few lines.

    Args:
        metadata: What is known of the maps.
        found: The findings.
        seconds: How long it took.
        folder: Where the transport lies.
    """
    return "\n".join(
        [
            f"{len(metadata.sites)} sites fitted ({metadata.method}, "
            f"{TITLES[metadata.incremental]}) on {metadata.n_source} + "
            f"{metadata.n_target} {metadata.INPUTS} in {seconds:.1f} s: {folder}",
            f"at strength 1, source responses move by {moves_text(metadata)}",
            *_extremes(found),
            f"constant neurons: {sum(metadata.constant_neurons.values())}",
        ]
    )


def _extremes(found: Sequence[FittedSite]) -> list[str]:
    """The sites where responses move most, and where least of it holds."""
    moved = [(one.moved, one.site) for one in found if one.moved is not None]
    held = [(one.held, one.site) for one in found if one.held is not None]
    apart = [(one.separation, one.site) for one in found if one.separation is not None]
    lines = []
    if apart:
        most, site = max(apart)
        lines.append(f"sides furthest apart at {site} ({most:.2g} deviations of a side)")
    if moved:
        most, site = max(moved)
        lines.append(f"most at {site} ({most:.2f})")
    if held:
        least, site = min(held)
        lines.append(f"least of it holds at {site} ({share_text(least)})")
    return [", ".join(lines)] if lines else []


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
