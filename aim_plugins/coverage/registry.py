"""Makes criteria by name."""

from __future__ import annotations

from collections.abc import Callable

from aim_plugins.coverage.criteria.boundary import KMNC, NBC, NC, SNAC
from aim_plugins.coverage.criteria.class_combinations import ClassIDC
from aim_plugins.coverage.criteria.clusters import CC
from aim_plugins.coverage.criteria.combinations import IDC
from aim_plugins.coverage.criteria.compatible import (
    CompatibleCC,
    CompatibleKMNC,
    CompatibleNBC,
    CompatibleNLC,
    CompatibleSNAC,
    CompatibleTKNC,
    CompatibleTKNP,
)
from aim_plugins.coverage.criteria.compatible_surprise import (
    CompatibleDSC,
    CompatibleLSC,
    CompatibleMDSC,
)
from aim_plugins.coverage.criteria.covariance import NLC
from aim_plugins.coverage.criteria.criterion import Criterion
from aim_plugins.coverage.criteria.surprise import DSC, LSC, MDSC, ClassTraces
from aim_plugins.coverage.criteria.top import TKNC, TKNP
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.moments import ClassMoments
from aim_plugins.coverage.reference import ImportantSet, Reference
from aim_plugins.coverage.settings import CriteriaSettings

Maker = Callable[[Reference, CriteriaSettings], Criterion]

MAKERS: dict[str, Maker] = {
    "NC": lambda ref, how: NC(ref.layers, how.nc_threshold),
    "KMNC": lambda ref, how: KMNC(ref.layers, ref.low, ref.high, how.kmnc_buckets),
    "NBC": lambda ref, how: NBC(ref.layers, ref.low, ref.high),
    "SNAC": lambda ref, how: SNAC(ref.layers, ref.low, ref.high),
    "TKNC": lambda ref, how: TKNC(ref.layers, how.top_k),
    "TKNP": lambda ref, how: TKNP(ref.layers, how.top_k),
    "CC": lambda ref, how: CC(ref.layers, how.cc_threshold),
    "LSC": lambda ref, how: LSC(traces_of(ref, "LSC"), how.lsc_width, group=_surprise(ref)),
    "DSC": lambda ref, how: DSC(traces_of(ref, "DSC"), how.dsc_width, group=_surprise(ref)),
    "MDSC": lambda ref, how: MDSC(moments_of(ref), how.mdsc_width, group=_surprise(ref)),
    "NLC": lambda ref, how: NLC(ref.layers),
}
"""By name, what makes a criterion that has seen nothing. IDC has one for each set of neurons."""

COMPATIBLE_MAKERS: dict[str, Maker] = {
    "NC": MAKERS["NC"],
    "KMNC": lambda ref, how: CompatibleKMNC(ref.layers, ref.low, ref.high, how.kmnc_buckets),
    "NBC": lambda ref, how: CompatibleNBC(ref.layers, ref.low, ref.high),
    "SNAC": lambda ref, how: CompatibleSNAC(ref.layers, ref.low, ref.high),
    "TKNC": lambda ref, how: CompatibleTKNC(ref.layers, how.top_k),
    "TKNP": lambda ref, how: CompatibleTKNP(ref.layers, how.top_k),
    "CC": lambda ref, how: CompatibleCC(ref.layers, how.cc_threshold),
    "LSC": lambda ref, how: CompatibleLSC(ref.layers, traces_of(ref, "LSC"), how.lsc_width),
    "DSC": lambda ref, how: CompatibleDSC(ref.layers, traces_of(ref, "DSC"), how.dsc_width),
    "MDSC": lambda ref, how: CompatibleMDSC(ref.layers, traces_of(ref, "MDSC"), how.mdsc_width),
    "NLC": lambda ref, how: CompatibleNLC(ref.layers),
}
"""The same as the library NeuraL-Coverage has them."""


def make_criteria(reference: Reference, settings: CriteriaSettings) -> dict[str, Criterion]:
    """Makes criteria that have seen nothing, by their labels.

    A label is a criterion's name; those of further sets of important neurons are "IDC SET".

    Raises:
        ValueError: If the reference was learned without what one of them needs.
    """
    makers = MAKERS if settings.compat == "none" else COMPATIBLE_MAKERS
    made: dict[str, Criterion] = {}
    for name in settings.criteria:
        if name == "IDC":
            made |= {
                idc_label(place, one.neurons.label): make_idc(reference.layers, one)
                for place, one in enumerate(reference.important)
            }
        else:
            made[name] = makers[name](reference, settings)
    return made


def make_idc(layers: Layers, important: ImportantSet) -> IDC:
    """The IDC of a set of important neurons."""
    if important.class_index is None:
        return IDC(layers, important.neurons)
    return ClassIDC(layers, important.neurons, important.class_index)


def idc_label(place: int, label: str) -> str:
    """What the IDC of a reference's sets of important neurons is called; the first is plain."""
    return "IDC" if place == 0 else f"IDC {label}"


def traces_of(reference: Reference, name: str) -> ClassTraces:
    """The traces of a reference.

    Raises:
        ValueError: If it has none.
    """
    if reference.traces is None:
        raise ValueError(f"criteria: {name} needs training activations, which this reference lacks")
    return reference.traces


def moments_of(reference: Reference) -> ClassMoments:
    """The moments of a reference.

    Raises:
        ValueError: If it has none.
    """
    if reference.moments is None:
        raise ValueError("criteria: MDSC needs training covariances, which this reference lacks")
    return reference.moments


def _surprise(reference: Reference) -> str:
    return reference.metadata.surprise_layer
