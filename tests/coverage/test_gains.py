"""Orders of inputs by what they add, against brute force and dnn-tip."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from dnn_tip.prioritizers import cam
from torch import Tensor

from aim_plugins.coverage.criteria.criterion import Batch, FixedUnits, OpenUnits
from aim_plugins.coverage.gains import fresh_units, prioritize


class Listed(FixedUnits):
    """Units are read off the neurons; -1 is none."""

    name, summary, source = "listed", "units as given", ""

    def units(self, batch: Batch) -> Tensor:
        return batch.neurons.long()


class Patterns(OpenUnits):
    name, summary, source = "patterns", "patterns as given", ""

    def units(self, batch: Batch) -> Tensor:
        return batch.neurons.long()


def _covering(criterion, units: Tensor):
    criterion.update(Batch(units.float(), torch.zeros(len(units), dtype=torch.int64)))
    return criterion


def _drawn(candidates: int, total: int, share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((candidates, total)) < share


def _units(reached: np.ndarray) -> Tensor:
    """Marks of which each input reaches some: its units in a random order, and -1 elsewhere."""
    marks = np.where(reached, np.arange(reached.shape[1]), -1)
    return torch.from_numpy(np.random.default_rng(1).permuted(marks, axis=1))


def _sets(criterion, units: Tensor) -> list[set]:
    """What each candidate adds alone, by the definition: (column, unit) pairs of open units."""
    fresh = ~criterion.is_covered(units)
    named = [
        [(column if isinstance(criterion, OpenUnits) else 0, unit) for column, unit in pairs]
        for pairs in (list(enumerate(row.tolist())) for row in units)
    ]
    return [
        {pair for pair, new in zip(pairs, news, strict=True) if new}
        for pairs, news in zip(named, fresh.tolist(), strict=True)
    ]


def _greedy_rounds(sets: list[set]) -> tuple[list[int], list[int]]:
    """Every candidate is counted at every step; a round ends when none adds anything."""
    order, gains, first = [], [], True
    left = [index for index, one in enumerate(sets) if one]
    while left:
        covered: set = set()
        while left:
            added = [len(sets[index] - covered) for index in left]
            if not max(added):
                break
            best = left[added.index(max(added))]
            gains.append(max(added) if first else 0)
            order.append(best)
            covered |= sets[best]
            left.remove(best)
        first = False
    rest = [index for index in range(len(sets)) if index not in order]
    return order + rest, gains + [0] * len(rest)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.97])
@pytest.mark.parametrize("seed", range(3))
def test_the_order_is_that_of_counting_every_candidate_at_every_step(share, seed):
    units = _units(_drawn(60, 40, share, seed))
    criterion = _covering(Listed(["a", "b"], [25, 15]), torch.tensor([[3, 30, -1]]))
    order, gains = _greedy_rounds(_sets(criterion, units))
    ranking = prioritize(criterion, units)
    assert ranking.order.tolist() == order and ranking.gains.tolist() == gains


@pytest.mark.parametrize("seed", range(3))
def test_patterns_are_compared_within_their_own_group(seed):
    generator = torch.Generator().manual_seed(seed)
    units = torch.randint(-1, 6, (50, 4), generator=generator)
    criterion = _covering(Patterns(["a", "b", "c", "d"]), torch.tensor([[0, 1, 2, -1]]))
    order, gains = _greedy_rounds(_sets(criterion, units))
    ranking = prioritize(criterion, units)
    assert ranking.order.tolist() == order and ranking.gains.tolist() == gains


def test_the_useful_part_is_cam_of_dnn_tip():
    reached = _drawn(80, 200, 0.15)
    steps = np.array(list(cam(reached.sum(1).astype(float), reached.astype(int))))
    ranking = prioritize(Listed(["a"], [200]), _units(reached))
    assert ranking.useful > 10
    assert ranking.order[: ranking.useful].tolist() == steps[: ranking.useful].tolist()


def test_gains_are_what_the_criterion_grows_by():
    units = _units(_drawn(30, 50, 0.1))
    criterion = _covering(Listed(["a"], [50]), torch.tensor([[0, 1, 2]]))
    ranking = prioritize(criterion, units)
    for candidate, gain in zip(ranking.order.tolist(), ranking.gains.tolist(), strict=True):
        before = int(criterion.reached.sum())
        _covering(criterion, units[candidate][None])
        assert int(criterion.reached.sum()) - before == gain


def test_no_set_of_three_covers_more_than_the_bound_allows():
    for seed in range(5):
        reached = _drawn(12, 30, 0.2, seed)
        best = max(reached[list(some)].any(0).sum() for some in combinations(range(12), 3))
        found = int(prioritize(Listed(["a"], [30]), _units(reached), 3).gains.sum())
        assert (1 - 1 / np.e) * best <= found <= best


def test_fresh_units_count_each_unit_once_and_no_covered_one():
    criterion = _covering(Listed(["a"], [9]), torch.tensor([[4]]))
    units = torch.tensor([[4, 4, 4], [1, 4, 1], [8, 2, 5], [-1, -1, -1], [5, 5, 2]])
    assert fresh_units(criterion, units).counts.tolist() == [0, 1, 3, 0, 2]


def test_equal_gains_are_ordered_by_position_and_useless_inputs_come_last():
    units = torch.tensor([[-1, -1], [0, 1], [2, 3], [0, 2], [5, -1], [-1, -1]])
    ranking = prioritize(Listed(["a"], [6]), units)
    # 3 adds nothing to 1 and 2, so it starts the second round; 0 and 5 never add anything.
    assert ranking.order.tolist() == [1, 2, 4, 3, 0, 5]
    assert ranking.gains.tolist() == [2, 2, 1, 0, 0, 0]
    assert ranking.useful == 3


def test_a_shorter_ranking_is_the_start_of_the_whole():
    units, criterion = _units(_drawn(40, 30, 0.3)), Listed(["a"], [30])
    whole = prioritize(criterion, units)
    for count in (0, 1, whole.useful, whole.useful + 5, 40):
        part = prioritize(criterion, units, count)
        assert torch.equal(part.order, whole.order[:count])
        assert torch.equal(part.gains, whole.gains[:count])
    assert len(prioritize(criterion, units, 1000)) == 40


@pytest.mark.parametrize("kind", [Listed, Patterns])
def test_parts_give_what_the_whole_gives(kind):
    units = torch.randint(-1, 12, (30, 3), generator=torch.Generator().manual_seed(0))
    criterion = Listed(["a"], [12]) if kind is Listed else Patterns("abc")
    whole = fresh_units(criterion, units)
    parts = fresh_units(criterion, iter(units.split([7, 0, 1, 22])))
    assert whole.total == parts.total
    assert np.array_equal(whole.starts, parts.starts) and np.array_equal(whole.ids, parts.ids)


def test_many_candidates_are_looked_at_in_chunks(monkeypatch):
    units, criterion = _units(_drawn(40, 30, 0.3)), Listed(["a"], [30])
    whole = fresh_units(criterion, units)
    monkeypatch.setattr("aim_plugins.coverage.gains._ELEMENTS", 64)
    chunked = fresh_units(criterion, units)
    assert np.array_equal(whole.starts, chunked.starts) and np.array_equal(whole.ids, chunked.ids)


@pytest.mark.parametrize("criterion", [Listed(["a"], [5]), Patterns(["a", "b"])])
def test_no_candidates_and_no_units_are_no_error(criterion):
    none = torch.empty(0, 2, dtype=torch.int64)
    assert prioritize(criterion, none).order.tolist() == []
    assert prioritize(criterion, iter([])).order.tolist() == []
    nothing = torch.full((3, 2), -1)
    ranking = prioritize(criterion, nothing)
    assert ranking.order.tolist() == [0, 1, 2] and ranking.useful == 0


def test_ranking_leaves_the_criterion_as_it_was():
    criterion = _covering(Listed(["a"], [30]), torch.tensor([[1, 2]]))
    before = criterion.reached.clone()
    prioritize(criterion, _units(_drawn(20, 30, 0.3)))
    assert torch.equal(criterion.reached, before) and criterion.inputs == 1


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match="count=-1"):
        prioritize(Listed(["a"], [3]), torch.tensor([[0]]), -1)
