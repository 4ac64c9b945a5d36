"""Attributions predict outputs by sums of weights, and are read back whole or refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from aim_plugins.attribution.attributions import Attributions, read_published
from aim_plugins.attribution.fit import fit_attributions
from tests.attribution.conftest import FormulaSubject, dataset_of


@pytest.fixture(scope="module")
def attributions() -> Attributions:
    return fit_attributions(dataset_of(60, 6), prior=None, penalty=1.0)


def test_predictions_are_sums_over_what_is_kept(attributions) -> None:
    ablated = torch.tensor([[True, False, True, False, False, False], [False] * 6])
    found = attributions.predict(ablated)
    for place in range(4):
        weights = attributions.weights[place].tolist()
        intercept = attributions.intercepts[place].item()
        kept = [weights[number] for number in (1, 3, 4, 5)]
        assert found[0, place].item() == pytest.approx(intercept + sum(kept), abs=1e-5)
        assert found[1, place].item() == pytest.approx(intercept + sum(weights), abs=1e-5)
    effect = attributions.counterfactual_effect([0, 2])
    assert effect.numpy() == pytest.approx((found[0] - found[1]).numpy(), abs=1e-5)


def test_top_components_are_named_by_falling_weight(attributions) -> None:
    weights = attributions.weights[2].tolist()
    order = sorted(range(6), key=lambda number: -weights[number])
    found = attributions.top("2", 3)
    assert [one.number for one in found] == order[:3]
    assert [one.name for one in found] == [f"layer[{number}]" for number in order[:3]]
    assert [one.weight for one in found] == [weights[number] for number in order[:3]]
    lowest = attributions.top(2, 6, lowest=True)
    assert [one.number for one in lowest] == order[::-1]


def test_unknown_examples_and_numbers_of_components_are_refused(attributions) -> None:
    with pytest.raises(ValueError, match=r"example='x': choose one of '0', '1', '2', '3'"):
        attributions.top("x", 1)
    with pytest.raises(ValueError, match=r"example=4: there are 4, counted from 0"):
        attributions.place(4)
    with pytest.raises(ValueError, match=r"count=7: give 1 to 6"):
        attributions.top(0, 7)


def test_attributions_are_read_back_as_they_were(attributions, tmp_path: Path) -> None:
    found = Attributions.load(attributions.save(tmp_path))
    assert torch.equal(found.weights, attributions.weights)
    assert torch.equal(found.intercepts, attributions.intercepts)
    assert list(found.components.names()) == [f"layer[{number}]" for number in range(6)]
    assert found.metadata.alpha == 0.3
    assert found.metadata.masks == 60
    assert found.metadata.penalty == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "attribution.json",
        "attribution.safetensors",
    ]


def test_altered_attributions_are_refused(attributions, tmp_path: Path) -> None:
    path = attributions.save(tmp_path) / "attribution.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "alpha": 0.5}))
    with pytest.raises(ValueError, match="was altered"):
        Attributions.load(tmp_path)


def published(path: Path, dataset, dtype=torch.float32) -> tuple[np.ndarray, LinearRegression]:
    """A file as the authors' regression writes it: least squares on standardised masks."""
    kept = (~dataset.ablated(0, dataset.plan.rows)).astype(float)
    outputs = dataset.outputs(0, dataset.plan.rows)
    # Masks of exactly the share that was asked for: 7 of 10 keep each component.
    standardised = (kept - 0.7) / np.sqrt(0.7 * 0.3)
    found = LinearRegression().fit(standardised, outputs)
    held = {
        "weight": torch.tensor(found.coef_.T).to(dtype),
        "bias": torch.tensor(found.intercept_).to(dtype),
        "lam": torch.zeros(1),
    }
    torch.save(held, path)
    return kept, LinearRegression().fit(kept, outputs)


def test_published_attributions_are_brought_back_to_masks_of_zero_and_one(tmp_path: Path) -> None:
    dataset = dataset_of(60, 6)
    kept, expected = published(tmp_path / "datamodels.pt", dataset)
    components = FormulaSubject().components
    found = read_published(tmp_path / "datamodels.pt", components, 0.3)
    assert found.weights.numpy() == pytest.approx(expected.coef_, abs=1e-5)
    assert found.intercepts.numpy() == pytest.approx(expected.intercept_, abs=1e-4)
    predicted = found.predict(torch.from_numpy(kept == 0))
    assert predicted.numpy() == pytest.approx(expected.predict(kept), abs=1e-4)
    assert found.examples == ["0", "1", "2", "3"]


def test_published_files_of_other_components_or_content_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "datamodels.pt"
    published(path, dataset_of(60, 7))
    components = FormulaSubject().components
    with pytest.raises(ValueError, match="weights of 7 components for 4 examples, not of 6"):
        read_published(path, components, 0.3)
    with pytest.raises(ValueError, match="alpha=1: give a probability above 0 and below 1"):
        read_published(path, components, 1.0)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_published(tmp_path / "none.pt", components, 0.3)
    torch.save({"weights": torch.zeros(6, 2)}, path)
    with pytest.raises(ValueError, match="holds no attributions"):
        read_published(path, components, 0.3)


def changed_file(path: Path, change) -> Path:
    published(path, dataset_of(60, 6))
    held = torch.load(path, weights_only=True)
    change(held)
    torch.save(held, path)
    return path


def test_published_components_that_were_never_ablated_weigh_nothing(tmp_path: Path) -> None:
    components = FormulaSubject().components
    published(tmp_path / "whole.pt", dataset_of(60, 6))
    whole = read_published(tmp_path / "whole.pt", components, 0.3)
    path = changed_file(tmp_path / "one.pt", lambda held: held["weight"][4].fill_(float("nan")))
    found = read_published(path, components, 0.3)
    assert (found.weights[:, 4] == 0).all()
    rest = [0, 1, 2, 3, 5]
    assert torch.equal(found.weights[:, rest], whole.weights[:, rest])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda held: held["weight"].fill_(float("nan")), "has a regression that failed"),
        (lambda held: held["bias"][1].fill_(float("inf")), "has a regression that failed"),
        (
            lambda held: held["weight"][4, 2].fill_(float("nan")),
            r"weight of layer\[4\] for example 2 is nan",
        ),
        (
            lambda held: held["weight"][3].fill_(float("-inf")),
            r"weight of layer\[3\] for example 0 is -inf",
        ),
    ],
)
def test_a_published_regression_that_failed_is_refused(change, named, tmp_path: Path) -> None:
    path = changed_file(tmp_path / "failed.pt", change)
    with pytest.raises(ValueError, match=named):
        read_published(path, FormulaSubject().components, 0.3)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_nothing_in_a_published_file_is_executed(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    for name, write in (("torch.pt", torch.save), ("plain.pt", _pickle)):
        write({"weight": Trap(sprung), "bias": torch.zeros(2)}, tmp_path / name)
        with pytest.raises(ValueError, match="holds no attributions"):
            read_published(tmp_path / name, FormulaSubject().components, 0.3)
    assert not sprung.exists()


def _pickle(value, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))
