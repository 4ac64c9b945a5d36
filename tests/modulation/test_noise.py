"""Keyed noise: its values, and what they must not depend on."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings

import pytest
import torch

from aim_plugins import modulation
from aim_plugins.modulation import noise
from aim_plugins.modulation.noise import (
    extend_keys,
    prefix_keys,
    sequence_keys,
    standard_normal,
    standard_normal_at,
)

ROUNDING = {"rtol": 0.0, "atol": 1e-6}
MASK64 = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(state: int) -> int:
    """Output function of SplitMix64 as published, in unbounded integers."""
    state &= MASK64
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK64
    return state ^ (state >> 31)


def reference_key(tokens: list[int]) -> int:
    total = 0
    for index, token in enumerate(tokens):
        total += splitmix64(splitmix64((index << 32) + token + GOLDEN) + GOLDEN)
    total &= MASK64
    return total - 2**64 if total >= 2**63 else total


def reference_normal(seed: int, key: int, token: int) -> float:
    stream = splitmix64(key + splitmix64(seed + GOLDEN))
    counter = 64 * (token // 128) + token % 64 + 1
    state = stream + counter * GOLDEN
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        state &= MASK64
        # A state and its complement share a word.
        state = min(state, MASK64 - state)
        state = (state ^ (state >> shift)) * factor
    uniform = (state % 2**31 + 0.5) / 2**31
    angle = 2 * math.pi * state / 2**63
    wave = math.cos(angle) if token % 128 < 64 else math.sin(angle)
    return math.sqrt(-2 * math.log(uniform)) * wave


@pytest.fixture
def keys() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-(2**62), 2**62, (6,), generator=generator)


@pytest.fixture
def token_ids() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 49152, (5, 12), generator=generator)


# Keys


def test_prefix_keys_equal_a_reference_in_unbounded_integers(token_ids):
    expected = [
        [reference_key(row[: end + 1]) for end in range(len(row))] for row in token_ids.tolist()
    ]
    assert prefix_keys(token_ids).tolist() == expected


def test_splitmix64_gives_its_published_sequence():
    # First outputs for the seed 1234567, from the test vectors of Rosetta Code's SplitMix64.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    signed = [(1234567 + step * GOLDEN) & MASK64 for step in (1, 2, 3)]
    signed = [state - 2**64 if state >= 2**63 else state for state in signed]
    assert [value % 2**64 for value in noise._mix64(torch.tensor(signed)).tolist()] == published


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_padding_changes_no_key(token_ids, dtype):
    rows, positions = token_ids.shape
    padded = torch.full((rows, positions + 6), 7)
    mask = torch.zeros_like(padded, dtype=dtype)
    padded[:, 4:-2] = token_ids
    mask[:, 4:-2] = True
    keys = prefix_keys(padded, mask)
    assert torch.equal(keys[:, 4:-2], prefix_keys(token_ids))
    assert keys[:, :4].eq(0).all(), "a prefix of no tokens has key 0"
    assert torch.equal(keys[:, -2:], keys[:, [-3, -3]]), "padding on the right adds nothing"


def test_extending_keys_token_by_token_equals_hashing_the_whole_prefix(token_ids):
    expected = prefix_keys(token_ids)
    keys = torch.zeros(len(token_ids), dtype=torch.int64)
    for position in range(token_ids.shape[1]):
        lengths = torch.full((len(token_ids),), position)
        keys = extend_keys(keys, lengths, token_ids[:, position])
        assert torch.equal(keys, expected[:, position])


def test_sequence_keys_are_the_keys_of_the_whole_rows(token_ids):
    mask = torch.ones_like(token_ids)
    mask[0, :3] = 0
    assert torch.equal(sequence_keys(token_ids, mask), prefix_keys(token_ids, mask)[:, -1])
    assert sequence_keys(token_ids[:, :0]).eq(0).all()


def test_order_of_tokens_matters():
    keys = sequence_keys(torch.tensor([[5, 9, 9], [9, 5, 9], [9, 9, 5], [5, 5, 9]]))
    assert keys.unique().numel() == 4


@pytest.mark.parametrize(
    ("tokens", "mask", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), None, r"shape \(3,\)"),
        (torch.zeros(2, 3), None, "float32"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 2), r"mask of shape \(2, 2\)"),
    ],
)
def test_keys_of_malformed_input_are_refused(tokens, mask, message):
    # Called below the annotations, which users without the import hook do not have either.
    with pytest.raises(ValueError, match=message):
        noise._token_hashes(tokens, mask)


# Values


@pytest.mark.parametrize("seed", [0, 1, -3, 2**63 - 1])
def test_draws_equal_a_reference_in_unbounded_integers(keys, seed):
    draws = standard_normal(keys, 400, seed=seed)
    expected = [[reference_normal(seed, key, t) for t in range(400)] for key in keys.tolist()]
    # Where the radius is nearly 0 its float32 argument, close to 1, costs up to 1e-5.
    torch.testing.assert_close(draws, torch.tensor(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("vocab_size", [1, 10, 64, 65, 128, 129, 1000, 5000])
def test_draws_do_not_depend_on_the_vocabulary_size(keys, vocab_size):
    expected = standard_normal(keys, 49152)[:, :vocab_size]
    torch.testing.assert_close(standard_normal(keys, vocab_size), expected, **ROUNDING)


@pytest.mark.parametrize(("offset", "size"), [(0, 200), (1, 300), (63, 2), (100, 128), (3000, 999)])
def test_a_slice_of_the_vocabulary_draws_the_same(keys, offset, size):
    expected = standard_normal(keys, 5000)[:, offset : offset + size]
    torch.testing.assert_close(standard_normal(keys, size, offset=offset), expected, **ROUNDING)


def test_single_token_ids_draw_the_same(keys):
    token_ids = torch.tensor([4999, 0, 63, 64, 127, 128, 64])
    expected = standard_normal(keys, 5000, seed=3)[:, token_ids]
    torch.testing.assert_close(standard_normal_at(keys, token_ids, seed=3), expected, **ROUNDING)


def test_draws_do_not_depend_on_batch_or_order():
    keys = torch.arange(37) * 2**40
    draws = standard_normal(keys, 20_000)
    torch.testing.assert_close(standard_normal(keys.flip(0), 20_000).flip(0), draws, **ROUNDING)
    for row in (0, 1, 17, 36):
        alone = standard_normal(keys[row : row + 1], 20_000)
        torch.testing.assert_close(alone, draws[row : row + 1], **ROUNDING)


def test_rows_may_have_seeds_of_their_own(keys):
    seeds = torch.tensor([4, 0, 4, 9, -1, 5])
    draws = standard_normal(keys, 300, seed=seeds)
    at = standard_normal_at(keys, torch.arange(300), seed=seeds)
    for row, seed in enumerate(seeds.tolist()):
        alone = standard_normal(keys[row : row + 1], 300, seed=seed)[0]
        torch.testing.assert_close(draws[row], alone, **ROUNDING)
        torch.testing.assert_close(at[row], alone, **ROUNDING)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_casts_of_the_same_draws(keys, dtype):
    draws = standard_normal(keys, 300, dtype=dtype)
    assert draws.dtype == dtype
    assert torch.equal(draws, standard_normal(keys, 300).to(dtype))


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("vocab_size", [0, 1, 200])
def test_empty_shapes_are_allowed(rows, vocab_size):
    assert standard_normal(torch.zeros(rows, dtype=torch.int64), vocab_size).shape == (
        rows,
        vocab_size,
    )


def test_extreme_words_stay_finite():
    words = torch.tensor([0, 2**63 - 1, 2**31 - 1, 2**31, 2**62])
    radius, angle = noise._polar(words)
    assert radius.isfinite().all()
    torch.testing.assert_close(angle, torch.tensor([0, 2, 0, 0, 1]) * math.pi)
    assert radius[0].item() == pytest.approx(math.sqrt(64 * math.log(2)))
    assert radius[1].item() == 0.0


def test_default_dtype_does_not_matter(keys):
    expected = standard_normal(keys, 300)
    torch.set_default_dtype(torch.float64)
    try:
        draws = standard_normal(keys, 300)
    finally:
        torch.set_default_dtype(torch.float32)
    assert draws.dtype == torch.float32
    assert torch.equal(draws, expected)


def test_malformed_requests_are_refused(keys):
    with pytest.raises(ValueError, match="vocab_size=-1 is negative"):
        standard_normal(keys, -1)
    with pytest.raises(ValueError, match="offset=-5 is negative"):
        standard_normal(keys, 10, offset=-5)
    with pytest.raises(ValueError, match=r"seed of shape \(2,\) does not fit 6 rows"):
        noise._streams(keys, torch.tensor([1, 2]))


# Paths


def test_compiled_draws_equal_eager_ones(keys):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for rows, vocab_size, offset in ((6, 5000, 0), (3, 700, 70), (1, 5000, 0)):
            compiled = standard_normal(keys[:rows], vocab_size, offset=offset, compiled=True)
            eager = standard_normal(keys[:rows], vocab_size, offset=offset, compiled=False)
            torch.testing.assert_close(compiled, eager, **ROUNDING)


def test_a_failing_compiler_warns_once_and_leaves_the_values(keys):
    def fail(streams, bases):
        raise RuntimeError("no C++ compiler")

    fill = noise._CompiledFill(fail)
    bases = torch.arange(3)
    expected = noise._fill_eager(keys, bases)
    with pytest.warns(RuntimeWarning, match="no C\\+\\+ compiler"):
        assert torch.equal(fill(keys, bases), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(fill(keys, bases), expected)


@pytest.mark.parametrize(("value", "on_cpu"), [("1", True), ("0", False), ("", False)])
def test_environment_decides_what_is_compiled(monkeypatch, value, on_cpu):
    monkeypatch.setenv(noise.COMPILE_VARIABLE, value)
    assert noise._compiles_by_default("cpu") is on_cpu
    if value == "0":
        assert not noise._compiles_by_default("cuda")


def test_a_malformed_environment_is_refused(monkeypatch):
    monkeypatch.setenv(noise.COMPILE_VARIABLE, "yes")
    with pytest.raises(ValueError, match="AIM_PLUGINS_COMPILE='yes'"):
        noise._compiles_by_default("cpu")


def test_another_process_with_other_threads_draws_the_same(keys):
    program = (
        "import torch; torch.set_num_threads(3)\n"
        "from aim_plugins.modulation.noise import prefix_keys, standard_normal\n"
        "keys = prefix_keys(torch.arange(8)[None] * 1000)[0]\n"
        "print(standard_normal(keys, 20000, seed=11)[:, ::1999].tolist())"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "3"}
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, env=environment
    ).stdout
    keys = prefix_keys(torch.arange(8)[None] * 1000)[0]
    here = standard_normal(keys, 20_000, seed=11)[:, ::1999]
    torch.testing.assert_close(torch.tensor(json.loads(printed)), here, **ROUNDING)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_cuda_draws_the_same(keys, compiled):
    draws = standard_normal(keys, 49152, device="cuda", compiled=compiled)
    torch.testing.assert_close(draws.cpu(), standard_normal(keys, 49152), **ROUNDING)


def test_the_package_offers_every_name_it_lists():
    for name in modulation.__all__:
        assert getattr(modulation, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        modulation.nonsense  # noqa: B018


def test_importing_the_package_does_not_import_torch():
    program = "import sys, aim_plugins.modulation; print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert printed.stdout.strip() == b"False"
