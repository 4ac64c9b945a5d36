"""Coverage along directions, against loops over scores."""

from __future__ import annotations

import pytest
import torch

from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.reference import Reference, ReferenceMetadata
from aim_plugins.task_coverage.directions import direction_criteria, read_directions
from aim_plugins.task_coverage.settings import TaskCoverageSettings
from aim_plugins.task_coverage.subject import Subject
from aim_plugins.task_documents import Document
from aim_plugins.transport.artifact import LearnedTransport
from tests.task_coverage.conftest import save_transport

SITES = ("a", "b", "c", "d", "e")
LOW = torch.tensor([0.0, -1.0, 5.0, 2.0, 0.0])
HIGH = torch.tensor([1.0, 1.0, 9.0, 2.0, 100.0])


@pytest.fixture
def reference() -> Reference:
    metadata = ReferenceMetadata("directions", SITES)
    return Reference(Layers(SITES, (1,) * 5), LOW, HIGH, None, None, (), metadata)


@pytest.fixture
def scores() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.6, 1.2, 3.0, 1.0, 60.0])
    return (LOW + HIGH) / 2 + spread * torch.randn(40, 5, generator=generator)


def settings(**given) -> TaskCoverageSettings:
    return TaskCoverageSettings(model="m", tasks=["t"], **given)


def test_scores_are_projections_of_mean_states_on_unit_shifts(tiny, shift_transport) -> None:
    transport = LearnedTransport.load(shift_transport)
    directions = read_directions(transport, shift_transport)
    subject = Subject(tiny.model, tiny.tokenizer, directions=directions, batch_size=2)
    documents = [Document("t", 0, "the capital of France", ""), Document("t", 1, "Berlin", "")]
    found = torch.empty(2, 3)
    for seen in subject.read(subject.tokenize(documents)):
        found[seen.positions] = seen.projections
    for row, document in enumerate(documents):
        states: list[torch.Tensor] = []
        handles = [
            tiny.model.get_submodule(site).register_forward_hook(
                lambda *given, into=states: into.append(given[-1][0])
            )
            for site in directions.layers.names
        ]
        with torch.no_grad():
            tiny.model(**tiny.tokenizer(document.text, return_tensors="pt"))
        for handle in handles:
            handle.remove()
        for column, (site, state) in enumerate(zip(transport.maps.maps, states, strict=True)):
            shift = transport.maps.maps[site].shift.double()
            by_hand = (state.double() @ shift).mean() / shift.pow(2).sum().sqrt()
            assert float(found[row, column]) == pytest.approx(float(by_hand), abs=1e-5)


def test_single_scores_are_covered_within_and_beyond_their_ranges(reference, scores) -> None:
    criteria = direction_criteria(reference, settings(kmnc_buckets=7))
    batch = Batch(scores, torch.zeros(40, dtype=torch.long))
    for one in criteria.values():
        one.update(batch)
    buckets, below, above = set(), set(), set()
    for row in scores.double().tolist():
        for site, value in enumerate(row):
            low, high = float(LOW[site]), float(HIGH[site])
            below |= {site} if value < low else set()
            above |= {site} if value > high else set()
            if low <= value <= high and high > low:
                buckets.add((site, min(6, int((value - low) / (high - low) * 7))))
    assert criteria["KMNC"].value == pytest.approx(len(buckets) / 35)
    assert criteria["SNAC"].value == pytest.approx(len(above) / 5)
    assert criteria["NBC"].value == pytest.approx((len(below) + len(above)) / 10)
    assert list(criteria["KMNC"].by_layer()) == list(SITES)


def test_the_strongest_directions_are_those_highest_in_their_own_range(reference, scores) -> None:
    criteria = direction_criteria(reference, settings(direction_k=2))
    for part in scores.split(7):
        for name in ("TKNC", "TKNP"):
            criteria[name].update(Batch(part, torch.zeros(len(part), dtype=torch.long)))
    patterns = set()
    for row in scores.tolist():
        scaled = [
            (value - low) / (high - low) if high > low else 0.0
            for value, low, high in zip(row, LOW.tolist(), HIGH.tolist(), strict=True)
        ]
        patterns.add(frozenset(sorted(range(5), key=lambda one: -scaled[one])[:2]))
    assert criteria["TKNP"].value == len(patterns)
    assert criteria["TKNC"].value == pytest.approx(len(frozenset().union(*patterns)) / 5)


def test_only_criteria_of_scores_are_made(reference) -> None:
    assert list(direction_criteria(reference, settings())) == [
        "KMNC",
        "NBC",
        "SNAC",
        "TKNC",
        "TKNP",
    ]
    assert list(direction_criteria(reference, settings(criteria=["NC", "SNAC"]))) == ["SNAC"]


def test_maps_that_scale_have_no_direction(tiny, tmp_path) -> None:
    transport = LearnedTransport.load(save_transport(tiny, tmp_path, "linear"))
    with pytest.raises(ValueError, match="method='linear', whose map of .* scales neurons"):
        read_directions(transport, tmp_path)
