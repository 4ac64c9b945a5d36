"""Attacks against closed forms on linear models, and the promises that all of them make."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from vision_bench.attacks import ATTACKS, FGSM, PGD, CarliniWagner, NormalisedModel, make_attack
from vision_bench.attacks.gradient_sign import uniform_start

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
EPS = 0.05
QUICK = {"fgsm": {"eps": EPS}, "pgd": {"eps": EPS, "alpha": 0.02}, "cw": {"c": 1.0, "searches": 3}}


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 6, 6, generator=generator)


def _linear(classes: int = 2, scale: float = 1.0) -> tuple[NormalisedModel, Tensor, Tensor]:
    """A linear classifier; its weight on pixels and its bias, both of class 1 less class 0."""
    linear = nn.Linear(108, classes)
    with torch.no_grad():
        linear.weight.copy_(_draw(classes, 108, seed=1) * scale)
        # Every image is near the hyperplane, so that no bound of [0, 1] is in the way.
        linear.bias.zero_()
    model = NormalisedModel(nn.Sequential(nn.Flatten(), linear), MEAN, STD)
    std = torch.tensor(STD)[:, None, None].expand(3, 6, 6).flatten()
    mean = torch.tensor(MEAN)[:, None, None].expand(3, 6, 6).flatten()
    difference = (linear.weight[1] - linear.weight[0]).detach()
    return model, difference / std, -(difference / std) @ mean


def _network(seed: int = 0) -> NormalisedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()]
        module = nn.Sequential(*layers, nn.Linear(128, 5))
    return NormalisedModel(module.eval(), MEAN, STD)


def _predicted(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).argmax(1)


def test_fgsm_of_a_linear_model_moves_every_pixel_by_eps_against_the_label():
    model, weight, _ = _linear()
    images = _images(8) * 0.8 + 0.1
    labels = torch.tensor([0, 1] * 4)
    against = torch.where(labels == 0, 1.0, -1.0)[:, None] * weight.sign()
    expected = images + EPS * against.view_as(images)
    assert torch.allclose(FGSM(EPS)(model, images, labels), expected, atol=1e-7)


def test_fgsm_follows_the_sign_of_the_cross_entropy():
    model, images = _network(), _images(8)
    labels = torch.arange(8) % 5
    leaf = images.double().requires_grad_()
    functional.cross_entropy(model.double()(leaf), labels).backward()
    assert leaf.grad is not None
    expected = (images.double() + EPS * leaf.grad.sign()).clamp(0, 1)
    assert torch.allclose(FGSM(EPS)(model, images.double(), labels), expected)


def test_fgsm_moves_images_of_which_the_network_is_so_sure_that_the_cross_entropy_is_flat():
    model, weight, _ = _linear(scale=1e4)
    images = _images(6) * 0.8 + 0.1
    labels = _predicted(model, images)
    leaf = images.clone().requires_grad_()
    functional.cross_entropy(model(leaf), labels, reduction="sum").backward()
    assert leaf.grad is not None and not leaf.grad.any()
    against = torch.where(labels == 0, 1.0, -1.0)[:, None] * weight.sign()
    expected = images + EPS * against.view_as(images)
    assert torch.allclose(FGSM(EPS)(model, images, labels), expected, atol=1e-7)


@pytest.mark.parametrize("random_start", [True, False])
def test_pgd_on_a_linear_model_reaches_the_corner_of_the_ball(random_start):
    model, weight, _ = _linear()
    images, labels = _images(8), torch.tensor([0, 1] * 4)
    against = torch.where(labels == 0, 1.0, -1.0)[:, None] * weight.sign()
    corner = (images + EPS * against.view_as(images)).clamp(0, 1)
    attack = PGD(EPS, alpha=0.02, steps=6, random_start=random_start)
    assert torch.allclose(attack(model, images, labels), corner, atol=1e-7)


def test_pgd_of_one_step_from_the_image_is_fgsm():
    model, images, labels = _network(), _images(8), torch.arange(8) % 5
    one = PGD(EPS, alpha=EPS, steps=1, random_start=False)(model, images, labels)
    assert torch.equal(one, FGSM(EPS)(model, images, labels))


def test_the_random_start_is_uniform_and_keyed_by_seed_and_index():
    draws = uniform_start(torch.arange(50), 400, seed=3)
    law = stats.uniform(loc=-1, scale=2)
    assert stats.kstest(draws.flatten().double().numpy(), law.cdf).pvalue > 1e-3
    assert abs(np.corrcoef(draws[:-1].flatten(), draws[1:].flatten())[0, 1]) < 4 / math.sqrt(19600)
    assert torch.equal(uniform_start(torch.tensor([7]), 400, seed=3)[0], draws[7])
    assert not torch.equal(uniform_start(torch.tensor([7]), 400, seed=4)[0], draws[7])


def test_cw_lands_on_the_hyperplane_of_a_linear_model():
    model, weight, bias = _linear()
    images = _images(12) * 0.4 + 0.3
    labels = _predicted(model, images)
    distance = (images.flatten(1) @ weight + bias).abs() / weight.norm()
    found = CarliniWagner(steps=300, searches=8, lr=0.005)(model, images, labels)
    assert (_predicted(model, found) != labels).all()
    ratio = (found - images).flatten(1).norm(dim=1) / distance
    assert (ratio >= 0.999).all() and (ratio < 1.02).all()


def test_cw_with_confidence_goes_beyond_the_hyperplane_by_as_many_logits():
    model, weight, bias = _linear()
    images = _images(12) * 0.4 + 0.3
    labels = _predicted(model, images)
    margin = (images.flatten(1) @ weight + bias).abs()
    attack = CarliniWagner(confidence=3.0, steps=300, searches=8, lr=0.005)
    ratio = (attack(model, images, labels) - images).flatten(1).norm(dim=1) / (
        (margin + 3) / weight.norm()
    )
    assert (ratio >= 0.999).all() and (ratio < 1.02).all()


def test_cw_returns_the_clean_image_where_it_finds_nothing_and_where_nothing_is_to_do():
    model, images = _network(), _images(4)
    labels = _predicted(model, images)
    weak = CarliniWagner(c=1e-9, searches=1, steps=3)
    assert torch.equal(weak(model, images, labels), images)
    wrong = (labels + 1) % 5
    assert torch.equal(CarliniWagner(searches=1, steps=3)(model, images, wrong), images)


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_stay_in_range_and_in_the_ball_and_repeat(name):
    model, images = _network(), _images(10).round(decimals=1)
    labels = _predicted(model, images)
    attack = make_attack(name, **QUICK[name])
    found = attack(model, images, labels)
    assert found.shape == images.shape and found.dtype == images.dtype
    assert found.min() >= 0 and found.max() <= 1
    if name != "cw":
        assert (found - images).abs().max() <= EPS + 1e-7
    assert torch.equal(found, attack(model, images, labels))
    assert (_predicted(model, found) != labels).sum() >= 5


@pytest.mark.parametrize("name", ATTACKS)
def test_a_row_does_not_depend_on_its_neighbours(name):
    model, images = _network().double(), _images(9).double()
    labels = _predicted(model, images)
    attack = make_attack(name, **QUICK[name])
    whole = attack(model, images, labels)
    picked = torch.tensor([7, 2, 5])
    part = attack(model, images[picked], labels[picked], indices=picked)
    assert torch.allclose(part, whole[picked], atol=1e-9)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_leaves_model_images_and_random_state_as_they_were(name):
    model, images = _network(), _images(4)
    model.train()
    model.module[1].eval()
    model.module[5].weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    given, state = images.clone(), torch.random.get_rng_state()
    with torch.inference_mode():
        make_attack(name, **QUICK[name])(model, images, torch.arange(4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(images, given)
    assert [one.training for one in model.module] == [True, False, True, True, True, True]
    assert model.training and not model.module[5].weight.requires_grad
    assert model.module[0].weight.requires_grad and model.module[5].bias.requires_grad
    assert all(one.grad is None for one in model.parameters())
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("name", ATTACKS)
def test_no_images_are_no_images(name):
    found = make_attack(name)(_network(), _images(0), torch.arange(0))
    assert found.shape == (0, 3, 6, 6)


def test_a_normalised_model_gives_what_the_network_gives_on_normalised_images():
    model, images = _network(), _images(4)
    mean, std = (torch.tensor(one)[None, :, None, None] for one in (MEAN, STD))
    normalised = (images - mean) / std
    with torch.no_grad():
        assert torch.allclose(model(images), model.module(normalised), atol=1e-6)
    assert torch.allclose(model.pixels(normalised), images, atol=1e-6)


def test_one_mean_serves_grey_images():
    model = NormalisedModel(nn.Flatten(), [0.5], [0.25])
    assert torch.equal(model(torch.full((1, 1, 2, 2), 0.75)), torch.ones(1, 4))


class _Constant(nn.Module):
    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits + 0 * images.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (_images(3) * 4 - 2, [0, 1, 2], r"images hold values from .*NormalisedModel.pixels"),
        (_images(3) * math.nan, [0, 1, 2], "images hold values from nan"),
        (_images(3), [0, -1, 2], "labels hold -1"),
        (_images(3), [0, 5, 2], "labels hold 5, but the model has classes 0 to 4"),
    ],
)
@pytest.mark.parametrize("name", ATTACKS)
def test_bad_images_and_labels_are_refused(name, images, labels, message):
    with pytest.raises(ValueError, match=message):
        make_attack(name)(_network(), images, torch.tensor(labels))


def test_models_without_usable_logits_are_refused():
    images, labels = _images(2), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="logits of 2 images are not finite, first of image 0"):
        FGSM()(_Constant([0.0, math.nan]), images, labels)
    with pytest.raises(ValueError, match=r"shape \(2, 1\).*at least 2 classes"):
        FGSM()(_Constant([0.0]), images, labels)


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="indices are .* for 2 images"):
        PGD()(_network(), _images(2), torch.zeros(2, dtype=torch.int64), indices=[1, 2, 3])


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("fgms", {}, "attack='fgms': did you mean 'fgsm'"),
        ("pgd", {"eps": 8}, "eps=8.*share of the range"),
        ("pgd", {"steps": 0}, "steps=0"),
        ("cw", {"kappa": 1}, "kappa"),
        ("cw", {"c": 0.0}, "c=0.0"),
        ("cw", {"confidence": -1.0}, "confidence=-1.0"),
    ],
)
def test_unknown_attacks_and_bad_parameters_are_refused(name, fields, message):
    with pytest.raises(ValueError, match=message):
        make_attack(name, **fields)


def test_bad_normalisations_are_refused():
    with pytest.raises(ValueError, match="mean has 3 numbers and std 1"):
        NormalisedModel(nn.Flatten(), MEAN, [0.2])
    with pytest.raises(ValueError, match="give numbers above 0"):
        NormalisedModel(nn.Flatten(), [0.5], [0.0])
