"""Profiles of parts of a suite: together they are that of the whole, or are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aim_plugins.coverage.criteria.covariance import NLC
from aim_plugins.coverage.profile import Profile, check_alike, read_metadata, refuse_shared
from aim_plugins.coverage.registry import make_criteria
from aim_plugins.coverage.settings import CRITERIA, CriteriaSettings

CLASSES = {0: "a", 1: "b"}


def _assert_same(one: Profile, other: Profile) -> None:
    assert one.scopes.keys() == other.scopes.keys()
    for scope, criteria in one.scopes.items():
        for label, criterion in criteria.items():
            expected = other.scopes[scope][label]
            assert criterion.inputs == expected.inputs
            state, wanted = criterion.state(), expected.state()
            assert state.keys() == wanted.keys()
            if isinstance(criterion, NLC):
                assert criterion.value == pytest.approx(expected.value, rel=1e-6)
                continue
            assert criterion.value == expected.value, label
            assert criterion.by_layer() == expected.by_layer()
            for name in state:
                assert torch.equal(state[name], wanted[name]), (label, name)


def test_a_profile_has_every_criterion_and_one_idc_for_each_set(world) -> None:
    names = [one for one in CRITERIA if one != "IDC"]
    assert list(world.profile().criteria) == [*names, "IDC", "IDC class b"]


def test_parts_combine_to_the_whole_in_any_order(world) -> None:
    parts = world.split(world.suite, [31, 40, 19])
    whole = world.profile(world.suite, classes=CLASSES)
    for order in ((0, 1, 2), (2, 0, 1)):
        profiles = [world.profile(parts[i], part=str(i), classes=CLASSES) for i in order]
        first = profiles[0]
        for other in profiles[1:]:
            first.combine(other)
        _assert_same(first, whole)
        assert first.inputs == 90
        assert sorted(first.metadata.parts) == ["0", "1", "2"]
        assert first.metadata.data == ["digits"]


def test_a_part_without_inputs_of_a_class_combines_too(world) -> None:
    suite = world.suite
    rows = suite.classes == 0
    of_a = type(suite)(suite.neurons[rows], suite.classes[rows])
    others = type(suite)(suite.neurons[~rows], suite.classes[~rows])
    first = world.profile(of_a, part="1", classes=CLASSES)
    first.combine(world.profile(others, part="2", classes=CLASSES))
    _assert_same(first, world.profile(suite, classes=CLASSES))


def test_the_scope_of_a_class_is_that_of_its_inputs_alone(world) -> None:
    rows = world.suite.classes == 1
    own = type(world.suite)(world.suite.neurons[rows], world.suite.classes[rows])
    found = world.profile(world.suite, classes=CLASSES).scopes["class b"]
    alone = world.profile(own).criteria
    assert found.keys() == alone.keys() - {"NLC"}
    for label, criterion in found.items():
        assert criterion.value == pytest.approx(alone[label].value, rel=1e-12), label


def test_a_file_gives_back_what_goes_on_as_before(world, tmp_path: Path) -> None:
    first, second = world.split(world.suite, [50, 40])
    profile = world.profile(first, classes=CLASSES)
    folder = profile.save(tmp_path / "profile", position=50)
    settings = CriteriaSettings()

    def make():
        return make_criteria(world.reference, settings)

    found = Profile.load(folder, make, world.metadata()).with_classes(CLASSES)
    assert found.metadata.position == 50
    _assert_same(found, profile)
    found.update(second)
    _assert_same(found, world.profile(world.suite, classes=CLASSES))


def test_files_of_parts_combine_to_the_whole(world, tmp_path: Path) -> None:
    parts = world.split(world.suite, [1, 89])
    found = []
    for number, part in enumerate(parts):
        folder = world.profile(part, part=str(number)).save(tmp_path / str(number))
        make = lambda: make_criteria(world.reference, CriteriaSettings())  # noqa: E731
        found.append(Profile.load(folder, make, read_metadata(folder)))
    found[0].combine(found[1])
    _assert_same(found[0], world.profile(world.suite))


def test_profiles_of_other_constants_are_refused_by_name(world) -> None:
    one = world.profile(world.suite)
    other = world.profile(world.suite, part="b", settings=CriteriaSettings(top_k=3))
    before = one.criteria["TKNC"].value
    with pytest.raises(ValueError, match="profiles with top_k=10 and 3: measure both alike"):
        one.combine(other)
    assert one.criteria["TKNC"].value == before
    assert one.inputs == 90


def test_profiles_of_other_references_or_models_are_refused(world) -> None:
    from dataclasses import replace

    metadata = world.metadata()
    with pytest.raises(ValueError, match="profiles with other references"):
        check_alike(metadata, replace(metadata, reference="0" * 64))
    signature = {**metadata.model_signature, "architecture": "Other"}
    with pytest.raises(ValueError, match="of another model, Other"):
        check_alike(metadata, replace(metadata, model_signature=signature))


def test_the_same_part_is_not_combined_twice(world) -> None:
    one, other = world.profile(world.suite), world.profile(world.suite)
    with pytest.raises(ValueError, match="1 part of digits is in both profiles"):
        one.combine(other)
    refuse_shared(world.metadata("a"), world.metadata("b"))


def test_profiles_with_other_classes_are_refused(world) -> None:
    one = world.profile(world.suite, classes=CLASSES)
    with pytest.raises(ValueError, match="profiles with classes a, b and none"):
        one.combine(world.profile(world.suite, part="b"))


def test_a_profile_of_another_reference_is_not_read(world, tmp_path: Path) -> None:
    from dataclasses import replace

    folder = world.profile(world.suite).save(tmp_path / "profile")
    make = lambda: make_criteria(world.reference, CriteriaSettings())  # noqa: E731
    with pytest.raises(ValueError, match="profiles with other references"):
        Profile.load(folder, make, replace(world.metadata(), reference="other"))
