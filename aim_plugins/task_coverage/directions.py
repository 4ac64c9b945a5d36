"""Coverage along learned directions: concepts in the place of neurons.

RACA (arXiv:2602.02280) holds that neurons of a language model are too many, and mostly beside what
a test is about: it takes representations of concepts, scores how strongly a test activates each,
and covers scores alone and together. Here a concept's representation is the shift that a
transport learned at a site, such as the difference of means of CAA; the score of a document is the
projection of its mean activation there on the shift's direction. Ranges are those of the reference
documents. KMNC, NBC and SNAC cover single scores; TKNC and TKNP the directions that are strongest
together, each score measured in its own range, since activations grow with depth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.coverage.criteria.boundary import KMNC, NBC, SNAC
from aim_plugins.coverage.criteria.criterion import Batch, Criterion
from aim_plugins.coverage.criteria.top import TKNC, TKNP
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.reference import Reference
from aim_plugins.task_coverage.settings import TaskCoverageSettings
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.vectors import affine_maps

DIRECTIONS = "directions"
OF_DIRECTIONS = ("KMNC", "NBC", "SNAC", "TKNC", "TKNP")
"""Criteria that make sense of scores."""


@dataclass(frozen=True, eq=False)
class Directions:
    """Directions of unit length, one at each of some sites.

    Attributes:
        layers: The sites, with their numbers of neurons.
        vectors: The direction at each site.
        fingerprint: Of the transport that they are from.
    """

    layers: Layers
    vectors: tuple[Float[Tensor, " _"], ...]
    fingerprint: str

    @property
    def columns(self) -> Layers:
        """The scores: one for each site."""
        return Layers(self.layers.names, (1,) * len(self.layers.names))

    def project(
        self, activations: Float[Tensor, "documents neurons"]
    ) -> Float[Tensor, "documents directions"]:
        """Scores of documents.

        Args:
            activations: Means over tokens at all sites, side by side.
        """
        parts = (activations[:, place] for place in self.layers.slices)
        # In float64 a score does not depend on how many documents are projected together.
        scores = [
            part.double() @ one.double() for part, one in zip(parts, self.vectors, strict=True)
        ]
        return torch.stack(scores, 1).float()


def read_directions(transport: LearnedTransport, folder: str | Path) -> Directions:
    """The directions of a transport whose maps only shift.

    Args:
        transport: The transport.
        folder: Where it lies, for errors.

    Raises:
        ValueError: If a map scales neurons, so that it has no direction of its own, or all of them
            shift nothing.
    """
    vectors: dict[str, Tensor] = {}
    for site, one in affine_maps(transport.maps.maps, f"directions={str(folder)!r}").items():
        if not bool((one.scale == 1).all()):
            raise ValueError(
                f"directions={str(folder)!r} was learned by method={transport.metadata.method!r}, "
                f"whose map of {site!r} scales neurons: give a transport that shifts alone, of "
                "method mean, caa, actadd, iti or pca"
            )
        if bool((one.shift != 0).any()):
            vectors[site] = one.shift.float() / one.shift.float().norm()
    if not vectors:
        raise ValueError(f"directions={str(folder)!r} shifts nothing: learn another transport")
    sizes = tuple(len(one) for one in vectors.values())
    return Directions(Layers(tuple(vectors), sizes), tuple(vectors.values()), transport.fingerprint)


class _InOwnRange:
    """Makes a criterion of the most active neurons see scores in units of their ranges.

    Args:
        reference: What is known of the reference documents.
        top: How many of the strongest directions count.
    """

    def __init__(self, reference: Reference, top: int) -> None:
        layers = Layers((DIRECTIONS,), (reference.layers.neurons,))
        super().__init__(layers, top)  # type: ignore[call-arg]
        ranged = reference.high > reference.low
        self.low = reference.low
        # A score without a range is 0.
        self.span = torch.where(ranged, reference.high - reference.low, torch.inf)

    def units(self, batch: Batch) -> Int[Tensor, "inputs marks"]:
        scaled = replace(batch, neurons=(batch.neurons - self.low) / self.span)
        return super().units(scaled)  # type: ignore[misc]


class TopDirections(_InOwnRange, TKNC):
    """Directions that were among the strongest, each in units of its range."""

    summary = "directions that were among the strongest, each within its range"
    source = "DeepGauge, arXiv:1803.07519, section 3.2, on the scores of RACA, arXiv:2602.02280"


class DirectionPatterns(_InOwnRange, TKNP):
    """Sets of the strongest directions, each in units of its range."""

    summary = "patterns of the strongest directions, each within its range"
    source = TopDirections.source


def direction_criteria(
    reference: Reference, settings: TaskCoverageSettings
) -> dict[str, Criterion]:
    """Criteria of scores that have seen nothing, by name."""
    layers, low, high = reference.layers, reference.low, reference.high
    makers: dict[str, Callable[[], Criterion]] = {
        "KMNC": lambda: KMNC(layers, low, high, settings.kmnc_buckets),
        "NBC": lambda: NBC(layers, low, high),
        "SNAC": lambda: SNAC(layers, low, high),
        "TKNC": lambda: TopDirections(reference, settings.direction_k),
        "TKNP": lambda: DirectionPatterns(reference, settings.direction_k),
    }
    return {name: makers[name]() for name in OF_DIRECTIONS if name in settings.criteria}
