"""k-means and silhouette on a line."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from aim_plugins.coverage.clustering import cluster, silhouette


def least_cost(values, k):
    """The least sum of squared distances, over every division of the sorted numbers."""
    values = np.sort(np.asarray(values, dtype=np.float64))
    costs = []
    for cuts in itertools.combinations(range(1, len(values)), k - 1):
        parts = np.split(values, cuts)
        costs.append(sum(((part - part.mean()) ** 2).sum() for part in parts))
    return min(costs)


def cost(values, centres):
    distances = np.abs(np.asarray(values, float)[:, None] - np.asarray(centres)[None])
    return (distances.min(1) ** 2).sum()


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(8))
def test_no_division_is_better(k, seed):
    generator = np.random.default_rng(seed)
    values = generator.choice([generator.normal(size=14), generator.exponential(size=14)])
    assert cost(values, cluster(values, k).centres) == pytest.approx(least_cost(values, k))


@pytest.mark.parametrize("seed", range(5))
def test_no_division_of_repeated_numbers_is_better(seed):
    values = np.random.default_rng(seed).integers(0, 7, 15).astype(float)
    assert cost(values, cluster(values, 3).centres) == pytest.approx(least_cost(values, 3))


@pytest.mark.parametrize("k", [2, 3, 6])
def test_long_lists_are_divided_as_by_the_plain_programme(k):
    values = np.sort(np.random.default_rng(k).gamma(2.0, size=300))
    sums, squares = (np.r_[0.0, np.cumsum(values**power)] for power in (1, 2))

    def stretch(first, end):
        return squares[end] - squares[first] - (sums[end] - sums[first]) ** 2 / (end - first)

    costs = [stretch(0, end) if end else 0.0 for end in range(301)]
    for clusters in range(2, k + 1):
        costs = [
            min((costs[cut] + stretch(cut, end) for cut in range(clusters - 1, end)), default=1e9)
            for end in range(301)
        ]
    assert cost(values, cluster(values, k).centres) == pytest.approx(costs[-1])


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("zeros", [0, 60])
def test_silhouette_is_that_of_scikit_learn(k, zeros):
    values = np.r_[np.random.default_rng(k).normal(size=150), np.zeros(zeros)]
    found = cluster(values, k)
    labels = np.abs(values[:, None] - np.array(found.centres)).argmin(1)
    expected = silhouette_score(values[:, None], labels)
    assert found.silhouette == pytest.approx(expected, abs=1e-12)
    assert silhouette(values, found.centres) == pytest.approx(expected, abs=1e-12)


def test_a_number_alone_in_its_cluster_has_no_silhouette():
    values = np.array([0.0, 0.1, 9.0])
    expected = silhouette_score(values[:, None], [0, 0, 1])
    assert cluster(values, 2).silhouette == pytest.approx(expected)


def test_the_number_of_clusters_has_the_best_silhouette():
    generator = np.random.default_rng(0)
    values = np.concatenate([generator.normal(middle, 0.1, 40) for middle in (0, 2, 4, 6)])
    scores = {k: cluster(values, k).silhouette for k in range(2, 10)}
    assert max(scores, key=scores.get) == 4
    assert cluster(values, range(2, 10)) == cluster(values, [9, 4, 2, 3, 5, 6, 7, 8])
    assert len(cluster(values, range(2, 10))) == 4


def test_order_does_not_matter():
    values = np.random.default_rng(3).normal(size=500)
    assert cluster(values, 3) == cluster(np.random.default_rng(4).permutation(values), 3)


def test_distance_from_zero_does_not_matter():
    values = np.random.default_rng(3).normal(size=200)
    far = np.array(cluster(values + 1e6, 3).centres) - 1e6
    assert far == pytest.approx(np.array(cluster(values, 3).centres), abs=1e-7)


@pytest.mark.parametrize("k", [1, 3, (2, 3, 4)])
def test_a_dead_neuron_has_one_cluster(k):
    found = cluster(np.zeros(50), k)
    assert found.centres == (0.0,)
    assert math.isnan(found.silhouette)
    assert found.asked == (k if isinstance(k, int) else 4)


def test_fewer_distinct_numbers_make_fewer_clusters():
    found = cluster([1.0, 5.0, 5.0, 1.0, 5.0], 4)
    assert found.centres == (1.0, 5.0)
    assert (len(found), found.asked, found.silhouette) == (2, 4, 1.0)


def test_nan_and_infinity_are_left_out():
    assert cluster([np.nan, 1, 1, np.inf, 3, -np.inf], 2).centres == (1.0, 3.0)


@pytest.mark.parametrize(
    ("values", "k", "message"),
    [
        ([1.0, 2.0], 3, "n_clusters=3: 2 inputs cannot make that many clusters"),
        ([], (2, 3), "n_clusters=2: 0 inputs"),
        ([np.nan] * 5, 1, "n_clusters=1: 0 inputs"),
        ([1.0, 2.0], 0, "n_clusters=0: choose one cluster or more"),
        ([1.0, 2.0], (), "choose one cluster or more"),
    ],
)
def test_clusters_that_cannot_be_are_refused(values, k, message):
    with pytest.raises(ValueError, match=message):
        cluster(values, k)
