"""Criteria of neurons against their definitions, written out in loops over float64 numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from aim_plugins.coverage.criteria.boundary import KMNC, NBC, NC, SNAC
from aim_plugins.coverage.criteria.criterion import Batch, Criterion, hash_rows
from aim_plugins.coverage.criteria.top import TKNC, TKNP
from aim_plugins.coverage.layers import Layers

LAYERS = Layers(("a", "b", "c"), (5, 12, 1))
_GENERATOR = torch.Generator().manual_seed(0)
TRAINING = torch.randn(40, 18, generator=_GENERATOR)
TRAINING[:, 3] = 1.5  # a dead neuron
SUITE = torch.randn(60, 18, generator=_GENERATOR)
SUITE[0] = TRAINING[7]
SUITE[1], SUITE[2] = TRAINING.amin(0), TRAINING.amax(0)
SUITE[3] = 0.25  # all layers constant
LOW, HIGH = TRAINING.amin(0), TRAINING.amax(0)
COLUMNS = {"a": range(5), "b": range(5, 17), "c": range(17, 18)}

MAKERS: dict[str, Callable[[], Criterion]] = {
    "NC": lambda: NC(LAYERS),
    "KMNC": lambda: KMNC(LAYERS, LOW, HIGH, 10),
    "NBC": lambda: NBC(LAYERS, LOW, HIGH),
    "SNAC": lambda: SNAC(LAYERS, LOW, HIGH),
    "TKNC": lambda: TKNC(LAYERS, 3),
    "TKNP": lambda: TKNP(LAYERS, 3),
}


def batch(neurons: Tensor) -> Batch:
    return Batch(neurons, torch.zeros(len(neurons), dtype=torch.int64))


def after(name: str, *parts: Tensor) -> Criterion:
    criterion = MAKERS[name]()
    for part in parts:
        criterion.update(batch(part))
    return criterion


def brute_force(name: str) -> float:
    """Coverage of the suite by the papers' definitions."""
    rows = SUITE.double().tolist()
    low, high = LOW.double().tolist(), HIGH.double().tolist()
    reached: set = set()
    for row in rows:
        pattern: list = []
        for columns in COLUMNS.values():
            values = [row[column] for column in columns]
            span = max(values) - min(values)
            top = sorted(columns, key=lambda column: (-row[column], column))[:3]
            pattern.append(frozenset(top))
            if name == "TKNC":
                reached.update(top)
            for column in columns:
                x, lo, hi = row[column], low[column], high[column]
                if name == "NC" and span > 0 and (x - min(values)) / span > 0.5:
                    reached.add(column)
                if name == "KMNC" and lo < hi and lo <= x <= hi:
                    edges = [lo + (hi - lo) * k / 10 for k in range(11)]
                    reached.add((column, max(k for k in range(10) if edges[k] <= x or k == 0)))
                if name == "NBC" and x < lo:
                    reached.add((column, "below"))
                if name in ("NBC", "SNAC") and x > hi:
                    reached.add((column, "above"))
        if name == "TKNP":
            reached.add(tuple(pattern))
    totals = {"NC": 18, "KMNC": 180, "NBC": 36, "SNAC": 18, "TKNC": 18, "TKNP": 1}
    return len(reached) / totals[name]


@pytest.mark.parametrize("name", MAKERS)
def test_a_criterion_counts_what_its_definition_says(name: str) -> None:
    assert after(name, SUITE).value == pytest.approx(brute_force(name), abs=1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_neither_order_nor_batches_matter(name: str) -> None:
    order = torch.randperm(len(SUITE), generator=torch.Generator().manual_seed(1))
    one, other = after(name, SUITE), after(name, *SUITE[order].split(7))
    assert one.inputs == other.inputs == len(SUITE)
    for key, tensor in one.state().items():
        assert torch.equal(tensor, other.state()[key])


@pytest.mark.parametrize("name", MAKERS)
def test_parts_combine_to_the_whole(name: str) -> None:
    whole, part = after(name, SUITE), after(name, SUITE[:25])
    part.combine(after(name, SUITE[25:]))
    assert (part.value, part.inputs) == (whole.value, whole.inputs)
    assert part.by_layer() == whole.by_layer()


@pytest.mark.parametrize("name", MAKERS)
def test_a_state_comes_back(name: str) -> None:
    criterion, again = after(name, SUITE), MAKERS[name]()
    again.load_state(criterion.state())
    assert again.value == criterion.value > 0


@pytest.mark.parametrize("name", MAKERS)
def test_no_suite_of_a_size_goes_beyond_the_ceiling(name: str) -> None:
    for size in (1, 2, 3, 10):
        for start in range(0, 50, 5):
            criterion = after(name, 2 * SUITE[start : start + size])
            assert criterion.value <= criterion.ceiling(size) + 1e-12


@pytest.mark.parametrize("name", ["NC", "KMNC", "NBC", "SNAC", "TKNC"])
def test_the_layers_shares_are_weighted_by_their_size_in_the_whole(name: str) -> None:
    criterion = after(name, SUITE)
    shares = criterion.by_layer()
    weighted = sum(shares[layer] * len(columns) for layer, columns in COLUMNS.items()) / 18
    assert criterion.value == pytest.approx(weighted)


def test_known_inputs_gain_nothing() -> None:
    for name in MAKERS:
        criterion = after(name, SUITE)
        units = criterion.units(batch(SUITE))  # type: ignore[attr-defined]
        assert criterion.is_covered(units).all()  # type: ignore[attr-defined]


def test_training_inputs_reach_no_boundary() -> None:
    assert after("NBC", TRAINING).value == after("SNAC", TRAINING).value == 0


def test_of_equal_neurons_the_first_is_the_more_active_one() -> None:
    criterion = TKNC(Layers(("a",), (4,)), 2)
    criterion.update(batch(torch.tensor([[1.0, 1.0, 1.0, 1.0]])))
    assert criterion.reached.tolist() == [True, True, False, False]


def test_rows_are_named_alike_only_where_they_are_equal() -> None:
    rows = torch.tensor([[1, 2, 3], [1, 2, 4], [1, 2, 3], [-1, 2, 3]])
    names = hash_rows(rows).tolist()
    assert names[0] == names[2] and len(set(names)) == 3 and min(names) >= 0
