"""What is known of the training set: against the whole of it, and through files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.reference import (
    Reference,
    ReferenceBuilder,
    ReferenceMetadata,
    surprise_layer,
)
from aim_plugins.coverage.registry import make_criteria
from aim_plugins.coverage.settings import CriteriaSettings


def test_ranges_are_those_of_all_training_inputs(world) -> None:
    neurons = world.training.neurons.numpy()
    assert np.array_equal(world.reference.low.numpy(), neurons.min(0))
    assert np.array_equal(world.reference.high.numpy(), neurons.max(0))


def test_surprise_looks_at_the_last_layer_but_one(world) -> None:
    assert surprise_layer(world.layers, CriteriaSettings()) == "fc"
    assert surprise_layer(world.layers, CriteriaSettings(surprise_layer="conv")) == "conv"
    with pytest.raises(ValueError, match="layer='fcc'.*'fc'"):
        surprise_layer(world.layers, CriteriaSettings(surprise_layer="fcc"))


def test_moments_are_the_covariances_of_each_class(world) -> None:
    moments = world.reference.moments
    assert moments.columns.tolist() == list(range(5, 11))
    for index, one in moments.by_class.items():
        rows = world.training.neurons[world.training.classes == index, 5:11].double().numpy()
        assert one.count == len(rows)
        expected = np.cov(rows.T, bias=True) * len(rows)
        assert np.allclose(one.scatter.numpy(), expected, atol=1e-9)


def test_traces_are_taken_evenly_whatever_the_batches(world) -> None:
    settings = CriteriaSettings(surprise_inputs=40)
    kept = []
    for size in (50, 7):
        builder = ReferenceBuilder(world.layers, settings, 300)
        sizes = [size] * (300 // size) + ([300 % size] if 300 % size else [])
        for part in world.split(world.training, sizes):
            builder.update(part)
        metadata = ReferenceMetadata(method="none", sites=world.layers.names)
        kept.append(builder.finish([], metadata).traces)
    expected = world.training.neurons[::8, 5:11]  # 300 / 40 rounded up
    assert len(expected) <= 40
    for one in kept:
        assert torch.equal(one.activations, expected)
        assert torch.equal(one.classes, world.training.classes[::8])


def test_only_what_criteria_ask_for_is_kept(world) -> None:
    builder = ReferenceBuilder(world.layers, CriteriaSettings(criteria=("NC", "KMNC")), 300)
    builder.update(world.training)
    found = builder.finish([], ReferenceMetadata(method="none", sites=world.layers.names))
    assert found.traces is None
    assert found.moments is None
    with pytest.raises(ValueError, match="LSC needs training activations"):
        make_criteria(found, CriteriaSettings(criteria=("LSC",)))
    with pytest.raises(ValueError, match="MDSC needs training covariances"):
        make_criteria(found, CriteriaSettings(criteria=("MDSC",)))


def test_no_training_input_is_refused(world) -> None:
    builder = ReferenceBuilder(world.layers, CriteriaSettings(), 0 + 1)
    with pytest.raises(ValueError, match="the training set holds no usable input"):
        builder.finish([], ReferenceMetadata(method="none", sites=world.layers.names))


def test_a_file_gives_back_a_reference_that_measures_the_same(world, tmp_path: Path) -> None:
    found = Reference.load(world.reference.save(tmp_path / "reference"))
    assert found.fingerprint == world.reference.fingerprint
    settings = CriteriaSettings()
    values = []
    for reference in (world.reference, found):
        criteria = make_criteria(reference, settings)
        for criterion in criteria.values():
            criterion.update(world.suite)
        values.append({label: one.value for label, one in criteria.items()})
    assert values[0] == values[1]
    for one, other in zip(found.important, world.reference.important, strict=True):
        assert one.neurons == other.neurons
        assert one.class_index == other.class_index
        assert torch.equal(one.reached.codes, other.reached.codes)


def test_another_model_is_refused(world) -> None:
    torch.manual_seed(0)
    world.reference.check_model(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
    torch.manual_seed(1)
    with pytest.raises(ValueError, match="the reference was learned on another model"):
        world.reference.check_model(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))


def test_an_altered_file_is_refused(world, tmp_path: Path) -> None:
    folder = world.reference.save(tmp_path / "reference")
    path = folder / "reference.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="SHA-256 differs"):
        Reference.load(folder)


def test_the_class_of_traces_is_that_of_their_inputs(world) -> None:
    builder = ReferenceBuilder(world.layers, CriteriaSettings(), 4)
    classes = torch.tensor([2, 0, 1, 1])
    builder.update(Batch(world.training.neurons[:4], classes))
    found = builder.finish([], ReferenceMetadata(method="none", sites=world.layers.names))
    assert found.traces.classes.tolist() == classes.tolist()


def test_references_of_other_contents_are_others(world) -> None:
    """Two machines may round alike settings to other ranges, whose buckets are not the same."""
    moved = dataclasses.replace(world.reference, high=world.reference.high + 1e-6)
    assert moved.fingerprint == world.reference.fingerprint
    assert moved.identity != world.reference.identity
