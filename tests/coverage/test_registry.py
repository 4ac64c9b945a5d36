"""Criteria by name, with the constants that settings give them."""

from __future__ import annotations

import pytest

from aim_plugins.coverage.criteria.class_combinations import ClassIDC
from aim_plugins.coverage.criteria.combinations import IDC
from aim_plugins.coverage.registry import COMPATIBLE_MAKERS, MAKERS, idc_label, make_criteria
from aim_plugins.coverage.relevance.registry import ATTRIBUTORS as MADE
from aim_plugins.coverage.relevance.wisdom import VOTERS
from aim_plugins.coverage.settings import ATTRIBUTORS, CRITERIA, CriteriaSettings


def test_settings_name_what_can_be_made() -> None:
    assert set(CRITERIA) == {*MAKERS, "IDC"}
    assert MAKERS.keys() == COMPATIBLE_MAKERS.keys()
    assert set(ATTRIBUTORS) == set(MADE)
    assert set(VOTERS) < set(ATTRIBUTORS)


def test_every_criterion_carries_its_name(world) -> None:
    for label, criterion in make_criteria(world.reference, CriteriaSettings()).items():
        assert criterion.name == label.partition(" ")[0]
        assert criterion.summary
        assert criterion.source
        assert criterion.inputs == 0


def test_constants_reach_their_criteria(world) -> None:
    settings = CriteriaSettings(
        nc_threshold=0.25, kmnc_buckets=7, top_k=2, cc_threshold=3.0, lsc_width=4.0,
        dsc_width=0.5, mdsc_width=2.0,
    )  # fmt: skip
    made = make_criteria(world.reference, settings)
    assert made["NC"].threshold == 0.25
    assert made["KMNC"].buckets == 7
    assert (made["TKNC"].top, made["TKNP"].top) == (2, 2)
    assert made["CC"].threshold == 3.0
    assert [made[name].width for name in ("LSC", "DSC", "MDSC")] == [4.0, 0.5, 2.0]


def test_ranges_are_those_of_the_reference(world) -> None:
    made = make_criteria(world.reference, CriteriaSettings())
    low, high = world.training.neurons.amin(0), world.training.neurons.amax(0)
    assert made["KMNC"].low.tolist() == made["NBC"].low.tolist() == low.tolist()
    assert made["SNAC"].high.tolist() == high.tolist()


def test_surprise_is_of_the_layer_before_the_last(world) -> None:
    made = make_criteria(world.reference, CriteriaSettings())
    for name in ("LSC", "DSC", "MDSC"):
        assert made[name].groups == ("fc",)
        assert set(made[name].columns.tolist()) <= set(range(5, 11))


def test_each_set_of_important_neurons_has_an_idc_of_its_own(world) -> None:
    made = make_criteria(world.reference, CriteriaSettings(criteria=("IDC", "NC")))
    assert list(made) == ["IDC", "IDC class b", "NC"]
    assert type(made["IDC"]) is IDC
    assert isinstance(made["IDC class b"], ClassIDC)
    assert made["IDC class b"].important.columns == (6, 10)
    assert idc_label(0, "fc") == "IDC"


@pytest.mark.parametrize("name", ["KMNC", "TKNP", "CC", "NLC"])
def test_the_librarys_quirks_are_chosen_by_name(world, name: str) -> None:
    settings = CriteriaSettings(criteria=(name,), compat="neural-coverage")
    assert type(make_criteria(world.reference, settings)[name]).__name__ == f"Compatible{name}"


def test_the_librarys_surprise_refuses_the_traces_of_one_layer(world) -> None:
    settings = CriteriaSettings(criteria=("LSC",), compat="neural-coverage")
    with pytest.raises(ValueError, match="traces of 6 neurons: compat='neural-coverage' looks at"):
        make_criteria(world.reference, settings)
