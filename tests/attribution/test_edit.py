"""Edits ablate what matters more for targets than for references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from aim_plugins.attribution.edit import edit_scores, edited_components


def test_scores_are_t_statistics_with_population_deviations() -> None:
    """As in the authors' code, with numpy, whose deviations divide by the number of examples."""
    rng = np.random.default_rng(0)
    targets, references = rng.normal(size=(4, 7)), rng.normal(size=(9, 7)) + 1
    expected = (targets.mean(0) - references.mean(0)) / np.sqrt(
        targets.std(0) ** 2 / 4 + references.std(0) ** 2 / 9
    )
    found = edit_scores(torch.tensor(targets), torch.tensor(references))
    assert found.numpy() == pytest.approx(expected, abs=1e-5)


def test_of_one_target_the_references_deviation_alone_counts() -> None:
    references = torch.tensor([[0.0, 1.0], [2.0, 5.0]])
    found = edit_scores(torch.tensor([[4.0, 3.0]]), references)
    # Means 1 and 3, deviations 1 and 2, by the root of two references.
    assert found.tolist() == pytest.approx([3 * math.sqrt(2), 0.0])


def test_of_one_target_and_one_reference_the_difference_is_taken() -> None:
    found = edit_scores(torch.tensor([[4.0, 3.0, 0.0]]), torch.tensor([[1.0, 5.0, 0.0]]))
    assert found.tolist() == [3.0, -2.0, 0.0]


def test_a_component_that_no_example_needs_has_the_score_zero() -> None:
    targets, references = torch.zeros(3, 2), torch.zeros(5, 2)
    targets[:, 1] = 1.0
    assert edit_scores(targets, references).tolist() == [0.0, math.inf]


def test_missing_examples_and_other_components_are_refused() -> None:
    with pytest.raises(ValueError, match="targets: there are none"):
        edit_scores(torch.zeros(0, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="references: there are none"):
        edit_scores(torch.zeros(1, 2), torch.zeros(0, 2))
    with pytest.raises(ValueError, match="targets have attributions of 2 components, refer"):
        edit_scores(torch.zeros(1, 2), torch.zeros(1, 3))


def test_the_lowest_scores_raise_and_the_highest_lower() -> None:
    scores = torch.tensor([0.5, -2.0, 3.0, -1.0])
    assert edited_components(scores, 2, "raise") == [1, 3]
    assert edited_components(scores, 3, "lower") == [2, 0, 3]


def test_equal_scores_are_taken_in_the_order_of_the_model() -> None:
    assert edited_components(torch.zeros(5), 3, "raise") == [0, 1, 2]
    assert edited_components(torch.zeros(5), 3, "lower") == [0, 1, 2]


@pytest.mark.parametrize("size", [0, 5])
def test_more_components_than_there_are_cannot_be_ablated(size: int) -> None:
    with pytest.raises(ValueError, match=rf"size={size}: give 1 to 4, the number of components"):
        edited_components(torch.zeros(4), size, "raise")


def test_scores_without_a_number_are_refused() -> None:
    scores = torch.tensor([1.0, math.nan, 2.0])
    for aim in ("raise", "lower"):
        with pytest.raises(ValueError, match="scores: that of component 1 is NaN"):
            edited_components(scores, 1, aim)
