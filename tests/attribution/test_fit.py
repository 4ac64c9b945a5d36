"""One factorisation for all examples finds what other libraries find one by one."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

from aim_plugins.attribution import checks, fit
from aim_plugins.attribution.dataset import ComponentDataset, build
from aim_plugins.attribution.fit import fit_attributions
from aim_plugins.attribution.plan import DatasetPlan
from tests.attribution.conftest import FormulaSubject, dataset_of


def arrays(dataset: ComponentDataset):
    rows = dataset.plan.rows
    return (~dataset.ablated(0, rows)).astype(float), dataset.outputs(0, rows).astype(float)


@pytest.mark.parametrize(
    ("prior", "penalty"), [(None, 0.0), ("gradient", 1e-6), ("gradient", None), (None, 1e-6)]
)
def test_a_linear_models_attributions_are_its_weights(prior, penalty, tmp_path) -> None:
    subject = FormulaSubject(examples=3, components=12)
    plan = DatasetPlan.of(subject, output="margin", masks=70, gradient_passes=4, alpha=0.3)
    build(plan, subject, tmp_path)
    found = fit_attributions(ComponentDataset.load(tmp_path), prior=prior, penalty=penalty)
    assert found.weights.numpy() == pytest.approx(subject.linear.numpy(), abs=1e-4)
    assert found.intercepts.numpy() == pytest.approx(subject.constant.numpy(), abs=1e-3)
    if prior:
        assert found.metadata.prior_factors == pytest.approx([1, 0], abs=1e-4)


@pytest.mark.parametrize(("masks", "components"), [(60, 20), (20, 60)])
@pytest.mark.parametrize("penalty", [0.3, 10.0])
def test_without_a_prior_it_is_scikit_learns_ridge(masks, components, penalty) -> None:
    dataset = dataset_of(masks, components)
    found = fit_attributions(dataset, prior=None, penalty=penalty)
    kept, outputs = arrays(dataset)
    for place in range(outputs.shape[1]):
        expected = Ridge(alpha=penalty).fit(kept, outputs[:, place])
        assert found.weights[place].numpy() == pytest.approx(expected.coef_, abs=1e-5)
        assert found.intercepts[place].item() == pytest.approx(expected.intercept_, abs=1e-5)


@pytest.mark.parametrize(("masks", "components"), [(60, 20), (20, 60), (21, 20), (20, 20)])
def test_without_penalty_it_is_least_squares_of_least_norm(masks, components) -> None:
    dataset = dataset_of(masks, components)
    found = fit_attributions(dataset, prior=None, penalty=0.0)
    kept, outputs = arrays(dataset)
    centred = [one - one.mean(0) for one in (kept, outputs)]
    expected, *_ = np.linalg.lstsq(*centred, rcond=1e-10)
    assert found.weights.numpy() == pytest.approx(expected.T, abs=1e-4)
    assert found.metadata.method == "least squares"
    if masks > components + 1:
        plain = LinearRegression().fit(kept, outputs)
        assert found.weights.numpy() == pytest.approx(plain.coef_, abs=1e-4)
        assert found.intercepts.numpy() == pytest.approx(plain.intercept_, abs=1e-4)


@pytest.mark.parametrize("prior", [None, "gradient"])
@pytest.mark.parametrize("penalty", [None, 2.0])
@pytest.mark.parametrize(("masks", "components"), [(40, 24), (24, 40)])
def test_the_matrix_of_masks_gives_what_that_of_components_gives(
    prior, penalty, masks, components, monkeypatch
) -> None:
    dataset = dataset_of(masks, components, passes=5)
    found = []
    for kind in (fit._Primal, fit._Dual):
        with monkeypatch.context() as patched:
            patched.setattr(fit, "_Primal", kind)
            patched.setattr(fit, "_Dual", kind)
            found.append(fit_attributions(dataset, prior=prior, penalty=penalty))
    assert found[0].weights.numpy() == pytest.approx(found[1].weights.numpy(), abs=1e-5)
    assert found[0].intercepts.numpy() == pytest.approx(found[1].intercepts.numpy(), abs=1e-5)
    assert found[0].metadata.penalty == pytest.approx(found[1].metadata.penalty, rel=1e-6)


@pytest.mark.parametrize(("masks", "components"), [(40, 24), (24, 40), (300, 24)])
def test_the_penalty_has_the_least_cross_validation_error(masks, components) -> None:
    """By hat matrices, of which the generalised error takes the mean leverage for each one's."""
    dataset = dataset_of(masks, components)
    kept, outputs = arrays(dataset)
    kept, outputs = kept - kept.mean(0), outputs - outputs.mean(0)

    def error(penalty: float) -> float:
        inner = np.linalg.inv(kept.T @ kept + penalty * np.eye(components))
        hat = kept @ inner @ kept.T + 1 / masks
        left = outputs - hat @ outputs
        return (left**2).sum() / (1 - np.trace(hat) / masks) ** 2

    chosen = fit_attributions(dataset, prior=None).metadata.penalty
    tried = chosen * np.logspace(-3, 3, 73)
    assert error(chosen) <= min(map(error, tried)) * (1 + 1e-9)


def test_leave_one_out_is_near_what_the_penalty_was_chosen_by() -> None:
    """Refitting without each mask, by scikit-learn, finds no better penalty by more than 1 %."""
    dataset = dataset_of(60, 20)
    kept, outputs = arrays(dataset)

    def error(penalty: float) -> float:
        total = 0.0
        for left in range(len(kept)):
            rest = np.arange(len(kept)) != left
            model = Ridge(alpha=penalty).fit(kept[rest], outputs[rest])
            total += ((model.predict(kept[left : left + 1]) - outputs[left]) ** 2).sum()
        return total

    chosen = fit_attributions(dataset, prior=None).metadata.penalty
    assert error(chosen) <= 1.01 * min(error(chosen * one) for one in (0.1, 0.3, 3, 10))


@pytest.mark.parametrize(("masks", "components"), [(60, 20), (20, 60)])
def test_gradients_get_two_factors_and_each_component_a_penalty_of_its_own(
    masks, components
) -> None:
    """By numpy: a regression with two unknowns, and one of the residuals."""
    penalty = 3.0
    dataset = dataset_of(masks, components, passes=5)
    found = fit_attributions(dataset, penalty=penalty)
    kept, outputs = arrays(dataset)
    kept, outputs = kept - kept.mean(0), outputs - outputs.mean(0)
    gradients = [one.T.astype(float) for one in (dataset.kept, dataset.change)]
    predicted = np.stack([(kept @ one).ravel() for one in gradients], axis=1)
    factors = np.linalg.lstsq(predicted, outputs.ravel(), rcond=None)[0]
    prior = factors[0] * gradients[0] + factors[1] * gradients[1]
    variances = (prior**2).mean(1)
    variances = variances / variances.mean() + 1e-3
    penalties = penalty / variances * variances.mean()
    left = np.linalg.solve(kept.T @ kept + np.diag(penalties), kept.T @ (outputs - kept @ prior))
    assert found.weights.numpy() == pytest.approx((prior + left).T, abs=1e-5)
    assert found.metadata.prior_factors == pytest.approx(factors)
    assert found.metadata.prior == "gradient"


@pytest.mark.parametrize(("masks", "components"), [(90, 40), (40, 90)])
def test_nothing_depends_on_how_much_is_read_at_a_time(masks, components, monkeypatch) -> None:
    dataset = dataset_of(masks, components, passes=5)
    expected = fit_attributions(dataset)
    monkeypatch.setattr(fit, "_VALUES", 700)
    found = fit_attributions(dataset)
    assert found.weights.numpy() == pytest.approx(expected.weights.numpy(), abs=1e-5)
    assert found.metadata.penalty == pytest.approx(expected.metadata.penalty)


def test_an_example_alone_has_the_weights_it_has_among_others() -> None:
    dataset = dataset_of(60, 20, examples=3)
    alone = dataclasses.replace(
        dataset,
        plan=dataclasses.replace(dataset.plan, examples=["1"]),
        values=dataset.values[:, 1:2],
    )
    every, found = (fit_attributions(one, prior=None, penalty=2.0) for one in (dataset, alone))
    assert found.weights[0].numpy() == pytest.approx(every.weights[1].numpy(), abs=1e-6)


def test_outputs_that_never_change_have_no_attributions() -> None:
    dataset = dataset_of(60, 20)
    flat = dataclasses.replace(dataset, values=np.full_like(dataset.values, 2.5))
    for penalty in (None, 0.0, 1.0):
        found = fit_attributions(flat, prior=None, penalty=penalty)
        assert found.weights.abs().max() < 1e-9
        assert found.intercepts.numpy() == pytest.approx(2.5)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize(("masks", "components"), [(60, 20), (20, 60)])
def test_an_output_that_is_not_finite_is_named(value, masks, components) -> None:
    dataset = dataset_of(masks, components)
    dataset.values[17, 2] = value
    with pytest.raises(ValueError, match=f"output of example '2' under mask 17 is {value:g}"):
        fit_attributions(dataset, prior=None)


def test_a_derivative_that_is_not_finite_is_named() -> None:
    dataset = dataset_of(60, 20, passes=5)
    dataset.change[1, 7] = float("nan")
    with pytest.raises(ValueError, match=r"derivative of example '1' by layer\[7\] is nan"):
        fit_attributions(dataset)


def test_a_prior_without_gradients_is_refused() -> None:
    with pytest.raises(ValueError, match=r"prior='gradient': the dataset has no gradients"):
        fit_attributions(dataset_of(60, 20))


def test_an_unknown_prior_is_refused() -> None:
    with pytest.raises(ValueError, match=r"prior='gradeint': give 'gradient' or None"):
        inspect.unwrap(fit_attributions)(dataset_of(60, 20), prior="gradeint")


def test_matrices_that_no_memory_holds_are_refused_before_they_are_made(monkeypatch) -> None:
    dataset = dataset_of(60, 20)
    plan = dataclasses.replace(dataset.plan, masks=100_000)
    wide = dataclasses.replace(dataset, plan=plan)
    monkeypatch.setattr(ComponentDataset, "components", 82_944)
    monkeypatch.setattr(checks, "machine_memory", lambda: 64 << 30)
    needed = r"masks=100000 of 82944 components need 220 GB .* has 69 GB: plan fewer masks"
    with pytest.raises(ValueError, match=needed):
        fit_attributions(wide, prior=None)


@pytest.mark.parametrize("penalty", [-1.0, float("nan"), float("inf")])
def test_a_penalty_below_zero_is_refused(penalty) -> None:
    with pytest.raises(ValueError, match=r"penalty=.*give 0 or more"):
        fit_attributions(dataset_of(60, 20), prior=None, penalty=penalty)
