"""Logits processors: through the real `generate` of a tiny random Llama."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import LogitsProcessorList

from aim_plugins.modulation import logits
from aim_plugins.modulation.logits import (
    GaussianNoiseLogitsProcessor,
    HalfNormalFocusProcessor,
    add_noise,
)
from aim_plugins.modulation.noise import prefix_keys, sequence_keys, standard_normal

VOCAB = 128
PAD = 0
NEW_TOKENS = 12


@pytest.fixture
def prompts() -> torch.Tensor:
    """Three prompts of five tokens, without special tokens."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, VOCAB, (3, 5), generator=generator)


@pytest.fixture
def scores() -> torch.Tensor:
    return 3 * torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(1))


def generate(model, prompts, processor=None, *, mask=None, sampling_seed=0, **options):
    """Generated tokens only, `NEW_TOKENS` per row."""
    torch.manual_seed(sampling_seed)
    mask = torch.ones_like(prompts) if mask is None else mask
    return model.generate(
        prompts,
        attention_mask=mask,
        logits_processor=LogitsProcessorList([] if processor is None else [processor]),
        min_new_tokens=NEW_TOKENS,
        max_new_tokens=NEW_TOKENS,
        **({"do_sample": False} | options),
    )[:, prompts.shape[1] :]


MODES = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "num_return_sequences": 2},
}


# Utility modulation, one step


def test_noise_is_logits_plus_mean_plus_std_times_z(prompts, scores):
    modulated = GaussianNoiseLogitsProcessor(0.7, mean=0.3, seed=5)(prompts, scores)
    z = standard_normal(prefix_keys(prompts)[:, -1], VOCAB, seed=5)
    torch.testing.assert_close(modulated, scores + 0.3 + 0.7 * z)


def test_scores_are_never_changed_in_place(prompts, scores):
    before = scores.clone()
    GaussianNoiseLogitsProcessor(1.0)(prompts, scores)
    GaussianNoiseLogitsProcessor([0.0, 1.0, 2.0])(prompts, scores)
    HalfNormalFocusProcessor({3: 1}, 1.0)(prompts, scores)
    assert torch.equal(scores, before)


def test_zero_std_returns_the_very_same_tensor(prompts, scores):
    assert GaussianNoiseLogitsProcessor(0.0, mean=2.0)(prompts, scores) is scores
    assert GaussianNoiseLogitsProcessor([0.0, 0.0, 0.0])(prompts, scores) is scores
    assert HalfNormalFocusProcessor({3: 1}, 0.0)(prompts, scores) is scores


def test_rows_of_zero_std_are_bit_identical_beside_noisy_ones(prompts, scores):
    scores[1, :4] = torch.tensor([-0.0, 0.0, -math.inf, 1e-40])
    for processor in (
        GaussianNoiseLogitsProcessor([1.0, 0.0, 2.0], mean=0.5),
        HalfNormalFocusProcessor({0: 1, 1: -1}, [1.0, 0.0, 2.0]),
    ):
        modulated = processor(prompts, scores)
        assert torch.equal(modulated[1].view(torch.int32), scores[1].view(torch.int32))
        assert not torch.equal(modulated[0], scores[0])


def test_every_row_has_its_own_std_and_seed(prompts, scores):
    stds, seeds = [0.5, 1.5, 0.0], [7, 8, 9]
    together = GaussianNoiseLogitsProcessor(stds, seed=seeds)(prompts, scores)
    for row, (std, seed) in enumerate(zip(stds, seeds, strict=True)):
        alone = GaussianNoiseLogitsProcessor(std, seed=seed)(
            prompts[row : row + 1], scores[row : row + 1]
        )
        torch.testing.assert_close(together[row : row + 1], alone)


@pytest.mark.parametrize("given", [[0.5, 1.5, 0.0], (0.5, 1.5, 0.0), torch.tensor([0.5, 1.5, 0.0])])
def test_std_is_a_list_a_tuple_or_a_tensor(prompts, scores, given):
    expected = GaussianNoiseLogitsProcessor([0.5, 1.5, 0.0])(prompts, scores)
    assert torch.equal(GaussianNoiseLogitsProcessor(given)(prompts, scores), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_noise_is_added_in_float32_or_wider_and_keeps_the_dtype(prompts, scores, dtype):
    scores = scores.to(dtype)
    modulated = GaussianNoiseLogitsProcessor(0.7, seed=5)(prompts, scores)
    z = standard_normal(prefix_keys(prompts)[:, -1], VOCAB, seed=5)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert modulated.dtype == dtype
    torch.testing.assert_close(modulated, (scores.to(wide) + 0.7 * z.to(wide)).to(dtype))


def test_impossible_tokens_stay_impossible(prompts, scores):
    scores[:, 5] = -math.inf
    assert GaussianNoiseLogitsProcessor(3.0)(prompts, scores)[:, 5].eq(-math.inf).all()
    assert HalfNormalFocusProcessor({5: 1}, 3.0)(prompts, scores)[:, 5].eq(-math.inf).all()


def test_every_strength_scales_the_same_noise(prompts, scores):
    shifts = [GaussianNoiseLogitsProcessor(std)(prompts, scores) - scores for std in (1.0, 4.0)]
    torch.testing.assert_close(shifts[1], 4 * shifts[0], rtol=0, atol=1e-5)


def test_add_noise_leaves_rows_of_zero_std(scores):
    keys = torch.tensor([1, 2, 3])
    modulated = add_noise(scores, keys, torch.tensor([0.0, 1.0, 0.0]), mean=2.0)
    assert torch.equal(modulated[[0, 2]], scores[[0, 2]])
    expected = scores[1] + 2.0 + standard_normal(keys[1:2], VOCAB)[0]
    torch.testing.assert_close(modulated[1], expected)


# Utility modulation, through generate


@pytest.mark.parametrize("mode", MODES)
def test_zero_std_generates_what_the_plain_model_does(tiny_llama, prompts, mode):
    plain = generate(tiny_llama, prompts, **MODES[mode])
    processor = GaussianNoiseLogitsProcessor(0.0, mean=1.0)
    assert torch.equal(generate(tiny_llama, prompts, processor, **MODES[mode]), plain)


@pytest.mark.parametrize("mode", ["greedy", "beams"])
def test_each_prompt_of_a_batch_gets_its_own_std(tiny_llama, prompts, mode):
    stds = [0.0, 1.0, 6.0]
    together = generate(tiny_llama, prompts, GaussianNoiseLogitsProcessor(stds), **MODES[mode])
    assert torch.equal(together[0], generate(tiny_llama, prompts, **MODES[mode])[0])
    for row, std in enumerate(stds):
        alone = generate(
            tiny_llama, prompts[row : row + 1], GaussianNoiseLogitsProcessor(std), **MODES[mode]
        )
        assert torch.equal(together[row : row + 1], alone)
    assert not torch.equal(together, generate(tiny_llama, prompts, **MODES[mode]))


def test_return_sequences_of_one_prompt_share_its_std(tiny_llama, prompts):
    processor = GaussianNoiseLogitsProcessor([0.0, 3.0, 0.0])
    noisy = generate(tiny_llama, prompts, processor, **MODES["sampling"]).view(3, 2, -1)
    plain = generate(tiny_llama, prompts, **MODES["sampling"]).view(3, 2, -1)
    assert torch.equal(noisy[[0, 2]], plain[[0, 2]])
    assert not torch.equal(noisy[1, 0], plain[1, 0])
    assert not torch.equal(noisy[1, 1], plain[1, 1])


@pytest.mark.parametrize("mode", ["greedy", "beams"])
def test_left_padding_changes_nothing(tiny_llama, prompts, mode):
    stds = [0.5, 1.0, 4.0]
    lengths = [2, 5, 3]
    padded, mask = prompts.clone(), torch.ones_like(prompts)
    for row, length in enumerate(lengths):
        padded[row, : 5 - length], mask[row, : 5 - length] = PAD, 0
    processor = GaussianNoiseLogitsProcessor(stds, attention_mask=mask)
    together = generate(tiny_llama, padded, processor, mask=mask, **MODES[mode])
    for row, length in enumerate(lengths):
        alone = generate(
            tiny_llama,
            prompts[row : row + 1, 5 - length :],
            GaussianNoiseLogitsProcessor(stds[row]),
            **MODES[mode],
        )
        assert torch.equal(together[row : row + 1], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_generates_in_every_dtype(tiny_llama, prompts, dtype):
    original = tiny_llama.dtype
    try:
        model = tiny_llama.to(dtype)
        plain = generate(model, prompts)
        assert torch.equal(generate(model, prompts, GaussianNoiseLogitsProcessor(0.0)), plain)
        noisy = generate(model, prompts, GaussianNoiseLogitsProcessor(5.0))
        assert torch.equal(generate(model, prompts, GaussianNoiseLogitsProcessor(5.0)), noisy)
        assert not torch.equal(noisy, plain)
    finally:
        tiny_llama.to(original)


def test_greedy_generation_agrees_with_scoring_the_finished_text(tiny_llama, prompts):
    std, seed = 2.0, 3
    generated = generate(tiny_llama, prompts, GaussianNoiseLogitsProcessor(std, seed=seed))
    text = torch.cat([prompts, generated], dim=1)
    with torch.no_grad():
        clean = tiny_llama(text).logits
    # One pass over the finished text, with the key of every prefix.
    noise = standard_normal(prefix_keys(text).flatten(), VOCAB, seed=seed).view_as(clean)
    modulated = clean + std * noise
    modulated[..., tiny_llama.config.eos_token_id] = -math.inf  # as min_new_tokens demands
    predicted = modulated.argmax(-1)[:, prompts.shape[1] - 1 : -1]
    assert torch.equal(predicted, generated)


def test_the_modulated_model_obeys_the_chain_rule(tiny_llama, prompts):
    """log p(ab|c) = log p(a|c) + log p(b|ca), wherever a harness cuts the text."""
    processor = GaussianNoiseLogitsProcessor(2.0)

    def log_probability(context: torch.Tensor, continuation: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(len(context))
        for token in continuation.T:
            with torch.no_grad():
                scores = processor(context, tiny_llama(context).logits[:, -1])
            total += scores.log_softmax(-1).gather(1, token[:, None])[:, 0]
            context = torch.cat([context, token[:, None]], dim=1)
        return total

    whole = log_probability(prompts[:, :2], prompts[:, 2:])
    for cut in (3, 4):
        parts = log_probability(prompts[:, :2], prompts[:, 2:cut])
        parts += log_probability(prompts[:, :cut], prompts[:, cut:])
        torch.testing.assert_close(parts, whole)


# Focus modulation


def test_focus_moves_targets_alone_in_the_direction_of_their_sign(prompts, scores):
    modulated = HalfNormalFocusProcessor({3: 1, 90: -1}, 1.5, seed=2)(prompts, scores)
    z = standard_normal(sequence_keys(prompts), VOCAB, seed=2)
    expected = scores.clone()
    expected[:, 3] += (1.5 * z[:, 3]).abs()
    expected[:, 90] -= (1.5 * z[:, 90]).abs()
    torch.testing.assert_close(modulated, expected)
    others = [token for token in range(VOCAB) if token not in (3, 90)]
    assert torch.equal(modulated[:, others], scores[:, others])


def test_focus_follows_the_half_normal_law():
    rows = 20_000
    prompts = torch.arange(rows)[:, None]
    modulated = HalfNormalFocusProcessor({1: 1, 7: -1}, 2.0)(prompts, torch.zeros(rows, 9))
    assert stats.kstest(modulated[:, 1].numpy() / 2, "halfnorm").pvalue > 1e-3
    assert stats.kstest(-modulated[:, 7].numpy() / 2, "halfnorm").pvalue > 1e-3
    correlation = torch.corrcoef(modulated[:, [1, 7]].T)[0, 1]
    assert abs(correlation) < 4 / math.sqrt(rows), "targets draw independently"


def test_focus_wins_as_often_as_its_closed_form_says():
    # One target a gap d below the best logit wins with probability erfc(d / (std √2)).
    rows, gap, std = 20_000, 1.0, 1.3
    clean = torch.zeros(rows, 5)
    clean[:, 2] = gap
    modulated = HalfNormalFocusProcessor({4: 1}, std)(torch.arange(rows)[:, None], clean)
    wins = int(modulated.argmax(1).eq(4).sum())
    expected = math.erfc(gap / (std * math.sqrt(2)))
    assert stats.binomtest(wins, rows, expected).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_focus_generates_the_target_at_great_strength(tiny_llama, prompts, dtype):
    original = tiny_llama.dtype
    try:
        model = tiny_llama.to(dtype)
        generated = generate(model, prompts, HalfNormalFocusProcessor({77: 1}, [0.0, 1e4, 1e4]))
        assert torch.equal(generated[0], generate(model, prompts)[0])
    finally:
        tiny_llama.to(original)
    assert generated[1:].eq(77).float().mean() > 0.9


# Bad input


@pytest.mark.parametrize("std", [-1.0, math.nan, math.inf, [0.5, -1.0], torch.tensor([0.1, -2.0])])
def test_a_std_that_is_no_strength_is_refused(std):
    with pytest.raises(ValueError, match="std="):
        GaussianNoiseLogitsProcessor(std)
    with pytest.raises(ValueError, match="std="):
        HalfNormalFocusProcessor({1: 1}, std)


def test_other_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="std=.* is empty"):
        GaussianNoiseLogitsProcessor([])
    with pytest.raises(ValueError, match="mean=nan is not finite"):
        GaussianNoiseLogitsProcessor(1.0, mean=math.nan)
    # Called below the annotations, which users without the import hook do not have either.
    with pytest.raises(ValueError, match=r"attention_mask of shape \(1, 2, 3\)"):
        logits._validate_mask(torch.ones(1, 2, 3))


@pytest.mark.parametrize("seed", [True, 0.5, 2**63, None])
def test_seeds_that_are_no_64_bit_integers_are_refused(seed):
    with pytest.raises(ValueError, match="seed=.* is no 64-bit integer"):
        logits._validate_seed(seed)


def test_numpy_values_are_taken_like_lists(prompts, scores):
    expected = GaussianNoiseLogitsProcessor([0.5, 1.5, 0.0], seed=[1, 2, 3])(prompts, scores)
    assert logits._as_list(np.array([0.5, 1.5]), "std") == [0.5, 1.5]
    stds, seeds = list(np.array([0.5, 1.5, 0.0])), list(np.array([1, 2, 3]))
    given = [logits._validate_seed(seed) for seed in seeds]
    assert torch.equal(GaussianNoiseLogitsProcessor(stds, seed=given)(prompts, scores), expected)


@pytest.mark.parametrize(
    ("targets", "message"),
    [({}, "names no token"), ({-1: 1}, "token id -1"), ({1: 2}, r"targets\[1\]=2 is no sign")],
)
def test_bad_targets_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        HalfNormalFocusProcessor(targets, 1.0)


def test_a_target_outside_the_vocabulary_is_refused(prompts, scores):
    with pytest.raises(ValueError, match=r"\[128\] lie outside the vocabulary of 128"):
        HalfNormalFocusProcessor({128: 1, 127: 1}, 1.0)(prompts, scores)


def test_row_counts_that_do_not_fit_are_refused(prompts, scores):
    with pytest.raises(ValueError, match="std is given for 2 prompts, .* 3 rows"):
        GaussianNoiseLogitsProcessor([1.0, 2.0])(prompts, scores)
    with pytest.raises(ValueError, match="seed is given for 2 prompts, .* 3 rows"):
        GaussianNoiseLogitsProcessor(1.0, seed=[1, 2])(prompts, scores)
    with pytest.raises(ValueError, match="attention_mask is given for 2 prompts, .* 3 rows"):
        mask = torch.ones(2, 5, dtype=torch.bool)
        GaussianNoiseLogitsProcessor(1.0, attention_mask=mask)(prompts, scores)
    with pytest.raises(ValueError, match="attention_mask has 6 positions but input_ids only 5"):
        mask = torch.ones(3, 6, dtype=torch.bool)
        GaussianNoiseLogitsProcessor(1.0, attention_mask=mask)(prompts, scores)


@pytest.mark.parametrize("std", [1.0, [0.0, 1.0, 0.0]])
def test_nan_scores_are_named(prompts, scores, std):
    scores[1, 17] = math.nan
    with pytest.raises(ValueError, match=r"scores of rows \[1\] are NaN"):
        GaussianNoiseLogitsProcessor(std)(prompts, scores)
