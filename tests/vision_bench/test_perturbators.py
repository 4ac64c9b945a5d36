"""Perturbators against the distributions they promise, and the configs they are read from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional

from aim_plugins.core.settings import make_settings
from vision_bench.data.segmentation_layouts import ADE20K_CLASSES
from vision_bench.perturbators import (
    MultiClassPerturbator,
    SingleClassPerturbator,
    UtilityPerturbator,
    image_key,
    pixel_noise,
)
from vision_bench.segmentation.perturbation_config import Perturbation

LOGITS = torch.randn(5, 61, 83, generator=torch.Generator().manual_seed(0))
ALL = [
    UtilityPerturbator(1.5, seed=3),
    SingleClassPerturbator(1.5, 2, seed=3),
    MultiClassPerturbator(1.5, [4, 1], [True, False], seed=3),
]


def _same_distribution(values: torch.Tensor, law) -> bool:
    return stats.kstest(values.double().flatten().numpy(), law.cdf).pvalue > 1e-3


def test_utility_noise_is_normal_and_two_sided():
    noise = (UtilityPerturbator(1.5)(LOGITS, "a.jpg") - LOGITS).numpy()
    assert _same_distribution(torch.from_numpy(noise), stats.norm(scale=1.5))
    assert abs(noise.mean()) < 4 * 1.5 / np.sqrt(noise.size)


def test_utility_noise_is_independent_between_classes_and_neighbours():
    noise = (UtilityPerturbator(1.0)(LOGITS, 7) - LOGITS).double()
    pairs = {
        "classes": (noise[1:], noise[:-1]),
        "rows": (noise[:, 1:], noise[:, :-1]),
        "columns": (noise[:, :, 1:], noise[:, :, :-1]),
    }
    for left, right in pairs.values():
        correlation = np.corrcoef(left.flatten(), right.flatten())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(left.numel())


@pytest.mark.parametrize("positive", [True, False])
def test_focus_moves_its_target_alone_by_a_half_normal(positive):
    result = SingleClassPerturbator(2.0, 2, positive)(LOGITS, 1)
    shift = (result - LOGITS)[2]
    assert _same_distribution(shift if positive else -shift, stats.halfnorm(scale=2.0))
    others = [0, 1, 3, 4]
    assert torch.equal(result[others], LOGITS[others])


def test_targets_draw_independently_and_each_in_its_direction():
    shift = MultiClassPerturbator(2.0, [4, 1], [True, False])(LOGITS, 1) - LOGITS
    assert (shift[4] >= 0).all() and (shift[1] <= 0).all()
    assert _same_distribution(shift[4], stats.halfnorm(scale=2.0))
    assert _same_distribution(-shift[1], stats.halfnorm(scale=2.0))
    correlation = np.corrcoef(shift[4].flatten(), shift[1].flatten())[0, 1]
    assert abs(correlation) < 4 / np.sqrt(shift[4].numel())
    assert torch.equal(shift[[0, 2, 3]], torch.zeros(3, 61, 83))


@pytest.mark.parametrize("perturbator", ALL)
def test_every_std_scales_the_same_noise(perturbator):
    zero = torch.zeros(5, 9, 9)
    one, three = (perturbator.at(std)(zero, "x") for std in (1.0, 3.0))
    assert torch.allclose(3 * one, three, rtol=1e-6)
    assert one.abs().max() > 1


@pytest.mark.parametrize("perturbator", ALL)
def test_logits_given_are_left_alone(perturbator):
    logits = LOGITS.clone()
    changed = perturbator(logits, 0)
    unchanged = perturbator.at(0.0)(logits, 0)
    assert not torch.equal(changed, logits)
    assert torch.equal(unchanged, logits)
    unchanged.zero_()
    assert torch.equal(logits, LOGITS)


@pytest.mark.parametrize("perturbator", ALL)
def test_noise_belongs_to_the_image_and_not_to_its_batch(perturbator):
    batch = torch.stack([LOGITS, LOGITS])
    together = perturbator(batch, ["b", "a"])
    assert torch.equal(together[1], perturbator(LOGITS, "a"))
    assert torch.equal(together[0], perturbator(LOGITS, "b"))
    assert not torch.equal(together[0], together[1])


def test_seeds_give_other_noise():
    perturbator = UtilityPerturbator(1.0, seed=3)
    assert torch.equal(perturbator.at(2.0, seed=4)(LOGITS), UtilityPerturbator(2.0, 4)(LOGITS))
    assert not torch.equal(perturbator(LOGITS), perturbator.at(1.0, seed=4)(LOGITS))


def test_memory_layout_and_tiles_do_not_change_the_noise():
    perturbator = UtilityPerturbator(1.0)
    batch = LOGITS[None].contiguous(memory_format=torch.channels_last)
    assert torch.equal(perturbator(batch, [0])[0], perturbator(LOGITS, 0))
    whole = pixel_noise(image_key("a"), range(5), range(1000))
    part = pixel_noise(image_key("a"), [3, 1], range(301, 777))
    assert torch.allclose(part, whole[[3, 1], 301:777], atol=1e-6)


def test_focus_and_utility_share_the_draws_of_a_class():
    utility = UtilityPerturbator(1.0, seed=5)(torch.zeros(5, 4, 4), "a")
    focus = SingleClassPerturbator(1.0, 3, seed=5)(torch.zeros(5, 4, 4), "a")
    assert torch.allclose(focus[3], utility[3].abs(), atol=1e-6)


def test_classifier_logits_are_a_batch_of_single_pixels():
    logits = torch.randn(3, 10)
    result = UtilityPerturbator(1.0)(logits, [0, 1, 2])
    image = UtilityPerturbator(1.0)(logits[:, :, None, None], [0, 1, 2])
    assert torch.equal(result, image[:, :, 0, 0])


def test_half_precision_is_widened():
    result = UtilityPerturbator(1e-4)(LOGITS.half(), 0)
    assert result.dtype == torch.float32
    assert not torch.equal(result, LOGITS.half().float())


def test_upsampling_after_the_noise_would_weaken_it():
    """What AIM's order, upsampling first, is for: interpolation averages noise away."""
    noise = UtilityPerturbator(1.0)(torch.zeros(1, 64, 64))
    late = functional.interpolate(noise[None], scale_factor=4, mode="bilinear")
    assert float(late.std()) < 0.75
    assert float(UtilityPerturbator(1.0)(torch.zeros(1, 256, 256)).std()) > 0.98


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UtilityPerturbator(-1.0), "std=-1.0 is negative"),
        (lambda: SingleClassPerturbator(1.0, -1), "target -1 is no class index"),
        (lambda: SingleClassPerturbator(1.0, True), "target True is no class index"),
        (lambda: SingleClassPerturbator(1.0, 0, "false"), "neither true nor false"),
        (lambda: MultiClassPerturbator(1.0, []), "is empty"),
        (lambda: MultiClassPerturbator(1.0, [1, 1]), "twice"),
        (lambda: MultiClassPerturbator(1.0, [1, 2], [True]), "1 answers for 2"),
        (lambda: SingleClassPerturbator(1.0, 5)(LOGITS), r"target 5 is outside .*\[0, 5\)"),
        (lambda: MultiClassPerturbator(1.0, [0, 9])(LOGITS), "target 9 is outside"),
        (lambda: UtilityPerturbator(1.0)(LOGITS[0, 0]), "logits have shape"),
        (lambda: UtilityPerturbator(1.0)(torch.stack([LOGITS, LOGITS])), "share their noise"),
        (lambda: UtilityPerturbator(1.0)(LOGITS, ["a", "b"]), "2 names for one image"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


BLOCK = {
    "METHOD": "single",
    "RATIO": 0.2,
    "STEP_SIZE": 0.4,
    "STEP_LIMIT": 10,
    "TARGET_IDX": 136,
    "POSITIVE": True,
    "TARGETS": [{"index": 136, "positive": True}, {"index": 20, "positive": False}],
}


def levels_of(block, **options):
    return make_settings(Perturbation, block, "PERTURBATION").levels(ADE20K_CLASSES, **options)


def test_levels_of_a_config_are_counted_in_decimal():
    levels = levels_of(BLOCK, seed=4)
    assert [level.std for level in levels] == [0.2, 0.6, 1.0, 1.4, 1.8, 2.2, 2.6, 3.0, 3.4, 3.8]
    assert all(level == SingleClassPerturbator(level.std, 136, True, seed=4) for level in levels)


def test_a_direction_can_be_turned_off():
    level = levels_of({**BLOCK, "POSITIVE": False})[0]
    assert level == SingleClassPerturbator(0.2, 136, False)


def test_targets_have_directions_of_their_own():
    level = levels_of({**BLOCK, "METHOD": "multi"})[9]
    assert level == MultiClassPerturbator(3.8, [136, 20], [True, False])
    assert level.directions(150) == {136: 1, 20: -1}


def test_targets_are_named_or_numbered():
    assert levels_of({**BLOCK, "TARGET_IDX": "traffic light"}) == levels_of(BLOCK)
    assert levels_of({**BLOCK, "TARGET_IDX": "136"}) == levels_of(BLOCK)
    targets = [{"index": "traffic light"}, {"index": "car", "positive": False}]
    multi = {**BLOCK, "METHOD": "multi"}
    assert levels_of({**multi, "TARGETS": targets}) == levels_of(multi)


def test_utility_is_two_sided():
    assert levels_of({**BLOCK, "METHOD": "utility"})[1] == UtilityPerturbator(0.6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"METHOD": "double"}, "METHOD='double': choose one of 'single', 'multi', 'utility'"),
        ({"STEP_SISE": 1}, "did you mean 'STEP_SIZE'"),
        ({"STEP_LIMIT": 0}, "STEP_LIMIT=0"),
        ({"STEP_LIMIT": 2.5}, "STEP_LIMIT=2.5"),
        ({"STEP_SIZE": 0}, "levels would be the same"),
        ({"RATIO": -1}, "RATIO=-1.0 is negative"),
        ({"POSITIVE": "false"}, "POSITIVE='false': give True or False"),
        ({"TARGET_IDX": 150}, "TARGET_IDX holds 150, outside the 150 classes"),
        ({"TARGET_IDX": -1}, "TARGET_IDX holds -1, outside the 150 classes"),
        ({"TARGET_IDX": "trafic light"}, "TARGET_IDX holds 'trafic light', .*'traffic light'"),
        ({"METHOD": "multi", "TARGETS": [{"index": "persn"}]}, "TARGETS holds 'persn'.*'person'"),
        ({"METHOD": "multi", "TARGETS": [{"index": 12}, {"index": "person"}]}, "class twice"),
        ({"METHOD": "multi", "TARGETS": "person"}, "TARGETS='person': give a list"),
        ({"METHOD": "multi", "TARGETS": [12]}, "TARGETS holds 12"),
        ({"METHOD": "multi", "TARGETS": [{"index": 150}]}, "TARGETS holds 150, outside"),
        (
            {"METHOD": "multi", "TARGETS": [{"index": 3, "positve": False}]},
            "TARGETS holds 'positve', .*; did you mean 'positive'",
        ),
    ],
)
def test_faulty_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        levels_of({**BLOCK, **change})


@pytest.mark.parametrize("missing", ["METHOD", "RATIO", "TARGET_IDX"])
def test_missing_settings_are_named(missing):
    block = {name: value for name, value in BLOCK.items() if name != missing}
    with pytest.raises(ValueError, match=f"holds no {missing}"):
        levels_of(block)
