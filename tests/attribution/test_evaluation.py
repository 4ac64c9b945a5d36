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
from aim_plugins.attribution.fit import fit_attributions
from aim_plugins.modulation.ablation import ablation_mask
from aim_plugins.modulation.components import Components, Site
from tests.attribution.conftest import FormulaSubject, dataset_of


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
        assert found[alpha]["none"].value == 0
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
    assert (found.value, found.low, found.high) == pytest.approx((0.5, low, high), abs=1e-3)
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


def test_the_rank_test_is_of_all_signs_of_ranks() -> None:
    """By all ways to deal signs out to the ranks of eight differences."""
    subject = FormulaSubject(examples=8, components=20, curved=True)
    found = top_effects(subject, subject.linear, 3, draws=4)
    differences = np.subtract(found.top.values, found.drawn.values)
    ranks = stats.rankdata(abs(differences))
    assert 0 < (differences < 0).sum() < 8
    observed = abs((np.sign(differences) * ranks).sum())
    signs = itertools.product((1, -1), repeat=8)
    sums = [abs((np.array(one) * ranks).sum()) for one in signs]
    assert found.p == pytest.approx(np.mean([one >= observed for one in sums]))


def test_components_that_do_nothing_are_no_better_than_others() -> None:
    subject = FormulaSubject(examples=4, components=6)
    subject.linear.zero_()
    assert top_effects(subject, torch.rand(4, 6), 2).p == 1


def test_methods_are_compared_on_the_examples_whose_outputs_change() -> None:
    subject = FormulaSubject(examples=4, components=9)
    subject.linear[1], subject.constant[1] = 0, 0.1
    own, other = torch.ones(4, 9), subject.linear.clone()
    other[3] = 0
    found = evaluate(subject, {"own": own, "other": other}, [0.3], masks=20)[0.3]
    assert [one.count for one in found.values()] == [3, 3]
    assert np.isnan(found["own"].values[1]) and np.isnan(found["other"].values[1])
    assert found["other"].values[3] == 0
    assert found["other"].value == pytest.approx(2 / 3)


def test_attributions_of_other_components_or_examples_are_refused() -> None:
    dataset = dataset_of(60, 6)
    fitted = fit_attributions(dataset, prior=None)
    right = FormulaSubject(4, 6)
    weights = evaluate(right, {"own": fitted.weights}, [0.3], masks=9)[0.3]["own"]
    assert evaluate(right, {"own": fitted}, [0.3], masks=9)[0.3]["own"] == weights
    right.components = Components((Site("other", "other", 6),))
    with pytest.raises(ValueError, match=r"methods\['own'\] is of other components"):
        evaluate(right, {"own": fitted}, [0.3])
    named = FormulaSubject(4, 6)
    named.describe(names=list("abcd"))
    with pytest.raises(ValueError, match="weights is of other examples"):
        top_effects(named, fitted, 2)
    with pytest.raises(ValueError, match=r"weights has weights \[4, 5\] where the subject has 4"):
        top_effects(named, fitted.weights[:, :5], 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_and_not_left_out(value: float) -> None:
    subject = FormulaSubject()
    weights = subject.linear.clone()
    weights[2, 1] = value
    for refused in (
        lambda: evaluate(subject, {"own": weights}, [0.1]),
        lambda: top_effects(subject, weights, 2),
    ):
        with pytest.raises(ValueError, match="weights of example '2' are not finite"):
            refused()
    subject.constant[1] = value
    with pytest.raises(ValueError, match="output of example '1' under fresh mask 0 is"):
        evaluate(subject, {}, [0.1])
    with pytest.raises(ValueError, match="output of example '1' under"):
        top_effects(subject, subject.linear, 2)


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
    with pytest.raises(ValueError, match=r"draws=0: give 1 or more"):
        top_effects(subject, subject.linear, 2, draws=0)
    with pytest.raises(ValueError, match=r"alpha=1: give a probability above 0 and below 1"):
        evaluate(subject, {}, [1.0])
    with pytest.raises(ValueError, match=r"masks=2: give 3 or more"):
        evaluate(subject, {}, [0.1], masks=2)
