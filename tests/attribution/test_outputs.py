"""What is attributed is what the paper and its code attribute."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from aim_plugins.attribution.outputs import (
    choice_margin,
    log_likelihood,
    margin,
    mean_token_margin,
)


def test_a_margin_is_the_right_logit_less_the_largest_other() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.5], [1.0, 4.0, 2.5], [3.0, 3.0, 0.0]])
    assert margin(logits, torch.tensor([1, 0, 0])).tolist() == [1.5, -3.0, 0.0]


def test_margins_are_those_of_the_authors_code() -> None:
    """The other logits' largest is found by overwriting the right one with -inf, as there."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 7)), rng.integers(7, size=50)
    rows, others = np.arange(50), logits.copy()
    others[rows, labels] = -np.inf
    expected = logits[rows, labels] - others[rows, others.argmax(1)]
    found = margin(torch.tensor(logits), torch.tensor(labels))
    assert found.dtype == torch.float32
    assert found.numpy() == pytest.approx(expected, abs=1e-5)


def test_a_log_likelihood_is_the_log_of_softmax() -> None:
    found = log_likelihood(torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([1]))
    assert found.item() == pytest.approx(math.log(0.75))


def test_missing_choices_never_win() -> None:
    scores = torch.tensor([[-2.0, -5.0, -math.inf], [-4.0, -3.0, -1.0]])
    assert choice_margin(scores, torch.tensor([0, 1])).tolist() == [3.0, -2.0]


def test_token_margins_are_of_the_next_token_and_leave_padding_out() -> None:
    """By a loop over texts without their padding, as in the authors' code."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, 11, generator=generator)
    tokens = torch.randint(11, (3, 6), generator=generator)
    lengths = [6, 4, 2]
    counted = torch.tensor([[place < length for place in range(6)] for length in lengths])
    expected = [
        np.mean(
            [
                logits[row, place - 1, tokens[row, place]].item()
                - max(
                    value
                    for word, value in enumerate(logits[row, place - 1].tolist())
                    if word != tokens[row, place]
                )
                for place in range(1, length)
            ]
        )
        for row, length in enumerate(lengths)
    ]
    found = mean_token_margin(logits, tokens, counted)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_what_a_model_says_at_padding_does_not_matter() -> None:
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([[1, 2, 3, 4], [1, 2, 0, 0]])
    counted = torch.tensor([[True] * 4, [True, True, False, False]])
    expected = mean_token_margin(logits, tokens, counted)
    for value in (math.nan, math.inf):
        logits[1, 1:] = value
        assert torch.equal(mean_token_margin(logits, tokens, counted), expected)


def test_texts_of_no_counted_tokens_and_single_classes_are_refused() -> None:
    tokens, counted = torch.zeros(2, 3).long(), torch.ones(2, 3).bool()
    counted[1, 1:] = False
    with pytest.raises(ValueError, match="counted: no token behind the first one counts in row 1"):
        mean_token_margin(torch.zeros(2, 3, 5), tokens, counted)
    with pytest.raises(ValueError, match="logits: 1 classes have no margin"):
        margin(torch.zeros(2, 1), torch.zeros(2).long())
