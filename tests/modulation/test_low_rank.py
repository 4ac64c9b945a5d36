"""Maps that mix neurons: the kernel against float64, and a strength for each row."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.modulation.low_rank import LowRankMap

NEURONS = 7


def random_map(rank=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    up, down = torch.randn(2, rank, NEURONS, generator=generator)
    return LowRankMap(up.T.contiguous(), down, torch.randn(rank, generator=generator))


def activations(*shape, seed=1):
    return 2 * torch.randn(*shape, NEURONS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("strength", [0.0, 0.35, 1.0, -2.0])
def test_a_map_is_its_formula(rank, strength):
    one, x = random_map(rank), activations(5, 3)
    up, down, bias = (part.double().numpy() for part in one.parts.values())
    wide = x.double().numpy()
    expected = wide + strength * ((wide @ down.T + bias) @ up.T)
    np.testing.assert_allclose(one(x, strength), expected, atol=1e-5)


def test_a_direction_of_any_length_is_taken_out_and_the_rest_stays():
    x, direction = activations(4, 2).double(), activations(1, seed=2)[0].double()
    basis = torch.linalg.qr(torch.cat([direction[:, None], activations(6, seed=3).double().T], 1))[
        0
    ]
    found = LowRankMap.without(direction)(x) @ basis
    expected = x @ basis
    expected[..., 0] = 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    nothing = LowRankMap.without(torch.zeros(NEURONS, dtype=torch.double))
    assert torch.equal(nothing(x), x)


def test_rows_have_strengths_of_their_own_and_0_is_the_plain_model_to_the_bit():
    module = torch.nn.Sequential(torch.nn.Linear(4, NEURONS))
    maps = ActivationMaps({"0": random_map()})
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        plain = module(x)
        with maps.applied(module, [0.0, 0.5, 2.0]):
            together = module(x)
        assert torch.equal(together[0], plain[0])
        for row, strength in ((1, 0.5), (2, 2.0)):
            with maps.applied(module, strength):
                assert torch.equal(module(x[row : row + 1])[0], together[row])


def test_autocast_and_half_precision_round_once_at_the_end():
    one, x = random_map(), activations(3, 4).bfloat16()
    model = torch.nn.Sequential(torch.nn.Identity())
    expected = one(x.float()).bfloat16()
    with ActivationMaps({"0": one}).applied(model, 1.0):
        assert torch.equal(model(x), expected)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model(x), expected)


def test_fingerprints_tell_parts_and_kinds_and_those_of_affine_maps_are_what_they_were():
    one = random_map()
    assert ActivationMaps({"a": one}).fingerprint == ActivationMaps({"a": random_map()}).fingerprint
    others = [random_map(seed=5), random_map(1), LowRankMap(one.up, one.down, one.bias + 1)]
    prints = {ActivationMaps({"a": each}).fingerprint for each in (one, *others)}
    assert len(prints) == 4
    vectors = torch.arange(4.0 * 3).reshape(4, 3)
    digest = hashlib.sha256(b"all|a|True|3|" + vectors.numpy().astype("<f4").tobytes())
    found = ActivationMaps({"a": AffineMap(*vectors, clip=True)}).fingerprint
    assert found == digest.hexdigest()


def test_a_site_of_another_width_is_refused():
    model, maps = torch.nn.Sequential(torch.nn.ReLU()), ActivationMaps({"0": random_map()})
    refused = pytest.raises(ValueError, match="module '0' has 5 neurons, its map 7")
    with maps.applied(model, 1.0), refused:
        model(torch.zeros(2, 5))
