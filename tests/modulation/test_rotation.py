"""Rotations within a plane, against complex numbers and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.modulation.rotation import RotationMap

NEURONS = 7


def draws(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.double)


BASIS = torch.linalg.qr(draws(NEURONS, NEURONS))[0]
TURN = RotationMap(BASIS[:, 0].contiguous(), BASIS[:, 1].contiguous())


@pytest.mark.parametrize("strength", [0.3, 1.0, 1.5, -0.5])
def test_the_angle_that_is_left_is_asked_for_and_the_length_stays(strength):
    x = draws(5, 4, NEURONS, seed=1)
    found, plain = TURN(x, strength) @ BASIS, x @ BASIS
    plane = (plain[..., 0] + 1j * plain[..., 1]).numpy()
    expected = np.abs(plane) * np.exp(1j * (1 - strength) * np.angle(plane))
    np.testing.assert_allclose((found[..., 0] + 1j * found[..., 1]).numpy(), expected, atol=1e-12)
    torch.testing.assert_close(found[..., 2:], plain[..., 2:], rtol=0, atol=1e-12)
    torch.testing.assert_close(TURN(x, strength).norm(dim=-1), x.norm(dim=-1))


def test_at_full_strength_it_is_the_papers_steering_to_angle_0():
    """x - P x + |P x| b, arXiv 2510.26243, with P the projection on the plane."""
    x = draws(6, NEURONS, seed=2)
    projected = x @ BASIS[:, :2] @ BASIS[:, :2].T
    expected = x - projected + projected.norm(dim=-1, keepdim=True) * BASIS[:, 0]
    torch.testing.assert_close(TURN(x), expected)


def test_the_displacement_is_the_derivative_at_strength_0():
    x, step = draws(6, NEURONS, seed=3), 1e-6
    slope = (TURN(x, step) - TURN(x, -step)) / (2 * step)
    torch.testing.assert_close(TURN.displacement(x), slope, rtol=1e-6, atol=1e-8)


def test_rows_have_strengths_of_their_own_and_0_is_the_plain_model_to_the_bit():
    model = torch.nn.Sequential(torch.nn.Identity())
    maps, x = ActivationMaps({"0": TURN.to("cpu")}), draws(3, 5, NEURONS, seed=4).float()
    with maps.applied(model, [0.0, 0.5, 1.0]):
        found = model(x)
    assert torch.equal(found[0], x[0])
    for row, strength in ((1, 0.5), (2, 1.0)):
        with maps.applied(model, strength):
            assert torch.equal(model(x[row : row + 1])[0], found[row])


def test_what_has_no_part_in_the_plane_stays():
    assert torch.equal(TURN(torch.zeros(2, NEURONS).double()), torch.zeros(2, NEURONS).double())
