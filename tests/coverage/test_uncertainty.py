"""Uncertainties against their definitions in other hands."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from aim_plugins.coverage.uncertainty import deep_gini, largest_first

PROBABILITIES = torch.randn(40, 7, generator=torch.Generator().manual_seed(0)).double().softmax(1)


def test_deep_gini_is_the_chance_that_two_draws_differ():
    rows = PROBABILITIES.numpy()
    differing = [sum(row[i] * row[j] for i in range(7) for j in range(7) if i != j) for row in rows]
    assert np.allclose(deep_gini(PROBABILITIES).numpy(), differing)


def test_an_even_answer_is_the_least_sure_and_a_certain_one_the_surest():
    rows = torch.cat([torch.eye(7)[:1], torch.full((1, 7), 1 / 7), PROBABILITIES.float()])
    scores = deep_gini(rows)
    assert scores.argmin() == 0 and scores[1] >= scores.max() - 1e-6


def test_larger_scores_come_first_and_equal_ones_by_position():
    scores = torch.tensor([0.1, 0.7, 0.1, 0.9, 0.7])
    assert largest_first(scores).tolist() == [3, 1, 4, 0, 2]


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="scores of 1 inputs are nan, first of input 1"):
        largest_first(torch.tensor([0.1, math.nan]))
