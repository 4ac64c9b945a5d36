"""Keyed sampling draws from the softmax, and by nothing but seed, prefix and logits."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from aim_plugins.modulation.sampling import KeyedSamplingProcessor, sampling_seed

PREFIX = [5, 9, 7]


def drawn(scores: torch.Tensor) -> list[int]:
    """The tokens that are left, after a look that they are the only ones."""
    assert (scores.isfinite().sum(dim=1) == 1).all()
    return scores.argmax(dim=1).tolist()


@pytest.mark.parametrize("vocab_size", [20, 300])
def test_tokens_are_drawn_with_the_probabilities_of_the_softmax(vocab_size: int):
    count = 40_000
    logits = 2.5 * torch.randn(vocab_size, generator=torch.Generator().manual_seed(1))
    seeds = [sampling_seed(seed) for seed in range(count)]
    ids = torch.tensor([PREFIX]).expand(count, -1)
    tokens = drawn(KeyedSamplingProcessor(seeds)(ids, logits.expand(count, -1)))
    expected = logits.double().softmax(0) * count
    found = torch.bincount(torch.tensor(tokens), minlength=vocab_size).double()
    often = expected > 10
    found = torch.cat([found[often], found[~often].sum()[None]])
    expected = torch.cat([expected[often], expected[~often].sum()[None]])
    assert stats.chisquare(found, expected).pvalue > 1e-3


def test_successive_tokens_are_independent():
    """Two tokens of one seed fill the table of pairs as independent draws would."""
    count = 20_000
    logits = torch.tensor([[0.0, 0.5, 1.0]]).expand(count, -1)
    processor = KeyedSamplingProcessor([sampling_seed(seed) for seed in range(count)])
    ids = torch.tensor([PREFIX]).expand(count, -1)
    first = torch.tensor(drawn(processor(ids, logits)))
    second = torch.tensor(drawn(processor(torch.cat([ids, first[:, None]], dim=1), logits)))
    table = torch.bincount(3 * first + second, minlength=9).view(3, 3)
    assert stats.chi2_contingency(table.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_draw_is_the_same_alone_and_padded_in_a_batch(dtype: torch.dtype):
    logits = torch.randn(6, 500, generator=torch.Generator().manual_seed(2)).to(dtype)
    seeds = [sampling_seed(seed) for seed in range(6)]
    ids = torch.tensor([[0, 0, *PREFIX]] * 6)
    mask = torch.tensor([[0, 0, 1, 1, 1]] * 6)
    together = drawn(KeyedSamplingProcessor(seeds, attention_mask=mask)(ids, logits))
    alone = [
        drawn(KeyedSamplingProcessor(seed)(torch.tensor([PREFIX]), row[None]))[0]
        for seed, row in zip(seeds, logits, strict=True)
    ]
    assert together == alone
    assert len(set(together)) > 3


def test_tokens_that_were_ruled_out_are_never_drawn():
    logits = torch.full((500, 50), -torch.inf)
    logits[:, [3, 11]] = torch.tensor([0.0, 1.0])
    seeds = [sampling_seed(seed) for seed in range(500)]
    ids = torch.tensor([PREFIX]).expand(500, -1)
    assert set(drawn(KeyedSamplingProcessor(seeds)(ids, logits))) == {3, 11}


def test_every_seed_and_occurrence_has_draws_of_its_own():
    seeds = {sampling_seed(seed, occurrence) for seed in range(100) for occurrence in range(100)}
    assert len(seeds) == 10_000
    assert all(-(2**63) <= seed < 2**63 for seed in seeds)
