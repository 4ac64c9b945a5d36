"""What a suite leaves out, by name: combinations that training reaches, and stretches of ranges.

A combination that many training inputs reach and no input of the suite does is behaviour that the
model learned and nobody tests. The inputs nearest to it are where to begin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.coverage.criteria.boundary import KMNC
from aim_plugins.coverage.criteria.combinations import IDC, describe_cluster, middles
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.reference import ImportantSet


@dataclass(frozen=True)
class Gap:
    """A combination of important neurons' clusters that training reaches and the suite does not.

    Attributes:
        label: What the neurons are important for.
        code: The combination, as IDC numbers it.
        description: The range of each neuron's activation.
        training_inputs: How many training inputs reach it.
        example: One of them, by its position in the training set.
        nearest: The input of the suite that is nearest to it, by its position there.
        distance: How far that is, in standard deviations of the neurons.
        differs: The neurons whose activation keeps the nearest input out of it.
    """

    label: str
    code: int
    description: str
    training_inputs: int
    example: int
    nearest: int
    distance: float
    differs: tuple[str, ...]


@dataclass(frozen=True)
class Stretch:
    """The widest part of a neuron's training range that no input of the suite reaches.

    Attributes:
        neuron: Its name.
        low: Lower end, in units of the activation.
        high: Upper end.
        share: Its width, as a share of the range.
        buckets: Number of KMNC's buckets in it.
        column: The neuron's column.
    """

    neuron: str
    low: float
    high: float
    share: float
    buckets: int
    column: int


def find_gaps(
    idc: IDC,
    important: ImportantSet,
    activations: Float[Tensor, "inputs important"],
    positions: Int[Tensor, " inputs"],
    most: int,
) -> list[Gap]:
    """The gaps that most training inputs reach.

    Args:
        idc: What the suite has reached.
        important: The neurons, and what training inputs reach.
        activations: Of the important neurons, for every input of the suite.
        positions: Where these inputs stand in the suite.
        most: How many to find.

    Returns:
        The gaps; none where there are too many combinations to number them.
    """
    if not idc.is_decodable or not len(activations):
        return []
    reached = important.reached
    missing = (~torch.isin(reached.codes, idc.found[0])).nonzero().flatten()
    order = reached.counts[missing].argsort(descending=True, stable=True)[:most]
    spread = activations.double().std(0, correction=0).clamp(min=1e-12)
    gaps = []
    for place in missing[order].tolist():
        code = int(reached.codes[place])
        outside = _outside(idc, code, activations.double()) / spread
        distances = outside.norm(dim=1)
        nearest = int(distances.argmin())
        gaps.append(
            Gap(
                idc.label,
                code,
                idc.describe(code),
                int(reached.counts[place]),
                int(reached.examples[place]),
                int(positions[nearest]),
                float(distances[nearest]),
                _differing(idc, code, outside[nearest]),
            )
        )
    return gaps


def _outside(
    idc: IDC, code: int, activations: Float[Tensor, "inputs important"]
) -> Float[Tensor, "inputs important"]:
    """How far each activation is from the cluster that a combination wants it in."""
    lows, highs = [], []
    for centres, place in zip(idc.important.centres, idc.decode(code), strict=True):
        ends = [-math.inf, *middles(centres), math.inf]
        lows.append(ends[place])
        highs.append(ends[place + 1])
    low, high = (torch.tensor(ends, dtype=torch.float64) for ends in (lows, highs))
    return (low - activations).clamp(min=0) + (activations - high).clamp(min=0)


def _differing(idc: IDC, code: int, outside: Float[Tensor, " important"]) -> tuple[str, ...]:
    important = idc.important
    rows = zip(important.columns, important.centres, idc.decode(code), outside, strict=True)
    return tuple(
        describe_cluster(idc.layers.neuron_name(column), centres, place)
        for column, centres, place, distance in rows
        if distance > 0
    )


def find_stretches(kmnc: KMNC, layers: Layers, most: int) -> list[Stretch]:
    """The neurons whose training range the suite leaves out the widest stretches of.

    Args:
        kmnc: What the suite has reached.
        layers: The neurons.
        most: How many to find.
    """
    reached = kmnc.reached.reshape(-1, kmnc.buckets).numpy()
    starts, lengths = _longest_gaps(reached)
    ranged = (kmnc.high > kmnc.low).numpy()
    order = np.argsort(-np.where(ranged, lengths, -1), kind="stable")[:most]
    found = []
    for neuron in order.tolist():
        if not ranged[neuron] or lengths[neuron] < 1:
            break
        low, high = float(kmnc.low[neuron]), float(kmnc.high[neuron])
        width = (high - low) / kmnc.buckets
        begin = low + width * float(starts[neuron])
        found.append(
            Stretch(
                layers.neuron_name(neuron),
                begin,
                begin + width * float(lengths[neuron]),
                float(lengths[neuron]) / kmnc.buckets,
                int(lengths[neuron]),
                neuron,
            )
        )
    return found


def _longest_gaps(reached: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and length of the longest run of False in each row, bucket by bucket."""
    best = np.zeros(len(reached), dtype=np.int64)
    ends = np.zeros(len(reached), dtype=np.int64)
    running = np.zeros(len(reached), dtype=np.int64)
    for bucket in range(reached.shape[1]):
        running = np.where(reached[:, bucket], 0, running + 1)
        longer = running > best
        best[longer], ends[longer] = running[longer], bucket + 1
    return ends - best, best
