"""What a suite leaves out, with the images nearest to it: one more pass over the suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.coverage.criteria.boundary import KMNC
from aim_plugins.coverage.criteria.combinations import IDC
from aim_plugins.coverage.gaps import Gap, Stretch, find_gaps, find_stretches
from aim_plugins.coverage.profile import Profile
from aim_plugins.coverage.reference import ImportantSet, Reference
from aim_plugins.coverage.registry import idc_label
from vision_bench.coverage.subject import Subject
from vision_bench.data.classification import ClassificationData

_GAPS = 12
"""Gaps that are looked for in each set of important neurons."""
_STRETCHES = 12


@dataclass(frozen=True)
class NearStretch:
    """A stretch of a neuron's range that the suite leaves out, and the image nearest to it.

    Attributes:
        stretch: The stretch.
        nearest: The image whose activation is nearest to its middle, by its position.
        activation: Its activation.
    """

    stretch: Stretch
    nearest: int
    activation: float


@dataclass(frozen=True, eq=False)
class _Rows:
    """Activations of some neurons for the images of a suite."""

    columns: Sequence[int]
    activations: Float[Tensor, "images columns"]
    classes: Int[Tensor, " images"]
    positions: Int[Tensor, " images"]

    def of(self, columns: Sequence[int]) -> Float[Tensor, "images columns"]:
        return self.activations[:, [self.columns.index(column) for column in columns]]


def find_left_out(
    subject: Subject,
    reference: Reference,
    profile: Profile,
    suite: ClassificationData,
    positions: Sequence[int],
) -> tuple[list[Gap], list[NearStretch]]:
    """Names what a suite leaves out.

    Args:
        subject: The classifier.
        reference: What training inputs reach.
        profile: What the suite has exercised.
        suite: The suite.
        positions: Its images that were measured.

    Returns:
        Combinations that training reaches and the suite does not, and ranges that it leaves out.
    """
    kmnc = profile.criteria.get("KMNC")
    stretches = []
    if isinstance(kmnc, KMNC):
        stretches = find_stretches(kmnc, reference.layers, _STRETCHES)
    important = reference.important if "IDC" in profile.criteria else ()
    columns = {one.column for one in stretches}
    columns |= {column for one in important for column in one.neurons.columns}
    if not columns:
        return [], []
    rows = _read(subject, suite, positions, sorted(columns))
    gaps: list[Gap] = []
    for place, one in enumerate(important):
        idc = profile.criteria[idc_label(place, one.neurons.label)]
        assert isinstance(idc, IDC)  # by its label
        gaps += _gaps_of(idc, one, rows)
    return gaps, [_near(one, rows) for one in stretches]


def _read(
    subject: Subject, suite: ClassificationData, positions: Sequence[int], columns: Sequence[int]
) -> _Rows:
    activations, classes, places = [], [], []
    for seen in subject.pass_over(suite, positions, "suite: what is left out"):
        activations.append(seen.batch.neurons[:, list(columns)])
        classes.append(seen.batch.classes)
        places.append(seen.positions)
    return _Rows(columns, torch.cat(activations), torch.cat(classes), torch.cat(places))


def _gaps_of(idc: IDC, important: ImportantSet, rows: _Rows) -> list[Gap]:
    own = torch.ones(len(rows.positions), dtype=torch.bool)
    if important.class_index is not None:
        own = rows.classes == important.class_index
    activations = rows.of(important.neurons.columns)[own]
    return find_gaps(idc, important, activations, rows.positions[own], _GAPS)


def _near(stretch: Stretch, rows: _Rows) -> NearStretch:
    activations = rows.of([stretch.column])[:, 0]
    nearest = int((activations - (stretch.low + stretch.high) / 2).abs().argmin())
    return NearStretch(stretch, int(rows.positions[nearest]), float(activations[nearest]))
