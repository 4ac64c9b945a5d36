"""Random suites: noise like the images of the suite, another one for each draw."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from aim_plugins.coverage.growth import growth_steps
from vision_bench.coverage.measure import Measurement, _count_answers
from vision_bench.coverage.subject import Subject
from vision_bench.models.model import wrap_model
from vision_bench.models.preprocessing import Preprocessing

MEAN, STD = [0.2, 0.5, 0.7], [0.1, 0.2, 0.4]


@pytest.fixture(scope="module")
def measurement() -> Measurement:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 2))
    model = wrap_model(net, classes=2, preprocessing=Preprocessing(mean=MEAN, std=STD))
    subject = Subject(model, [], torch.zeros(1, 3, 4, 4), device="cpu", batch_size=64)
    return Measurement(subject, None, None, None)  # type: ignore[arg-type]


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(one)[:, None, None] for one in (MEAN, STD))
    return (pixels - mean) / std


def noise(measurement: Measurement, like: torch.Tensor, seed: int = 0) -> torch.Tensor:
    drawn = torch.cat([one.pixels for one in measurement._noise(500, seed, like)])
    mean, std = (torch.tensor(one)[:, None, None] for one in (MEAN, STD))
    return drawn * std + mean


def test_noise_is_uniform_in_pixels(measurement: Measurement) -> None:
    like = normalised(torch.rand(1, 3, 4, 4))
    pixels = noise(measurement, like)
    assert pixels.shape == (500, 3, 4, 4)
    assert pixels.min() > -1e-5 and pixels.max() < 1 + 1e-5
    assert pixels.std().item() == pytest.approx(12**-0.5, abs=5e-3)


def test_noise_beside_grey_images_is_grey(measurement: Measurement) -> None:
    like = normalised(torch.rand(1, 1, 4, 4).expand(-1, 3, -1, -1))
    pixels = noise(measurement, like)
    torch.testing.assert_close(pixels[:, 0], pixels[:, 2])
    # A model that takes the mean of the channels sees noise as wide as on any of them.
    assert pixels.mean(1).std().item() == pytest.approx(12**-0.5, abs=1e-2)


def test_each_draw_is_another_one(measurement: Measurement) -> None:
    like = normalised(torch.rand(1, 3, 4, 4))
    assert not torch.equal(noise(measurement, like, 0), noise(measurement, like, 1))
    assert torch.equal(noise(measurement, like, 1), noise(measurement, like, 1))


def test_growth_is_noted_up_to_the_whole_suite() -> None:
    for count in (1, 7, 1000):
        steps = growth_steps(count)
        assert steps[0] == 1 and steps[-1] == count and steps == sorted(set(steps))


def test_answers_count_the_classes_of_the_suite_alone() -> None:
    answers = [[0, 0, 0] for _ in range(4)]
    _count_answers(answers, torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1]))
    _count_answers(answers, torch.tensor([1]), torch.tensor([2]))
    store = SimpleNamespace(read_batch={"answers,4": answers}.get)
    measured = Measurement(None, None, None, store)  # type: ignore[arg-type]
    found = measured.answers(4, SimpleNamespace(classes="abcd"))  # type: ignore[arg-type]
    # c is labelled and never predicted; d is neither.
    assert (found.right, found.never) == (2, ("c",))
