"""Claims about scoring from logits: exact values, work done once, in blocks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from aim_plugins.engines import scoring
from aim_plugins.modulation import noise
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.gaussian import GaussianNoise
from aim_plugins.modulation.noise import prefix_keys, standard_normal


def noisy(std, mean=0.0, seed=0):
    return Column((GaussianNoise(float(std), float(mean), seed),), seed)


COLUMNS = columns_of(noise_std="0:3:1", noise_seed=5, noise_draws=2)
VOCABULARY = 50
TEXTS = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 30, 9], [5, 6, 7, 8, 31], [5, 40, 7, 8, 9]])
PREFIXES = {tuple(text[: end + 1]) for text in TEXTS.tolist() for end in range(len(text))}


@pytest.fixture
def logits():
    """Logits of a causal model, of which equal prefixes differ by rounding."""
    keys = prefix_keys(TEXTS)
    draws = standard_normal(keys.flatten(), VOCABULARY, seed=99).view(*TEXTS.shape, VOCABULARY)
    return 2 * draws * (1 + 1e-7 * torch.arange(len(TEXTS)))[:, None, None]


@pytest.fixture
def drawn(monkeypatch):
    """Keys for which noise is drawn, block by block."""
    blocks = []

    def record(keys, *arguments, **options):
        blocks.append(keys.tolist())
        return standard_normal(keys, *arguments, **options)

    monkeypatch.setattr(noise, "standard_normal", record)
    return blocks


def score(logits, columns=COLUMNS, softmax_dtype=None):
    """Every position of every text, each with the same two targets."""
    count = TEXTS.numel()
    return scoring.token_log_probabilities(
        logits.reshape(count, -1),
        torch.arange(count),
        prefix_keys(TEXTS).flatten(),
        torch.arange(count).repeat_interleave(2),
        torch.tensor([3, 44]).repeat(count),
        columns,
        softmax_dtype,
    )


@pytest.mark.parametrize("elements", [1, 3 * VOCABULARY, 2**18])
def test_values_are_those_of_the_formula_whatever_the_blocks(logits, monkeypatch, elements):
    monkeypatch.setitem(scoring._BLOCK_ELEMENTS, "cpu", elements)
    log_probabilities, is_argmax, clean, _ = score(logits)
    flat, keys = logits.reshape(-1, VOCABULARY).double(), prefix_keys(TEXTS).flatten()
    for column, scores, hits in zip(COLUMNS, log_probabilities, is_argmax, strict=True):
        noise = standard_normal(keys, VOCABULARY, seed=column.seed, dtype=torch.float64)
        noisy = flat + column.strength_of(GaussianNoise) * noise
        expected = F.log_softmax(noisy, dim=-1)[:, [3, 44]].flatten()
        torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=0)
        best = noisy.argmax(-1, keepdim=True) == torch.tensor([3, 44])
        assert torch.equal(hits, best.flatten())
    expected = F.log_softmax(flat, dim=-1)[:, [3, 44]].flatten()
    torch.testing.assert_close(clean.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softmax_dtype", [None, torch.float32])
def test_without_noise_each_position_has_the_bits_of_its_own_logits(logits, dtype, softmax_dtype):
    own = logits.to(dtype)
    scores, hits, *_ = score(own, softmax_dtype=softmax_dtype)
    expected = F.log_softmax(own, dim=-1, dtype=softmax_dtype)[..., [3, 44]].flatten()
    assert scores[0].dtype == expected.dtype
    assert torch.equal(scores[0], expected)
    if dtype == torch.float32:
        first, third = expected.view(len(TEXTS), -1)[[0, 2], :8]
        assert not torch.equal(first, third)  # one prefix, other bits: no value was shared


def test_noise_is_drawn_once_for_each_prefix_and_seed(logits, drawn):
    score(logits, columns_of(noise_std=[1.0, 2.0, 3.0], noise_seed=7))
    [keys] = drawn
    assert len(keys) == len(set(keys)) == len(PREFIXES)
    drawn.clear()
    score(logits, COLUMNS)
    assert [len(keys) for keys in drawn] == [len(PREFIXES)] * 2
    drawn.clear()
    score(logits, [Column()])
    assert drawn == []


def test_noise_is_drawn_for_a_block_at_a_time(logits, drawn, monkeypatch):
    monkeypatch.setitem(scoring._BLOCK_ELEMENTS, "cpu", 4 * VOCABULARY)
    score(logits, [noisy(1.0)])
    assert max(len(keys) for keys in drawn) == 4


def test_infinite_logits_name_the_first_target(logits):
    logits[1, 2, 10] = float("inf")
    with pytest.raises(scoring.NotFiniteLogitsError) as caught:
        score(logits)
    assert caught.value.target == 2 * (1 * 5 + 2)
