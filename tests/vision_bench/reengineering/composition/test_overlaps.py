"""Overlaps of masks, counted element by element, and their law for random masks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom

from aim_plugins.modulation.retained import MaskPoint
from vision_bench.reengineering.composition.overlaps import (
    Counts,
    find_overlaps,
    jaccard_by_chance,
    retained_parts,
)

SHAPES = {"conv.weight": (3, 2, 3, 3), "conv.bias": (3,), "fc.weight": (4, 3)}


def random_point(seed: int, share: float = 0.5) -> MaskPoint:
    generator = torch.Generator().manual_seed(seed)
    return MaskPoint(
        {name: torch.rand(shape, generator=generator) < share for name, shape in SHAPES.items()}
    )


def elements(point: MaskPoint, layer: str = "") -> set[tuple[object, ...]]:
    """Every retained element, by its place in the model."""
    return {
        (name, *place)
        for name, shape in SHAPES.items()
        for place in itertools.product(*map(range, shape))
        if name.startswith(layer) and point.masks[name][place]
    }


def test_jaccard_is_that_of_sets_of_elements_over_all_and_by_layer() -> None:
    points = [random_point(seed, share) for seed, share in enumerate((0.2, 0.5, 0.8))]
    found = {(one.first, one.second): one for one in find_overlaps(points)}
    assert list(found) == [(0, 1), (0, 2), (1, 2)]
    for (first, second), overlap in found.items():
        for layer in ("", "conv", "fc"):
            one, other = elements(points[first], layer), elements(points[second], layer)
            counts = overlap.layers[layer] if layer else overlap.total
            assert counts.jaccard == len(one & other) / len(one | other)
            assert (counts.first, counts.second) == (len(one), len(other))


def test_of_channel_masks_channels_count_and_not_the_weights_that_read_them() -> None:
    masks = {"fc.weight": torch.tensor([[True, False, True]])}
    point = MaskPoint(masks, channels={"conv": torch.tensor([True, False, True])})
    assert {name: one.tolist() for name, one in retained_parts(point).items()} == {
        "conv": [True, False, True]
    }


def drawn(size: int, kept: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Random masks that retain exactly so many of the elements."""
    return rng.random((draws, size)).argsort(1) < kept


@pytest.mark.parametrize(
    "parts",
    [
        [Counts(40, 9, 14, 0)],
        [Counts(40, 38, 30, 0)],  # more than half of both, so that they cannot but meet
        [Counts(30, 3, 5, 0), Counts(20, 18, 15, 0), Counts(7, 0, 4, 0)],
    ],
)
def test_the_law_of_chance_is_that_of_masks_drawn_at_random(parts: list[Counts]) -> None:
    rng, draws = np.random.default_rng(0), 40_000
    both, either = np.zeros(draws), np.zeros(draws)
    for part in parts:
        one = drawn(part.size, part.first, draws, rng)
        other = drawn(part.size, part.second, draws, rng)
        both += (one & other).sum(1)
        either += (one | other).sum(1)
    index = both / either
    found = jaccard_by_chance(parts)
    assert found.expected == pytest.approx(index.mean(), abs=4 * index.std() / math.sqrt(draws))
    assert np.mean(index < found.low) <= 0.03
    assert np.mean(index > found.high) <= 0.03
    assert np.mean(index <= found.low) >= 0.02
    assert np.mean(index >= found.high) >= 0.02


@pytest.mark.parametrize("sizes", [(40, 9, 14), (40, 38, 30), (6_000, 3_000, 2_000), (7, 7, 2)])
def test_of_one_part_the_law_is_scipy_s_hypergeometric_one(sizes: tuple[int, int, int]) -> None:
    _, first, second = sizes
    both = np.arange(min(first, second) + 1)
    law = hypergeom.pmf(both, *sizes)
    found = jaccard_by_chance([Counts(*sizes, 0)])
    assert found.expected == pytest.approx(law @ (both / (first + second - both)), rel=1e-9)
    for end, share in ((found.low, 0.025), (found.high, 0.975)):
        number = hypergeom.ppf(share, *sizes)
        assert end == pytest.approx(number / (first + second - number))


def test_the_law_holds_for_as_many_weights_as_a_network_has() -> None:
    """Of many elements E[both / either] comes close to E[both] / E[either]; layers add up."""
    whole = Counts(25_000_000, 2_500_000, 5_000_000, 0)
    both = 2_500_000 * 5_000_000 / 25_000_000
    expected = both / (7_500_000 - both)
    found = jaccard_by_chance([whole])
    assert found.expected == pytest.approx(expected, rel=1e-6)
    assert found.low < expected < found.high < found.low + 1e-3
    layers = [Counts(500_000, 50_000, 100_000, 0)] * 50
    assert jaccard_by_chance(layers).expected == pytest.approx(expected, rel=1e-6)


def test_sharing_the_sizes_of_layers_alone_is_chance_of_the_second_kind() -> None:
    """Both retain all of one layer and none of the other: nothing is shared beyond the sizes."""
    layers = [Counts(50, 50, 50, 50), Counts(50, 0, 0, 0)]
    assert jaccard_by_chance(layers).expected == 1.0
    assert jaccard_by_chance([Counts(100, 50, 50, 50)]).high < 0.5


def test_where_neither_retains_anything_there_is_no_index() -> None:
    empty = Counts(5, 0, 0, 0)
    assert math.isnan(empty.jaccard)
    assert math.isnan(jaccard_by_chance([empty]).expected)
    assert jaccard_by_chance([Counts(5, 0, 2, 0)]).expected == 0.0
