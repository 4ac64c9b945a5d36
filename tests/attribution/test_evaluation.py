"""Correlations and tests are those of scipy, and of a few lines by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from aim_plugins.attribution.evaluation import (
    MeanOfExamples,
    correlations,
    evaluate,
    fresh_masks,
    outputs_under,
    top_effects,
)
from aim_plugins.modulation.ablation import ablation_mask
from tests.attribution.conftest import FormulaSubject


def test_correlations_are_pearsons_over_masks() -> None:
    rng = np.random.default_rng(0)
    weights, ablated = rng.normal(size=(4, 9)), rng.random((30, 9)) < 0.3
    outputs = rng.normal(size=(30, 4))
    found = correlations(torch.tensor(weights), ablated, torch.tensor(outputs))
    expected = [
        stats.pearsonr((~ablated) @ own, outputs[:, place]).statistic
        for place, own in enumerate(weights)
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_linear_model_is_predicted_perfectly_by_its_weights() -> None:
    subject = FormulaSubject(components=20)
    methods = {"own": subject.linear, "opposite": -2 * subject.linear, "none": subject.linear * 0}
    found = evaluate(subject, methods, [0.1, 0.3], masks=25)
    assert list(found) == [0.1, 0.3]
    for alpha in found:
        assert found[alpha]["own"].value == pytest.approx(1, abs=1e-6)
        assert found[alpha]["opposite"].value == pytest.approx(-1, abs=1e-6)
        assert np.isnan(found[alpha]["none"].value)
    assert subject.passes.forward == 50


def test_evaluation_uses_the_outputs_of_its_own_masks() -> None:
    subject = FormulaSubject(components=9, curved=True)
    found = evaluate(subject, {"own": subject.linear}, [0.2], masks=70, seed=3)[0.2]["own"]
    ablated = fresh_masks(9, 0.2, 70, 3)
    outputs = torch.cat([subject.outputs(row[None]) for row in torch.from_numpy(~ablated).float()])
    assert torch.allclose(outputs, outputs_under(subject, ablated), atol=1e-5)
    expected = correlations(subject.linear, ablated, outputs)
    assert found.values == pytest.approx(expected.tolist(), abs=1e-5)


def test_fresh_masks_are_none_of_the_datasets() -> None:
    fresh = fresh_masks(64, 0.5, 20, 3)
    learned = np.stack([ablation_mask(64, 0.5, 3, number) for number in range(200)])
    assert not (fresh[:, None] == learned).all(2).any()
    assert fresh.mean() == pytest.approx(0.5, abs=0.06)


def test_intervals_are_students() -> None:
    values = [0.2, 0.5, 0.9, 0.4]
    found = MeanOfExamples.of([*values, float("nan")])
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, low, high))
    assert (found.count, len(found.values)) == (4, 5)
    alone = MeanOfExamples.of([0.5])
    assert alone.value == 0.5 and np.isnan(alone.low)


def test_top_components_of_a_linear_model_lower_its_output_by_their_weights() -> None:
    subject = FormulaSubject(examples=8, components=20)
    found = top_effects(subject, subject.linear, 3, draws=4)
    expected = subject.linear.sort(1, descending=True).values[:, :3].sum(1)
    assert found.top.values == pytest.approx(expected.tolist(), abs=1e-5)
    assert found.difference.value == pytest.approx(found.top.value - found.drawn.value)
    assert found.difference.low > 0
    differences = np.subtract(found.top.values, found.drawn.values)
    observed = abs(differences.mean())
    signs = itertools.product((1, -1), repeat=8)
    means = [abs((np.array(one) * differences).mean()) for one in signs]
    assert found.p == pytest.approx(np.mean([one >= observed - 1e-12 for one in means]))


def test_components_at_random_lower_it_by_the_mean_weight() -> None:
    subject = FormulaSubject(examples=2, components=10)
    found = top_effects(subject, subject.linear, 4, draws=3000)
    expected = 4 * subject.linear.mean(1)
    assert found.drawn.values == pytest.approx(expected.tolist(), abs=0.15)


def test_an_example_alone_has_an_effect_but_no_test() -> None:
    subject = FormulaSubject(examples=1)
    found = top_effects(subject, subject.linear, 2)
    assert found.top.value == pytest.approx(subject.linear[0].topk(2).values.sum().item())
    assert np.isnan(found.p)


def test_sizes_alphas_and_masks_out_of_range_are_refused() -> None:
    subject = FormulaSubject()
    with pytest.raises(ValueError, match=r"size=7: give 1 to 6, the number of components"):
        top_effects(subject, subject.linear, 7)
    with pytest.raises(ValueError, match=r"alpha=1: give a probability above 0 and below 1"):
        evaluate(subject, {}, [1.0])
    with pytest.raises(ValueError, match=r"masks=2: give 3 or more"):
        evaluate(subject, {}, [0.1], masks=2)
