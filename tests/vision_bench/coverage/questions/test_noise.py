"""Noise on relevant and on random pixels, against closed forms of a linear model."""

from __future__ import annotations

import torch
from scipy import stats
from torch import nn

from vision_bench.coverage.questions.noise import (
    add_noise,
    most_relevant,
    pixel_relevance,
    random_pixels,
    share_of,
)

SIDE = 6
POSITIONS = torch.tensor([3, 11, 40])


def draw(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def test_relevance_in_a_linear_model_is_weight_times_input_of_the_predicted_class():
    torch.manual_seed(0)
    linear = nn.Linear(3 * SIDE * SIDE, 4)
    images = draw() - 0.5
    weights = linear.weight.detach().view(4, 3, SIDE, SIDE)
    predicted = linear(images.flatten(1)).argmax(1)
    expected = (weights[predicted].double() * images.double()).sum(1).abs().flatten(1)
    found = pixel_relevance(nn.Sequential(nn.Flatten(), linear), images)
    assert torch.allclose(found.double(), expected, atol=1e-6)
    assert linear.weight.grad is None


def test_the_most_relevant_pixels_are_those_of_the_largest_relevance():
    relevance = torch.tensor([[0.1, 0.9, 0.5, 0.2], [3.0, 0.0, 1.0, 2.0]])
    chosen = most_relevant(relevance, 0.5)
    assert [set(row) for row in chosen.tolist()] == [{1, 2}, {0, 3}]


def test_a_share_is_rounded_up_and_is_one_pixel_at_least():
    assert [share_of(1024, 0.02), share_of(100, 0.02), share_of(10, 0.001)] == [21, 2, 1]


def test_random_pixels_are_distinct_and_depend_on_the_image_alone():
    every = random_pixels(POSITIONS, SIDE**2, 9, seed=1)
    assert all(len(set(row)) == 9 for row in every.tolist())
    assert torch.equal(random_pixels(POSITIONS[1:2], SIDE**2, 9, seed=1)[0], every[1])
    assert not torch.equal(random_pixels(POSITIONS, SIDE**2, 9, seed=2), every)


def test_random_pixels_fall_everywhere_alike():
    chosen = random_pixels(torch.arange(2000), 16, 4, seed=0)
    counts = chosen.flatten().bincount(minlength=16)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_noise_changes_the_chosen_pixels_alone_and_stays_within_the_range():
    pixels, chosen = draw(), random_pixels(POSITIONS, SIDE**2, 5, seed=0)
    noisy = add_noise(pixels, chosen, POSITIONS, 0.5, seed=0)
    changed = (noisy != pixels).any(1).flatten(1)
    for row, places in enumerate(chosen.tolist()):
        assert set(changed[row].nonzero()[:, 0].tolist()) <= set(places)
    assert changed.sum() >= 12  # but for what is clipped back
    assert float(noisy.min()) >= 0
    assert float(noisy.max()) <= 1


def test_noise_is_the_same_in_every_batch_and_on_every_choice_of_pixels():
    pixels, every = draw(), torch.arange(SIDE**2).expand(3, -1)
    noisy = add_noise(pixels, every, POSITIONS, 0.1, seed=4)
    few = torch.tensor([[2, 7]])
    alone = add_noise(pixels[1:2], few, POSITIONS[1:2], 0.1, seed=4)
    assert torch.allclose(alone[0].flatten(1)[:, few[0]], noisy[1].flatten(1)[:, few[0]])


def test_noise_has_the_standard_deviation_that_is_asked_for():
    pixels, positions = torch.full((200, 3, 8, 8), 0.5), torch.arange(200)
    pixels[:, 0] += 0.01  # no grey, so that channels have draws of their own
    noisy = add_noise(pixels, torch.arange(64).expand(200, -1), positions, 0.05, seed=0)
    noise = (noisy - pixels).double()
    assert abs(float(noise.std()) - 0.05) < 0.001
    assert abs(float((noise[:, 0] * noise[:, 1]).mean())) < 1e-4


def test_grey_images_stay_grey():
    pixels = draw()[:, :1].expand(-1, 3, -1, -1)
    noisy = add_noise(pixels, torch.arange(SIDE**2).expand(3, -1), POSITIONS, 0.3, seed=0)
    assert torch.equal(noisy[:, 0], noisy[:, 2])
    assert not torch.equal(noisy, pixels)
