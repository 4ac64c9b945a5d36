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


def test_token_margins_are_means_over_the_tokens_of_each_text() -> None:
    """By a loop over texts, whose tokens need not lie next to each other."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 11, generator=generator)
    tokens = torch.randint(11, (9,), generator=generator)
    texts = torch.tensor([0, 2, 2, 0, 1, 2, 0, 0, 2])
    margins = [
        row[token] - max(row[:token] + row[token + 1 :])
        for row, token in zip(logits.tolist(), tokens.tolist(), strict=True)
    ]
    expected = [
        np.mean([margins[place] for place in range(9) if texts[place] == text]) for text in range(3)
    ]
    found = mean_token_margin(logits, tokens, texts)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_texts_of_no_tokens_and_single_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="texts: no token belongs to text 1: leave"):
        mean_token_margin(torch.zeros(2, 5), torch.zeros(2).long(), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="logits: 1 classes have no margin"):
        margin(torch.zeros(2, 1), torch.zeros(2).long())
