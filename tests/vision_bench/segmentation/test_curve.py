"""Segmentation sweeps against loops over strengths, exact laws against sampling."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics
from torch.nn import functional

from aim_plugins.modulation.ordering import argmax_probabilities, focus_probabilities
from aim_plugins.sweep.intervals import point_intervals
from aim_plugins.sweep.table import pool_draws
from vision_bench.logits.upsampling import tile_rows, upsample, upsample_pixels, upsample_rows
from vision_bench.perturbators import (
    MultiClassPerturbator,
    SingleClassPerturbator,
    UtilityPerturbator,
)
from vision_bench.segmentation import curve as segmentation
from vision_bench.segmentation.curve import predict_levels, segmentation_curve
from vision_bench.segmentation.envelope import upper_envelope
from vision_bench.segmentation.pixel_argmax import sampled_argmax
from vision_bench.segmentation.pixel_samples import sample_pixels

CLASSES = 6
STDS = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 20.0]
PERTURBATORS = [
    UtilityPerturbator(0, seed=3),
    SingleClassPerturbator(0, 2, seed=3),
    SingleClassPerturbator(0, 2, positive=False, seed=3),
    MultiClassPerturbator(0, [4, 1, 0], [True, False, True], seed=3),
    MultiClassPerturbator(0, list(range(CLASSES)), False, seed=3),
]


def _scene(seed: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Quarter-resolution logits in half precision, and labels that they often get right."""
    generator = torch.Generator().manual_seed(seed)
    size = (math.ceil(height / 4), math.ceil(width / 4))
    logits = 2.5 * torch.randn(CLASSES, *size, generator=generator)
    full = functional.interpolate(logits[None], size=(height, width), mode="bilinear")[0]
    labels = (full + torch.randn(full.shape, generator=generator)).argmax(0)
    labels[: height // 8] = 255
    return logits.half(), labels, f"{seed}.jpg"


@pytest.fixture(scope="module")
def scenes() -> list[tuple[torch.Tensor, torch.Tensor, str]]:
    """Images of several sizes, odd ones among them; class 5 never occurs in the ground truth."""
    scenes = [_scene(seed, 24 + 7 * seed, 45 - 4 * seed) for seed in range(5)]
    for _, labels, _ in scenes:
        labels[labels == 5] = 0
    return scenes


def _upsampled(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return upsample(logits, tuple(labels.shape))


@pytest.mark.parametrize("perturbator", PERTURBATORS)
def test_sweep_equals_a_loop_over_strengths_with_the_same_noise(scenes, perturbator, monkeypatch):
    monkeypatch.setattr(segmentation, "tile_rows", lambda c, size: tile_rows(c, size, 1500))
    curve = segmentation_curve(scenes, perturbator, STDS, draws=2)
    for draw, (level, std) in itertools.product(range(2), enumerate(STDS)):
        labels, predictions = [], []
        for logits, truth, name in scenes:
            noisy = perturbator.at(std, seed=3 + draw)(_upsampled(logits, truth), name)
            labels.append(truth[truth != 255])
            predictions.append(noisy.argmax(0)[truth != 255])
        expected = metrics.confusion_matrix(
            torch.cat(labels), torch.cat(predictions), labels=range(CLASSES)
        )
        assert np.array_equal(curve.confusion[draw, level].numpy(), expected), (draw, std)


def test_many_strengths_cost_no_accuracy():
    """Every argmax of 101 levels, bit for bit, of 150 classes and of logits with ties."""
    generator = torch.Generator().manual_seed(0)
    stds = [round(0.2 * level, 1) for level in range(101)]
    logits = 4 * torch.randn(150, 3000, generator=generator)
    tied = torch.randint(-2, 3, (150, 3000), generator=generator).float()
    impossible = logits.masked_fill(torch.rand(logits.shape, generator=generator) < 0.5, -math.inf)
    noise = torch.randn(150, 3000, generator=generator)
    coarse = torch.randint(-3, 4, (150, 3000), generator=generator).float()
    for intercepts, slopes in (
        (logits, noise),
        (tied, noise),
        (impossible, noise),
        (tied, coarse),
        (logits.double(), noise.double()),
        (logits[:2], noise[:2]),
    ):
        loop = torch.stack([(slopes * std).add_(intercepts).argmax(0) for std in stds])
        assert torch.equal(upper_envelope(intercepts, slopes, stds).argmax(), loop)


@pytest.mark.parametrize("stds", [[3.0], [0.0, 5.0], [1.0, 1.5, 9.0]])
def test_any_number_of_strengths_will_do(stds):
    generator = torch.Generator().manual_seed(1)
    logits, noise = torch.randn(2, 20, 500, generator=generator)
    loop = torch.stack([(noise * std).add_(logits).argmax(0) for std in stds])
    assert torch.equal(upper_envelope(logits, noise, stds).argmax(), loop)


@pytest.mark.parametrize("directions", [None, {2: 1}, {5: 1, 0: -1}, {8: -1, 3: 1}])
def test_ties_go_to_the_first_class(directions):
    tied = torch.randint(0, 3, (9, 500), generator=torch.Generator().manual_seed(4)).float()
    winners = sampled_argmax(tied, directions, [0.0, 1.0], key=1).argmax()
    assert torch.equal(winners[0], tied.argmax(0))


def test_changes_sum_to_confusion_matrices():
    logits = torch.randn(9, 400, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(400) % 10
    for directions in (None, {2: 1, 5: -1}):
        sampled = sampled_argmax(logits, directions, STDS, key=1)
        counts = torch.zeros(len(STDS), 10, 9, dtype=torch.int64)
        sampled.add_changes(labels, counts)
        for level, winners in enumerate(sampled.argmax()):
            expected = metrics.confusion_matrix(labels, winners, labels=range(10))[:, :9]
            assert np.array_equal(counts.cumsum(0)[level].numpy(), expected)


@pytest.mark.parametrize("size", [(64, 64), (61, 87), (16, 16), (16, 33), (1, 1), (9, 11)])
def test_upsampling_is_that_of_torch(size):
    logits = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    whole = functional.interpolate(logits[None], size=size, mode="bilinear")[0].flatten(1)
    tiles = [upsample_rows(logits, size, rows) for rows in tile_rows(3, size, elements=400)]
    assert torch.allclose(torch.cat(tiles, 1), whole, atol=1e-5)
    assert torch.equal(torch.cat(tiles, 1), upsample(logits, size).flatten(1))
    pixels = torch.randperm(size[0] * size[1], generator=torch.Generator().manual_seed(1))
    assert torch.allclose(upsample_pixels(logits, size, pixels), whole[:, pixels], atol=1e-5)


@pytest.mark.parametrize("perturbator", PERTURBATORS)
@pytest.mark.parametrize("options", [{"draws": 1}, {"draws": 0, "exact": True, "exact_pixels": 9}])
def test_infinite_logits_are_refused_where_they_would_be_interpolated(perturbator, options):
    logits, labels = torch.zeros(CLASSES, 4, 4), torch.zeros(16, 16).long()
    logits[5, 2, 1] = -math.inf
    message = r"image 'x.jpg': logits hold -inf.*such as -1e4"
    with pytest.raises(ValueError, match=message):
        segmentation_curve([(logits, labels, "x.jpg")], perturbator, [0.5], **options)
    # At full size -inf only makes a class impossible.
    curve = segmentation_curve([(logits, labels[:4, :4], "x.jpg")], perturbator, [0.5], **options)
    assert curve.images == 1


def test_tiles_do_not_change_the_counts(scenes, monkeypatch):
    whole = segmentation_curve(scenes, PERTURBATORS[0], STDS)
    monkeypatch.setattr(segmentation, "tile_rows", lambda c, size: tile_rows(c, size, 600))
    parts = segmentation_curve(scenes, PERTURBATORS[0], STDS)
    assert torch.equal(whole.confusion, parts.confusion)


def test_noise_of_an_image_does_not_depend_on_the_others(scenes):
    alone = segmentation_curve(scenes[2:3], PERTURBATORS[0], STDS).confusion
    others = segmentation_curve(scenes[:2], PERTURBATORS[0], STDS).confusion
    assert torch.equal(
        segmentation_curve([scenes[2], scenes[1], scenes[0]], PERTURBATORS[0], STDS).confusion,
        alone + others,
    )


def test_no_noise_is_the_clean_model(scenes):
    clean = segmentation_curve(scenes, PERTURBATORS[0], 0, exact=True, exact_pixels=None)
    labels = torch.cat([truth[truth != 255] for _, truth, _ in scenes])
    answers = torch.cat(
        [_upsampled(logits, truth).argmax(0)[truth != 255] for logits, truth, _ in scenes]
    )
    rows = {(row.task, row.metric): row.value for row in clean.rows("s", {2: "dog"})}
    for suffix in ("", "_expected"):
        assert rows["s", "acc" + suffix] == pytest.approx(
            metrics.accuracy_score(labels, answers), abs=1e-4
        )
        iou = metrics.jaccard_score(labels, answers, average=None)
        assert rows["s", "miou" + suffix] == pytest.approx(iou.mean(), abs=1e-3)
        assert rows["s.dog", "iou" + suffix] == pytest.approx(iou[2], abs=1e-3)


@pytest.mark.parametrize("perturbator", PERTURBATORS)
def test_exact_counts_are_the_mean_of_sampled_ones(scenes, perturbator):
    draws = 40
    curve = segmentation_curve(
        scenes, perturbator, STDS[1:], draws=draws, exact=True, exact_pixels=None
    )
    sampled = curve.confusion.double()
    assert torch.allclose(
        curve.expected.sum(2), sampled[0].sum(2), rtol=1e-6
    )  # ground truth is known
    error = sampled.std(0) / math.sqrt(draws)
    z = (sampled.mean(0) - curve.expected) / error.clamp(min=0.5 / math.sqrt(draws))
    bound = stats.norm.isf(1e-4 / z.numel())
    assert float(z.abs().max()) < bound


def test_expected_counts_are_sums_of_probabilities(scenes):
    for perturbator in PERTURBATORS:
        curve = segmentation_curve(
            scenes[:2], perturbator, [0, 1.5], draws=0, exact=True, exact_pixels=None
        )
        total = torch.zeros(2, CLASSES, CLASSES, dtype=torch.float64)
        for logits, truth, _ in scenes[:2]:
            rows = _upsampled(logits, truth)[:, truth != 255].T
            directions = perturbator.directions(CLASSES)
            for level, std in enumerate([0.0, 1.5]):
                law = (
                    argmax_probabilities(rows, std)
                    if directions is None
                    else focus_probabilities(rows, directions, std)
                )
                total[level].index_add_(0, truth[truth != 255], law)
        assert torch.allclose(curve.expected[1], total[1], atol=1e-3)
        assert torch.equal(curve.expected[0], total[0])


def test_metrics_of_expected_counts_are_near_the_mean_of_sampled_metrics(scenes):
    curve = segmentation_curve(
        scenes, PERTURBATORS[0], [4.0], draws=100, exact=True, exact_pixels=None
    )
    rows = curve.rows("s", {1: "cat"})
    for task, metric in (("s", "miou"), ("s.cat", "iou"), ("s.cat", "recall")):
        values = [row.value for row in rows if (row.task, row.metric) == (task, metric)]
        (law,) = (r.value for r in rows if (r.task, r.metric) == (task, f"{metric}_expected"))
        assert len(values) == 100
        # The curvature of a ratio of few thousand pixels is of the order of 1e-4.
        assert law == pytest.approx(np.mean(values), abs=4 * stats.sem(values) + 3e-4)


@pytest.mark.parametrize("perturbator", [PERTURBATORS[0], PERTURBATORS[3]])
def test_the_law_knows_how_often_classes_without_ground_truth_are_predicted(perturbator):
    """Each of them that is predicted anywhere counts as 0 in the mean of that draw."""
    labels = torch.zeros(8, 8).long()
    labels[4:] = 1
    logits = torch.full((CLASSES, 8, 8), -6.0)
    logits[0, :4], logits[1, 4:] = 1.0, 1.0
    logits[4, 2, 2] = 3.0  # wrong with hardly any doubt
    curve = segmentation_curve(
        [(logits, labels, 0)], perturbator, [0.0, 1.8], draws=400, exact=True, exact_pixels=None
    )
    for convention in ("present", "labelled"):
        rows = curve.rows("s", mean_over=convention)
        for std in curve.stds:
            values = [r.value for r in rows if (r.metric, r.strength) == ("miou", std)]
            (law,) = (r.value for r in rows if (r.metric, r.strength) == ("miou_expected", std))
            assert law == pytest.approx(np.mean(values), abs=4 * stats.sem(values) + 2e-3)
            assert std == 0 or np.std(values) > 0.01
    clean = {r.metric: r.value for r in curve.rows("s") if r.strength == 0}
    assert clean["miou_expected"] == pytest.approx((31 / 32 + 1) / 3)
    assert clean["miou"] == pytest.approx((31 / 32 + 1) / 3)


def test_a_subsample_of_pixels_estimates_the_law_without_bias(scenes):
    logits, labels, _ = scenes[0]
    options = {"draws": 0, "exact": True}
    whole = segmentation_curve(
        [(logits, labels, 0)], PERTURBATORS[0], [2.0], exact_pixels=None, **options
    ).expected
    estimates = torch.cat(
        [
            segmentation_curve(
                [(logits, labels, key)], PERTURBATORS[0], [2.0], exact_pixels=100, **options
            ).expected
            for key in range(80)
        ]
    )
    pixels = int((labels != 255).sum())
    truth = torch.bincount(labels[labels != 255], minlength=CLASSES).double()
    assert torch.allclose(estimates.sum(2), truth.expand(80, -1), rtol=1e-6)
    spread = estimates.std(0).clamp(min=0.1) / math.sqrt(80)
    assert float(((estimates.mean(0) - whole[0]) / spread).abs().max()) < 5
    accuracy = estimates.diagonal(dim1=1, dim2=2).sum(1) / pixels
    expected = float(whole[0].diagonal().sum()) / pixels
    assert float(accuracy.mean()) == pytest.approx(expected, abs=4 * stats.sem(accuracy.numpy()))
    assert float(accuracy.std()) > 0


def _rare_class(images: int) -> list[tuple[torch.Tensor, torch.Tensor, str]]:
    """Images of 1600 pixels, 4 of them of a class that is found half the time."""
    items = []
    for index in range(images):
        labels = torch.zeros(40, 40, dtype=torch.int64)
        labels[0, :4] = 1
        logits = torch.zeros(3, 40, 40)
        logits[0] = 3.0
        logits[1, 0, :2] = 6.0
        items.append((logits, labels, f"{index}.png"))
    return items


def _value(curve: segmentation.SegmentationCurve, metric: str, level: int = 0) -> float:
    rows = [row for row in curve.rows("s", {1: "rare"}) if row.metric == metric]
    return next(row.value for row in rows if row.strength == curve.stds[level])


def test_sampled_pixels_do_not_lose_rare_classes():
    items = _rare_class(20)
    whole, part = (
        segmentation_curve(
            items, UtilityPerturbator(0), [0.0, 1.0], draws=0, exact=True, exact_pixels=pixels
        )
        for pixels in (None, 32)
    )
    # Without noise: 2 of 4 pixels are found, and 1598 are called the first class, 2 wrongly.
    assert _value(whole, "miou_expected") == pytest.approx((1596 / 1598 + 2 / 4) / 2)
    assert _value(part, "miou_expected") == _value(whole, "miou_expected")
    assert torch.allclose(part.expected.sum(2), whole.expected.sum(2), rtol=1e-6)
    for metric in ("mrecall_expected", "recall_expected"):
        law = _value(whole, metric, level=1)
        assert _value(part, metric, level=1) == pytest.approx(law, abs=1e-6)


@pytest.mark.parametrize("total", [1, 5, 30, 200, 2000])
def test_samples_of_pixels_hold_every_class(total):
    sizes = {0: 700, 2: 3, 3: 40, 5: 257}
    labels = torch.cat([torch.full((size,), label) for label, size in sizes.items()])
    labels = torch.cat([labels, torch.full((50,), 7)])[torch.randperm(1050)]
    pixels, weights = sample_pixels(labels, 7, total, seed=1)
    assert len(set(pixels.tolist())) == len(pixels)
    assert len(pixels) == max(4, min(total, 1000))
    chosen = labels[pixels]
    for label, size in sizes.items():
        stratum = weights[chosen == label]
        assert float(stratum.sum()) == pytest.approx(size)
        if size <= total / 4:
            assert len(stratum) == size
    assert set(chosen.tolist()) == set(sizes)


def test_precision_and_f1_do_not_follow_from_expected_counts():
    curve = segmentation_curve(_rare_class(1), UtilityPerturbator(0), [1.0], exact=True)
    names = {row.metric for row in curve.rows("s", {1: "rare"})}
    assert {name for name in names if name.endswith("_expected")} == {
        f"{name}_expected" for name in ("acc", "miou", "mrecall", "iou", "recall")
    }
    assert {"precision", "f1", "mprecision", "mf1"} <= names


@pytest.mark.parametrize(("labelled", "std"), [(1, 0.7), (4, 1.0), (30, 1.0)])
def test_iou_of_expected_counts_lies_below_by_its_stated_bound(labelled, std):
    """Against the exact expectation: hits and false pixels are independent binomials."""
    labels = torch.zeros(20, 20, dtype=torch.int64)
    labels.view(-1)[:labelled] = 1
    logits = torch.zeros(2, 20, 20)
    logits[0] = 2.0
    curve = segmentation_curve(
        [(logits, labels, 0)], UtilityPerturbator(0), [std], draws=0, exact=True, exact_pixels=None
    )
    p = stats.norm.sf(2.0 / (std * math.sqrt(2)))
    false = np.arange(400 - labelled + 1)
    odds = stats.binom.pmf(false, 400 - labelled, p)
    expected = labelled * p * float((odds / (labelled + false)).sum())
    (found,) = (r.value for r in curve.rows("s", {1: "rare"}) if r.metric == "iou_expected")
    assert 0 < (expected - found) / expected < 1 / (4 * labelled)


def test_standard_errors_are_those_of_a_jackknife_over_images(scenes):
    curve = segmentation_curve(scenes, PERTURBATORS[0], [1.0])
    found = {row.metric: row.stderr for row in curve.rows("s")}
    without = [
        segmentation_curve(
            [s for i, s in enumerate(scenes) if i != left_out], PERTURBATORS[0], [1.0]
        ).rows("s")
        for left_out in range(5)
    ]
    for position, row in enumerate(without[0]):
        values = np.array([rows[position].value for rows in without])
        expected = math.sqrt(4 / 5 * ((values - values.mean()) ** 2).sum())
        assert found[row.metric] == pytest.approx(expected, rel=1e-9)


def test_standard_errors_are_the_spread_over_samples_of_images():
    scenes = [_scene(seed, 16, 16) for seed in range(400)]
    values, errors = [], []
    for start in range(0, 400, 20):
        curve = segmentation_curve(scenes[start : start + 20], PERTURBATORS[0], [1.0])
        (row,) = (row for row in curve.rows("s") if row.metric == "miou")
        values.append(row.value)
        errors.append(row.stderr)
    # 20 samples know their own spread to 16%.
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.5)


def test_groups_of_images_count_each_image_once(scenes, monkeypatch):
    single = segmentation_curve(scenes, PERTURBATORS[0], STDS)
    monkeypatch.setattr(segmentation, "JACKKNIFE_GROUPS", 2)
    grouped = segmentation_curve(scenes, PERTURBATORS[0], STDS)
    assert len(grouped.sampled_groups[0].hits) == 2
    assert [r.value for r in grouped.rows("s")] == [r.value for r in single.rows("s")]


@pytest.mark.parametrize("groups", [2, 3, 128])
@pytest.mark.parametrize("cut", [1, 2, 4])
def test_parts_joined_are_the_whole(scenes, monkeypatch, groups, cut):
    monkeypatch.setattr(segmentation, "JACKKNIFE_GROUPS", groups)
    options = {"draws": 2, "exact": True, "exact_pixels": 50}
    whole, first, second = (
        segmentation_curve(part, PERTURBATORS[1], STDS, **options)
        for part in (scenes, scenes[:cut], scenes[cut:])
    )
    joined = first.joined(second)
    assert joined.images == 5
    assert torch.equal(joined.confusion, whole.confusion)
    assert torch.allclose(joined.expected, whole.expected, rtol=1e-12)
    for found, row in zip(joined.rows("s", {2: "dog"}), whole.rows("s", {2: "dog"}), strict=True):
        assert (found.task, found.metric, found.draw) == (row.task, row.metric, row.draw)
        assert (found.value, found.stderr) == pytest.approx((row.value, row.stderr), rel=1e-9)


def test_parts_of_different_sweeps_are_not_joined(scenes):
    curve = segmentation_curve(scenes[:1], PERTURBATORS[0], [1.0])
    for stds, draws in (([2.0], 1), ([1.0], 2)):
        other = segmentation_curve(scenes[:1], PERTURBATORS[0], stds, draws=draws)
        with pytest.raises(ValueError, match="measure both parts alike"):
            curve.joined(other)


def test_one_image_has_no_standard_error(scenes):
    rows = segmentation_curve(scenes[:1], PERTURBATORS[0], [1.0]).rows("s")
    assert [row.stderr for row in rows] == [None] * 5
    assert all(row.n == 1 for row in rows)


def test_a_class_rests_on_the_images_that_hold_it():
    """Found everywhere in two of twelve images, it is as uncertain as two of two."""
    items = _rare_class(12)
    for index, (logits, labels, _) in enumerate(items):
        labels[:] = 1 if index in (3, 8) else 0
        logits[:] = functional.one_hot(labels, len(logits)).movedim(-1, 0)
    curve = segmentation_curve(items, UtilityPerturbator(0), [0])
    rows = curve.rows("city", {0: "road", 1: "tram"})
    counts = {(row.task, row.metric): row.n for row in rows}
    assert counts["city", "miou"] == 12 and counts["city.road", "iou"] == 10
    (recall,) = (row for row in rows if (row.task, row.metric) == ("city.tram", "recall"))
    (ends,) = point_intervals(pool_draws([recall]))
    law = stats.binomtest(2, 2).proportion_ci(0.95, method="wilson")
    assert (recall.value, recall.n) == (1, 2) and ends == pytest.approx((law.low, 1), abs=1e-6)


def test_classes_that_count_for_nothing_have_no_rows(scenes):
    curve = segmentation_curve(scenes, PERTURBATORS[0], STDS)
    names = {5: "ghost", 0: "wall"}
    rows = curve.rows("s", names, mean_over="labelled")
    assert {row.task for row in rows} == {"s", "s.wall"}
    assert not any(math.isnan(row.value) for row in rows)
    # What is predicted and never labelled is 0; none of it could be recalled.
    ghost = [row for row in curve.rows("s", names) if row.task == "s.ghost"]
    assert {row.metric for row in ghost} == {"iou", "precision", "f1"}
    assert {row.value for row in ghost} == {0.0}


def test_focus_raises_recall_of_its_target_and_lowers_it_in_reverse(scenes):
    for perturbator, sign in ((PERTURBATORS[1], 1), (PERTURBATORS[2], -1)):
        curve = segmentation_curve(scenes, perturbator, STDS, exact=True)
        for suffix in ("", "_expected"):
            recall = [
                row.value
                for row in curve.rows("s", {2: "dog"})
                if (row.task, row.metric) == ("s.dog", "recall" + suffix)
            ]
            assert (sign * np.diff(recall) > 0).all()


@pytest.mark.parametrize("perturbator", PERTURBATORS)
def test_class_maps_are_those_of_a_loop(scenes, perturbator):
    logits, labels, name = scenes[1]
    order = [4.0, 0.0, 1.0]
    maps = predict_levels(logits, perturbator, order, size=tuple(labels.shape), key=name)
    assert maps.dtype == torch.uint8
    for std, found in zip(order, maps, strict=True):
        loop = perturbator.at(std)(_upsampled(logits, labels), name).argmax(0)
        assert torch.equal(found.long(), loop)


def _item(**changes) -> tuple:
    item = {"logits": torch.randn(3, 4, 4), "labels": torch.zeros(8, 8).long(), "name": "x.jpg"}
    item.update(changes)
    return tuple(item.values())


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        ([], {}, "hold no image"),
        ([_item(labels=torch.full((8, 8), 3))], {}, r"image 'x.jpg': labels hold 3 \(64"),
        ([_item(labels=torch.zeros(64).long())], {}, "give a map"),
        ([_item(labels=torch.zeros(8, 8))], {}, "give integer class indices"),
        ([_item(logits=torch.randn(3, 16))], {}, "logits have shape"),
        ([_item(logits=torch.full((3, 4, 4), math.nan))], {}, r"image 'x.jpg': .*NaN"),
        ([_item(), _item(logits=torch.randn(4, 4, 4))], {}, "logits have 4 classes"),
        ([_item()], {"perturbator": SingleClassPerturbator(0, 3)}, "target 3 is outside"),
        ([_item()], {"draws": -1}, "draws=-1"),
        ([_item()], {"exact_pixels": 0}, "exact_pixels=0"),
        ([_item()], {"stds": [1, 1]}, "twice"),
    ],
)
def test_bad_input_is_named(items, options, message):
    arguments = {"perturbator": UtilityPerturbator(0), "stds": [0.0, 1.0], **options}
    with pytest.raises(ValueError, match=message):
        segmentation_curve(items, **arguments)


def test_classes_of_rows_exist(scenes):
    curve = segmentation_curve(scenes[:1], PERTURBATORS[0], [1.0])
    with pytest.raises(ValueError, match="class 6, outside"):
        curve.rows("s", {6: "nothing"})


@pytest.mark.parametrize("stds", [[], [1.0, 1.0], [2.0, 1.0]])
def test_envelopes_need_rising_strengths(stds):
    with pytest.raises(ValueError, match="do not rise"):
        upper_envelope(torch.zeros(2, 2), torch.zeros(2, 2), stds)
