"""Shifts of clusters by where an activation lies: the kernel against NumPy, a strength a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aim_plugins.core.errors import ReceiptError
from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.modulation.mixture import MixtureMap

NEURONS = 7


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_map(clusters, seed=0):
    masses = draws(clusters, seed=seed + 1).softmax(0)
    return MixtureMap(*draws(2, clusters, NEURONS, seed=seed), masses)


def moved(one, x):
    """T(x) - x token by token, in float64."""
    centroids, shifts, masses = (part.double().numpy() for part in one.parts.values())
    found = np.empty(x.shape)
    for place in np.ndindex(x.shape[:-1]):
        distances = [np.sum((x[place].double().numpy() - c) ** 2) for c in centroids]
        width = sorted(distances)[(len(distances) - 1) // 2]
        nearness = masses * np.exp(-np.array(distances) / width)
        found[place] = nearness / nearness.sum() @ shifts
    return found


@pytest.mark.parametrize("clusters", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("strength", [0.0, 0.35, 1.0, -2.0])
def test_a_map_is_its_formula(clusters, strength):
    one, x = random_map(clusters), 2 * draws(5, 3, NEURONS, seed=2)
    expected = x.double().numpy() + strength * moved(one, x)
    np.testing.assert_allclose(one(x, strength), expected, atol=1e-5)
    torch.testing.assert_close(one.weights(x).sum(-1), torch.ones(5, 3))


def test_one_cluster_shifts_all_alike_its_centre_too():
    one = random_map(1)
    x = torch.cat([one.centroids, draws(3, NEURONS, seed=2)])
    assert torch.equal(one(x), x + one.shifts)


def test_at_a_centre_that_half_of_the_clusters_share_their_shifts_act_by_their_masses():
    """Their distance is 0, and so is the median."""
    centre, away = draws(2, NEURONS, seed=3)
    shifts = draws(3, NEURONS, seed=4)
    one = MixtureMap(torch.stack([centre, away, centre]), shifts, torch.tensor([0.3, 0.5, 0.2]))
    torch.testing.assert_close(one(centre), centre + 0.6 * shifts[0] + 0.4 * shifts[2])


def test_far_from_0_no_digit_is_lost():
    """As |x|² + |c|² - 2 xc the distances would be rounded to nothing."""
    one, x, away = random_map(4), draws(6, NEURONS, seed=2), 2.0**20
    there = MixtureMap(one.centroids + away, one.shifts, one.masses)
    near = MixtureMap(there.centroids - away, one.shifts, one.masses)
    torch.testing.assert_close(there.weights(x + away), near.weights(x + away - away))


def test_rows_have_strengths_of_their_own_and_0_is_the_plain_model_to_the_bit():
    module = torch.nn.Sequential(torch.nn.Linear(4, NEURONS))
    maps, x = ActivationMaps({"0": random_map(4)}), draws(3, 5, 4, seed=5)
    with torch.no_grad():
        plain = module(x)
        with maps.applied(module, [0.0, 0.5, 2.0]):
            together = module(x)
        assert torch.equal(together[0], plain[0])
        for row, strength in ((1, 0.5), (2, 2.0)):
            with maps.applied(module, strength):
                assert torch.equal(module(x[row : row + 1])[0], together[row])


def test_autocast_and_half_precision_round_once_at_the_end():
    one, x = random_map(4), draws(3, 4, NEURONS, seed=6).bfloat16()
    model = torch.nn.Sequential(torch.nn.Identity())
    expected = one(x.float()).bfloat16()
    with ActivationMaps({"0": one}).applied(model, 1.0):
        assert torch.equal(model(x), expected)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model(x), expected)


def test_fingerprints_tell_parts_and_numbers_of_clusters():
    one = random_map(4)
    others = [random_map(3), MixtureMap(one.shifts, one.centroids, one.masses)]
    prints = {ActivationMaps({"a": each}).fingerprint for each in (one, *others)}
    assert len(prints) == 3
    assert ActivationMaps({"a": random_map(4)}).fingerprint in prints


def test_a_site_of_another_width_is_refused():
    model, maps = torch.nn.Sequential(torch.nn.ReLU()), ActivationMaps({"0": random_map(2)})
    refused = pytest.raises(ValueError, match="module '0' has 5 neurons, its map 7")
    with maps.applied(model, 1.0), refused:
        model(torch.zeros(2, 5))


@pytest.mark.parametrize("part", MixtureMap.PARTS)
def test_receipts_tell_parts_that_were_overwritten_where_they_lie(part):
    one = random_map(3)
    maps = ActivationMaps({"0": one})
    maps.adding_at("0", torch.zeros(1, NEURONS))
    maps.check_placed()
    one.parts[part].mul_(2)  # on the CPU the map's own tensors are the placed ones
    with pytest.raises(ReceiptError, match="maps of 0 were overwritten where they lie"):
        maps.check_placed()
