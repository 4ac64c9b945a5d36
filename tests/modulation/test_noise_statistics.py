"""Keyed noise is standard normal and independent: statistical tests on at least 10^7 draws.

All inputs are fixed, so a test passes always or never; thresholds are what true random numbers
miss once in 1000 tests.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from aim_plugins.modulation.noise import prefix_keys, sequence_keys, standard_normal

VOCAB = 49152
ROWS = 208
ALPHA = 1e-3
LIMIT = stats.norm.isf(ALPHA / 2)
"""Two-sided critical value, in standard errors."""


def random_prefixes(rows: int, positions: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB, (rows, positions), generator=generator)


@pytest.fixture(scope="module")
def draws() -> torch.Tensor:
    """More than 10^7 draws: 208 prefixes of one text, each one token longer than the one before."""
    sample = standard_normal(prefix_keys(random_prefixes(1, ROWS))[0], VOCAB)
    assert sample.numel() >= 10**7
    return sample


@pytest.mark.parametrize(
    ("power", "moment", "variance"), [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)]
)
def test_moments_are_those_of_the_normal_law(draws, power, moment, variance):
    # The variance of z^k is E z^2k - (E z^k)^2, with E z^2k = (2k - 1)!!.
    error = draws.double().pow(power).mean().item() - moment
    assert abs(error) < LIMIT * math.sqrt(variance / draws.numel())


def test_kolmogorov_smirnov(draws):
    assert stats.kstest(draws.numpy().ravel(), "norm").pvalue > ALPHA


def test_kolmogorov_smirnov_of_one_token_over_prefixes():
    # The same few token ids under very many prefixes: the other way to cut the table.
    keys = prefix_keys(random_prefixes(4000, 50)).flatten()
    sample = standard_normal(keys, 60).numpy()
    assert sample.size >= 10**7
    assert stats.kstest(sample.ravel(), "norm").pvalue > ALPHA
    per_token = [stats.kstest(sample[:, token], "norm").pvalue for token in range(60)]
    assert stats.kstest(per_token, "uniform").pvalue > ALPHA


def test_tails_hold_as_many_draws_as_the_normal_law_says():
    thresholds = (4.0, 4.5, 5.0, 5.5)
    above, below, count = np.zeros(4), np.zeros(4), 0
    keys = prefix_keys(random_prefixes(1, ROWS, seed=1))[0]
    for seed in range(8):
        sample = standard_normal(keys, VOCAB, seed=seed)
        far = sample[sample.abs() > thresholds[0]]
        above += [(far > threshold).sum().item() for threshold in thresholds]
        below += [(far < -threshold).sum().item() for threshold in thresholds]
        count += sample.numel()
    for threshold, *observed in zip(thresholds, above, below, strict=True):
        for tail in observed:
            pvalue = stats.binomtest(int(tail), count, stats.norm.sf(threshold)).pvalue
            assert pvalue > ALPHA, f"{tail} of {count} draws beyond {threshold} sigma"


def assert_independent(first: torch.Tensor, second: torch.Tensor) -> None:
    """Tests pairs for correlation of values and of squares, and in a table of deciles."""
    first, second = first.flatten().double(), second.flatten().double()
    standard_error = 1 / math.sqrt(first.numel())
    assert abs((first * second).mean().item()) < LIMIT * standard_error
    # Var of (z² - 1)(w² - 1) is 2·2. A Box-Muller pair gone wrong shows here, not above.
    assert abs(((first**2 - 1) * (second**2 - 1)).mean().item()) < LIMIT * 2 * standard_error
    edges = torch.tensor(stats.norm.ppf(np.linspace(0.1, 0.9, 9)))
    cells = torch.bucketize(first, edges) * 10 + torch.bucketize(second, edges)
    assert stats.chisquare(torch.bincount(cells, minlength=100).numpy()).pvalue > ALPHA


@pytest.mark.parametrize("other", [1, 2**32, -1])
def test_seeds_draw_independently(draws, other):
    keys = prefix_keys(random_prefixes(1, ROWS))[0]
    assert_independent(draws, standard_normal(keys, VOCAB, seed=other))


def test_neighbouring_prefixes_draw_independently(draws):
    assert_independent(draws[:-1], draws[1:])


@pytest.mark.parametrize("lag", [1, 63, 64, 65, 128, 1000], ids=lambda lag: f"lag{lag}")
def test_token_ids_draw_independently(draws, lag):
    # Lag 64 pairs the cosine and the sine of one word.
    assert_independent(draws[:, :-lag], draws[:, lag:])


def test_box_muller_partners_draw_independently(draws):
    blocks = draws.view(ROWS, -1, 2, 64)
    assert_independent(blocks[:, :, 0], blocks[:, :, 1])


@pytest.mark.parametrize("change", ["last token", "first token", "swapped tokens", "one longer"])
def test_similar_prefixes_draw_independently(change):
    texts = random_prefixes(ROWS, 6, seed=2)
    similar = texts.clone()
    if change == "last token":
        similar[:, -1] ^= 1
    elif change == "first token":
        similar[:, 0] ^= 1
    elif change == "swapped tokens":
        similar[:, [2, 3]] = texts[:, [3, 2]]
    else:
        similar = torch.cat([texts, texts[:, -1:]], dim=1)
    assert_independent(
        standard_normal(sequence_keys(texts), VOCAB), standard_normal(sequence_keys(similar), VOCAB)
    )


def test_small_numbers_as_keys_draw_independently():
    # Users without prefixes, such as image classifiers, number their samples.
    sample = standard_normal(torch.arange(300_000), 12)
    assert_independent(sample[:-1], sample[1:])
    assert_independent(sample[:-256], sample[256:])
    assert stats.kstest(sample.numpy().ravel(), "norm").pvalue > ALPHA


def test_ten_million_random_prefixes_have_ten_million_keys():
    rows, positions = 100_000, 102
    texts = random_prefixes(rows, positions, seed=3)
    # The first two tokens number the rows, so that all prefixes from there on differ.
    texts[:, 0], texts[:, 1] = torch.arange(rows) % 317, torch.arange(rows) // 317
    keys = prefix_keys(texts)[:, 1:].flatten()
    assert keys.numel() >= 10**7
    assert keys.unique().numel() == keys.numel()


def test_a_million_structured_prefixes_have_a_million_keys():
    # Every six-token text over ten small token ids: sums of hashes have most chances to meet.
    texts = torch.cartesian_prod(*[torch.arange(10)] * 6)
    assert sequence_keys(texts).unique().numel() == 10**6
