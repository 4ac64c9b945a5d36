"""Maps of single modules against computations in NumPy, SciPy and scikit-learn."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from aim_plugins.transport.maps import METHODS, find_method, fit_map, support_bounds
from aim_plugins.transport.methods import method as method_module
from aim_plugins.transport.statistics import auroc, constant_neurons, optimal_coupling
from aim_plugins.transport.vocabulary import METHOD_NAMES, PAIRED_METHODS

SIZES = [(40, 40), (30, 42), (42, 30), (7, 13), (2, 9), (9, 2)]
NEURONS = 6


def samples(count, seed, scale=1.0, shift=0.0, neurons=NEURONS):
    """Skewed float32 samples, so that sorting matters beyond mean and deviation."""
    generator = np.random.default_rng(seed)
    drawn = generator.gamma(2.0, size=(count, neurons)) * scale + shift
    return torch.from_numpy(drawn.astype(np.float32))


def double(tensor):
    return tensor.numpy().astype(np.float64)


def assert_map(learned, scale, shift, tolerance=1e-6):
    np.testing.assert_allclose(double(learned.scale), scale, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(double(learned.shift), shift, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_linear_is_least_squares_on_samples_repeated_to_one_size(n, m):
    source, target = samples(n, 1, 0.7, -1.0), samples(m, 2, 2.0, 3.0)
    common = math.lcm(n, m)
    a = np.sort(np.repeat(double(source), common // n, axis=0), axis=0)
    b = np.sort(np.repeat(double(target), common // m, axis=0), axis=0)
    lines = [
        np.linalg.lstsq(np.stack([x, np.ones(common)], 1), y, rcond=None)[0]
        for x, y in zip(a.T, b.T, strict=True)
    ]
    scale, shift = np.array(lines).T
    assert_map(find_method("linear").fit(source, target), scale, shift)


def test_linear_keeps_its_accuracy_far_from_zero():
    source, target = samples(50, 3, 0.01, 500.0), samples(50, 4, 0.02, -300.0)
    a, b = np.sort(double(source), axis=0), np.sort(double(target), axis=0)
    scale = [np.polyfit(x - x.mean(), y, 1)[0] for x, y in zip(a.T, b.T, strict=True)]
    shift = b.mean(0) - np.array(scale) * a.mean(0)
    assert_map(find_method("linear").fit(source, target), scale, shift)


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_coupling_costs_the_wasserstein_distance(n, m):
    generator = np.random.default_rng(5)
    a, b = np.sort(generator.normal(size=n)), np.sort(generator.normal(size=m))
    sources, targets, weights = (part.numpy() for part in optimal_coupling(n, m))
    cost = (weights * np.abs(a[sources] - b[targets])).sum()
    assert cost == pytest.approx(stats.wasserstein_distance(a, b), rel=1e-12)


def test_coupling_maximises_the_moment_over_all_couplings():
    n, m = 4, 6
    generator = np.random.default_rng(6)
    a, b = np.sort(generator.normal(size=n)), np.sort(generator.normal(size=m))
    marginals = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    masses = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    best = optimize.linprog(-np.outer(a, b).ravel(), A_eq=marginals, b_eq=masses)
    sources, targets, weights = (part.numpy() for part in optimal_coupling(n, m))
    assert (weights * a[sources] * b[targets]).sum() == pytest.approx(-best.fun, rel=1e-9)


@pytest.mark.parametrize("name", ["linear", "gaussian"])
def test_an_affine_image_of_the_source_gives_back_its_coefficients(name):
    source = samples(64, 7)
    scale = np.linspace(0.2, 3.0, NEURONS)
    shift = np.linspace(-5.0, 5.0, NEURONS)
    target = source.double() * torch.from_numpy(scale) + torch.from_numpy(shift)
    shuffled = target[torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    assert_map(find_method(name).fit(source.double(), shuffled), scale, shift)


@pytest.mark.parametrize("name", ["linear", "gaussian"])
def test_maps_between_large_gaussian_samples_have_the_gaussians_coefficients(name):
    generator = np.random.default_rng(8)
    source = torch.from_numpy(generator.normal(1.0, 0.5, size=(40_000, 2)))
    target = torch.from_numpy(generator.normal(-2.0, 1.5, size=(30_000, 2)))
    # Standard error of a ratio of deviations: 3 * sqrt(1 / 80,000 + 1 / 60,000) = 0.016.
    assert_map(find_method(name).fit(source, target), [3.0, 3.0], [-5.0, -5.0], tolerance=0.08)


def test_gaussian_is_the_ratio_of_unbiased_deviations():
    source, target = samples(20, 9, 0.5), samples(31, 10, 2.0, 1.0)
    a, b = double(source), double(target)
    scale = np.std(b, axis=0, ddof=1) / np.std(a, axis=0, ddof=1)
    expected = b.mean(0) - scale * a.mean(0)
    assert_map(find_method("gaussian").fit(source, target), scale, expected)


@pytest.mark.parametrize("narrow", ["source", "target"])
def test_gaussian_moves_only_the_mean_of_neurons_with_a_tiny_deviation(narrow):
    sides = {"source": samples(20, 11), "target": samples(20, 12, shift=2.0)}
    sides[narrow][:, 0] *= 5e-5 / sides[narrow][:, 0].std()
    learned = find_method("gaussian").fit(**sides)
    moved = double(sides["target"]).mean(0) - double(sides["source"]).mean(0)
    assert learned.scale[0] == 1
    assert float(learned.shift[0]) == pytest.approx(moved[0], rel=1e-6)
    assert bool((learned.scale[1:] != 1).all())


@pytest.mark.parametrize("name", ["mean", "caa"])
def test_mean_methods_add_the_difference_of_means(name):
    source, target = samples(20, 13), samples(31, 14, 2.0)
    expected = double(target).mean(0) - double(source).mean(0)
    assert_map(find_method(name).fit(source, target), np.ones(NEURONS), expected)


def test_actadd_adds_the_difference_of_the_first_pair():
    source, target = samples(3, 15), samples(2, 16)
    expected = double(target)[0] - double(source)[0]
    assert_map(find_method("actadd").fit(source, target), np.ones(NEURONS), expected)


@pytest.mark.parametrize("decimals", [7, 0])
def test_aura_dampens_by_the_auroc_of_the_source(decimals):
    source = samples(25, 17, 1.5).round(decimals=decimals)
    target = samples(40, 18, 1.0).round(decimals=decimals)
    source[:, -1] -= 5  # a neuron that fires on the target
    labels = np.r_[np.ones(25), np.zeros(40)]
    scores = np.r_[double(source), double(target)]
    areas = np.array([roc_auc_score(labels, column) for column in scores.T])
    assert areas.min() < 0.5 < areas.max()
    alpha = np.where(areas > 0.5, 1 - 2 * (areas - 0.5), 1.0)
    assert_map(find_method("aura").fit(source, target), alpha, np.zeros(NEURONS))


def test_aura_silences_perfect_detectors_of_the_source_and_spares_those_of_the_target():
    low, high = torch.rand(10, 3), torch.rand(12, 3) + 2
    assert find_method("aura").fit(high, low).scale.tolist() == [0, 0, 0]
    assert find_method("aura").fit(low, high).scale.tolist() == [1, 1, 1]


def test_auroc_is_the_mann_whitney_statistic():
    source, target = samples(25, 19).round(), samples(40, 20).round()
    expected = stats.mannwhitneyu(double(source), double(target)).statistic / (25 * 40)
    np.testing.assert_allclose(auroc(source, target), expected, rtol=1e-12)


def probe_by_hand(source, target):
    """Normal of the L2-regularised logistic regression, by a trust-region method of SciPy."""
    points = np.r_[source, target]
    signs = np.r_[-np.ones(len(source)), np.ones(len(target))]
    standard = (points - points.mean(0)) / points.std(0)
    design = np.c_[standard, np.ones(len(points))]
    ridge = np.diag(np.r_[np.ones(points.shape[1]), 0.0])

    def loss(w):
        return np.logaddexp(0, -signs * (design @ w)).sum() + w @ ridge @ w / 2

    def gradient(w):
        return -design.T @ (signs / (1 + np.exp(signs * (design @ w)))) + ridge @ w

    def curvature(w):
        share = 1 / (1 + np.exp(-design @ w))
        return design.T @ (design * (share * (1 - share))[:, None]) + ridge

    start = np.zeros(design.shape[1])
    solved = optimize.minimize(
        loss, start, jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-11}
    )
    normal = solved.x[:-1] / points.std(0)
    return normal / np.linalg.norm(normal)


def test_iti_shifts_along_the_probe_by_the_deviation_of_the_projections():
    source, target = samples(30, 21, 2.0), samples(22, 22, 0.7, 1.0)
    normal = probe_by_hand(double(source), double(target))
    deviation = np.std(np.r_[double(source), double(target)] @ normal)
    learned = find_method("iti").fit(source, target)
    assert_map(learned, np.ones(NEURONS), deviation * normal)


def test_iti_points_from_source_to_target():
    source, target = samples(30, 23), samples(30, 23, shift=1.0)
    assert bool((find_method("iti").fit(source, target).shift > 0).all())
    assert bool((find_method("iti").fit(target, source).shift < 0).all())


def test_iti_leaves_neurons_alone_that_never_differ():
    source, target = samples(30, 24), samples(20, 25)
    source[:, 2] = target[:, 2] = 4.0
    learned = find_method("iti").fit(source, target)
    assert learned.shift[2] == 0
    assert learned.shift.count_nonzero() == NEURONS - 1
    same = torch.ones(5, NEURONS)
    assert find_method("iti").fit(same, same).shift.tolist() == [0] * NEURONS


def test_pca_finds_the_component_of_pairs_in_either_order():
    """sklearn's PCA centres: of both orders of every pair there is no mean to take away."""
    source, target = samples(12, 26), samples(12, 27, 2.0)
    differences = double(target) - double(source)
    component = PCA(n_components=1).fit(np.r_[differences, -differences]).components_[0]
    component *= np.sign(differences.mean(0) @ component)
    assert_map(find_method("pca").fit(source, target), np.ones(NEURONS), component)


def test_pca_of_known_components_is_the_longest_of_them_towards_the_target():
    """Differences 3 e_1 ± 2 e_0: second moments 9 along e_1 and 4 along e_0."""
    source = samples(6, 28)
    differences = torch.zeros(6, NEURONS)
    differences[:, 1], differences[::2, 0], differences[1::2, 0] = -3.0, 2.0, -2.0
    learned = find_method("pca").fit(source, source + differences)
    expected = -np.eye(NEURONS)[1]
    np.testing.assert_allclose(double(learned.shift), expected, rtol=0, atol=1e-6)
    assert find_method("pca").fit(source, source).shift.tolist() == [0] * NEURONS


def test_methods_of_pairs_want_as_many_samples_on_both_sides():
    assert [name for name, method in METHODS.items() if method.paired] == list(PAIRED_METHODS)
    for name in PAIRED_METHODS:
        with pytest.raises(ValueError, match="source has 5 .* target 4.*takes pairs"):
            fit_map(name, None, samples(5, 1), samples(4, 2), "site")


@pytest.mark.parametrize(
    ("name", "module"), [("iti", "sklearn.linear_model"), ("chars", "sklearn.cluster")]
)
def test_methods_name_the_extra_that_brings_scikit_learn(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"method='{name}' needs scikit-learn: pip install 'aim-plugins\[transport\]'"
    with pytest.raises(ImportError, match=message):
        find_method(name).fit(samples(5, 1), samples(5, 2))


# One reads the first samples alone, the other draws the first clusters by the samples' places.
@pytest.mark.parametrize("name", sorted(set(METHODS) - {"actadd", "chars"}))
def test_the_order_of_samples_does_not_matter(name):
    paired = METHODS[name].paired
    source, target = samples(30, 26), samples(30 if paired else 41, 27, 2.0)
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(30, generator=generator)
    other = order if paired else torch.randperm(41, generator=generator)
    mixed = fit_map(name, None, source[order], target[other], "site")
    learned = fit_map(name, None, source, target, "site")
    assert_map(mixed, double(learned.scale), double(learned.shift))
    assert torch.equal(mixed.support_min, learned.support_min)


@pytest.mark.parametrize("name", METHODS)
def test_blocks_of_neurons_do_not_show(name, monkeypatch):
    source, target = samples(30, 28), samples(30 if METHODS[name].paired else 41, 29, 2.0)
    whole = find_method(name).fit(source, target)
    monkeypatch.setattr(method_module, "_BLOCK", 1)
    single = find_method(name).fit(source, target)
    for part, values in whole.parts.items():
        np.testing.assert_allclose(single.parts[part], values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_activations_are_read_exactly(name):
    number = 12 if METHODS[name].paired else 15
    source, target = samples(12, 30).bfloat16(), samples(number, 31, 2.0).bfloat16()
    half = find_method(name).fit(source, target)
    single = find_method(name).fit(source.float(), target.float())
    for part, values in half.parts.items():
        assert values.dtype == torch.float32
        assert torch.equal(values, single.parts[part])


def test_fits_do_not_depend_on_hash_seeds():
    code = """
import hashlib, torch
from aim_plugins.transport.maps import METHODS, fit_map
generator = torch.Generator().manual_seed(0)
source, more = (torch.randn(n, 5, generator=generator) for n in (9, 14))
digest = hashlib.sha256()
for name in METHODS:
    target = more[:9] if METHODS[name].paired else more
    one = fit_map(name, None, source, target, "site")
    for vector in one.parts.values():
        digest.update(vector.numpy().tobytes())
"""
    here: dict[str, object] = {}
    exec(code, here)
    there = subprocess.run(
        [sys.executable, "-c", code + "print(list(METHODS), digest.hexdigest())"],
        env=os.environ | {"PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == f"{list(here['METHODS'])} {here['digest'].hexdigest()}"


@pytest.mark.parametrize("name", ["linear", "gaussian"])
@pytest.mark.parametrize("support", ["none", "minmax", "clip", "q5_95"])
def test_constant_neurons_only_move_their_mean(name, support):
    source, target = samples(20, 32), samples(25, 33, 2.0)
    source[:, 1] = 0.1  # its mean over 20 samples is not 0.1 in floating point
    source[:, 3] = 7.0
    source[::2, 3] = float(np.nextafter(np.float32(7), np.float32(8)))
    source[:, 4] = 0.0
    source[:, 5] = -5000.0  # deviates by more than Gaussian maps ask for, and yet by rounding only
    source[::2, 5] = float(np.nextafter(np.float32(-5000), np.float32(0)))
    learned = fit_map(name, support, source, target, "site")
    assert constant_neurons(source).tolist() == [False, True, False, True, True, True]
    assert learned.scale[[1, 3, 4, 5]].tolist() == [1, 1, 1, 1]
    moved, expected = double(learned(source)).mean(0), double(target).mean(0)
    np.testing.assert_allclose(moved[[1, 3, 4, 5]], expected[[1, 3, 4, 5]], atol=5e-4, rtol=1e-6)


def test_linear_maps_onto_a_constant_target():
    target = torch.full((9, NEURONS), 2.5)
    assert_map(find_method("linear").fit(samples(7, 34), target), np.zeros(NEURONS), 2.5)


def test_minmax_is_the_range_of_the_source():
    source = samples(20, 35)
    for support in ("minmax", "q0_100", "clip"):
        low, high, clip = support_bounds(support, source)
        assert torch.equal(low, torch.from_numpy(source.numpy().min(0)))
        assert torch.equal(high, torch.from_numpy(source.numpy().max(0)))
        assert clip == (support == "clip")


def test_quantile_supports_are_percentiles_of_the_source():
    source = samples(33, 36)
    low, high, clip = support_bounds("q2.5_90", source)
    np.testing.assert_allclose(low, np.percentile(double(source), 2.5, axis=0), rtol=1e-6)
    np.testing.assert_allclose(high, np.percentile(double(source), 90, axis=0), rtol=1e-6)
    assert not clip


def test_no_support_is_everywhere():
    learned = fit_map("linear", "none", samples(5, 37), samples(5, 38), "site")
    assert not learned.is_bounded


def test_a_support_changes_neither_scale_nor_shift():
    source, target = samples(20, 39), samples(20, 40, 2.0)
    plain = fit_map("linear", "none", source, target, "site")
    bounded = fit_map("linear", "q10_90", source, target, "site")
    assert torch.equal(plain.scale, bounded.scale)
    assert torch.equal(plain.shift, bounded.shift)
    assert bounded.is_bounded


def test_each_method_has_its_papers_defaults():
    chosen = {
        name: (method.pooling, method.positions, method.incremental, method.support)
        for name, method in METHODS.items()
    }
    assert chosen == {
        "linear": ("mean", "all", "causal", "clip"),
        "gaussian": ("mean", "all", "causal", "clip"),
        "mean": ("mean", "all", "causal", "none"),
        "aura": ("max", "all", "atonce", "none"),
        "actadd": ("last", "all", "atonce", "none"),
        "caa": ("last", "last", "atonce", "none"),
        "iti": ("last", "last", "atonce", "none"),
        "pca": ("last", "all", "atonce", "none"),
        "lineas": ("mean", "all", "source", "none"),
        "ablation": ("last", "all", "atonce", "none"),
        "angular": ("last", "all", "atonce", "none"),
        "chars": ("mean", "all", "causal", "none"),
    }


@pytest.mark.parametrize("support", ["max", "q5", "q5_", "q95_5", "q5_5", "q5_101", "q-1_5", ""])
def test_malformed_supports_are_refused(support):
    with pytest.raises(ValueError, match=f"support={support!r}.*'q5_95'"):
        support_bounds(support, samples(5, 41))


def test_a_range_of_one_sample_is_refused():
    with pytest.raises(ValueError, match="there is 1: give more"):
        fit_map("mean", "minmax", samples(1, 42), samples(5, 43), "site")


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_activations_that_are_not_finite_are_refused_with_their_module(side, value):
    sides = {"source": samples(5, 44), "target": samples(6, 45)}
    sides[side][3, 2] = value
    with pytest.raises(
        ValueError, match=rf"'layers\.4\.norm': 1 activations of the {side} .* neuron 2 of sample 3"
    ):
        fit_map("linear", None, **sides, site="layers.4.norm")


@pytest.mark.parametrize("name", ["linear", "gaussian", "aura", "iti", "pca"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_single_sentence_is_refused_where_a_spread_is_needed(name, side):
    sides = {"source": samples(5, 46), "target": samples(5, 47)}
    sides[side] = sides[side][:1]
    with pytest.raises(ValueError, match=rf"{side} has 1 .*{name}.* at least 2: .*actadd"):
        fit_map(name, None, **sides, site="site")


@pytest.mark.parametrize("name", ["mean", "actadd", "caa"])
def test_one_contrast_pair_suffices_for_differences(name):
    source, target = samples(1, 48), samples(1, 49)
    learned = fit_map(name, None, source, target, "site")
    assert torch.equal(learned.shift, (target - source)[0])


@pytest.mark.parametrize("name", METHODS)
def test_an_empty_side_is_refused(name):
    with pytest.raises(ValueError, match="target has 0 sample.*give more"):
        fit_map(name, None, samples(5, 50), samples(0, 51), "site")


def test_sides_of_two_modules_are_refused():
    with pytest.raises(ValueError, match="6 neurons and target 5: both must come from the same"):
        fit_map("mean", None, samples(5, 52), samples(5, 53, neurons=5), "site")


def test_activations_that_are_not_pooled_are_refused():
    with pytest.raises(ValueError, match=r"shape \(5, 2, 3\): give pooled activations"):
        fit_map("mean", None, torch.zeros(5, 2, 3), samples(5, 54), "site")


def test_coefficients_beyond_float32_are_refused():
    source = samples(5, 55).double() * 1e-30
    with pytest.raises(ValueError, match="'site'.*exceeds float32"):
        fit_map("linear", None, source, samples(5, 56).double() * 1e30, "site")


def test_aura_takes_no_support():
    with pytest.raises(ValueError, match="support='minmax': AurA .*leave its support at 'none'"):
        fit_map("aura", "minmax", samples(5, 57), samples(5, 58), "site")


def test_an_unknown_method_shows_the_nearest():
    with pytest.raises(ValueError, match="method='liner' is unknown; did you mean 'linear'"):
        find_method("liner")


def test_the_names_that_are_checked_before_torch_is_imported_are_those_of_the_methods():
    assert tuple(METHODS) == METHOD_NAMES
