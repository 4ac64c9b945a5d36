"""Keyed Gaussian noise: a pure function of (seed, token prefix, token id).

Logit noise drawn from a stateful generator depends on batch order, on caching and on where a
harness cuts a text in two. Here every draw is looked up instead: a prefix of tokens has a 64-bit
key, and `standard_normal` maps (seed, key, token id) to one N(0, 1) value. The modulated model is
therefore a proper autoregressive model, log p(ab|c) = log p(a|c) + log p(b|ca), and the same text
gets the same noise in every batch, process and engine (to float rounding).

Three steps, all in wrapping 64-bit integers until the last:

1. *Prefix key*: a Zobrist hash, the sum of mix64(token id, index) over the tokens of the prefix.
   A sum is vectorised by `cumsum`, extended by one token, and blind to padding.
2. *Words*: SplitMix64 started at mix64(key, seed). The vocabulary is cut into blocks of 128 token
   ids; word w of block b serves token ids 128·b + w and 128·b + w + 64. Blocks fix which word
   belongs to a token id, so neither the vocabulary size nor a slice of it changes a draw.
3. *Normals*: each word of 63 bits yields one Box–Muller pair, the radius from its low 31 bits and
   the angle from its leading ones. Radii reach √(64 ln 2) ≈ 6.66 standard deviations.

Any change of the values must raise `NOISE_VERSION`, which enters the fingerprints of results.

Source: AIM, arXiv 2603.12755 (noise on logits); Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014 (SplitMix64); Zobrist, "A new hashing method with
application for game playing", 1970; Box and Muller, 1958.
"""

from __future__ import annotations

import importlib.util
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from aim_plugins.modulation.placement import placed

NOISE_VERSION = 1
"""Version of the map (seed, prefix, token id) -> value; equal versions give equal draws."""

BLOCK = 128
"""Token ids per block; a block is served by BLOCK / 2 words, one per Box–Muller pair."""

COMPILE_VARIABLE = "AIM_PLUGINS_COMPILE"

_PAIRS = BLOCK // 2

# SplitMix64's constants, written as the signed integers that torch.int64 holds.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX2 = 0x94D049BB133111EB - 2**64

_RADIUS_SCALE = 2.0**-31
_ANGLE_SCALE = 2.0 * math.pi * 2.0**-63
_RADIUS_BITS = (1 << 31) - 1

# Words per pass of the eager path. On CPU each thread's share of the two int64 work buffers
# (1.5 MiB) stays in its core's cache; elsewhere a launch costs more than a cache miss.
_WORDS_PER_THREAD = 3 << 15
_DEVICE_WORDS = 1 << 25


def prefix_keys(
    token_ids: Int[Tensor, "rows positions"],
    mask: Bool[Tensor, "rows positions"] | Int[Tensor, "rows positions"] | None = None,
) -> Int64[Tensor, "rows positions"]:
    """Hashes every prefix of every row.

    Args:
        token_ids: Token ids, padded anywhere.
        mask: Nonzero where `token_ids` holds a token, zero where it holds padding; padding
            changes no key. `None` means no padding.

    Returns:
        Keys; `keys[r, t]` is the hash of the unmasked tokens of row r up to and including
        position t, and so belongs to `logits[r, t]`. A prefix of no tokens has key 0.

    Raises:
        ValueError: `token_ids` is not a matrix of integers, or `mask` has another shape.
    """
    return _token_hashes(token_ids, mask).cumsum(dim=1)


def sequence_keys(
    token_ids: Int[Tensor, "rows positions"],
    mask: Bool[Tensor, "rows positions"] | Int[Tensor, "rows positions"] | None = None,
) -> Int64[Tensor, " rows"]:
    """Hashes every whole row: the last column of `prefix_keys`, or 0 for rows of no tokens.

    Args:
        token_ids: Token ids, padded anywhere.
        mask: As in `prefix_keys`.

    Returns:
        One key per row, belonging to the logits of the token that comes next.

    Raises:
        ValueError: As in `prefix_keys`.
    """
    return _token_hashes(token_ids, mask).sum(dim=1)


def extend_keys(
    keys: Int64[Tensor, " rows"],
    lengths: Int[Tensor, " rows"],
    token_ids: Int[Tensor, " rows"],
) -> Int64[Tensor, " rows"]:
    """Extends prefixes by one token, without looking at the prefix again.

    Args:
        keys: Keys of the prefixes.
        lengths: Number of (unmasked) tokens in each prefix.
        token_ids: The tokens to append.

    Returns:
        The keys of the longer prefixes, as `prefix_keys` gives them.
    """
    return keys + _hash_tokens(token_ids.to(torch.int64), lengths.to(torch.int64))


def standard_normal(
    keys: Int64[Tensor, " rows"],
    vocab_size: int,
    *,
    seed: int | Int[Tensor, " rows"] = 0,
    offset: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    compiled: bool | None = None,
) -> Float[Tensor, "rows vocab"]:
    """Draws z(seed, key, token id) ~ N(0, 1) for a range of token ids.

    Every value is a pure function of its seed, key and token id; it depends neither on the other
    rows nor on `vocab_size` and `offset`. Paths and devices agree to float32 rounding (1e-6).

    Args:
        keys: One key per row, from `prefix_keys`; any other 64-bit numbers do as well.
        vocab_size: Number of token ids to draw for.
        seed: Seed of the draw; one for all rows or one per row.
        offset: First token id, for a slice of the vocabulary.
        device: Where to compute; by default where `keys` are.
        dtype: Floating-point type of the result. Values are computed in float32 and cast.
        compiled: Whether to use `torch.compile`. `None` asks the environment variable
            `AIM_PLUGINS_COMPILE` (1 or 0) and without it compiles on CUDA where Triton is
            installed; on CPU the compilation (some 10 s) would outlast many runs. Where
            compilation fails, a warning is given once and the eager path is used.

    Returns:
        Draws for token ids `offset` to `offset + vocab_size - 1`.

    Raises:
        ValueError: `vocab_size` or `offset` is negative, or `seed` has another number of rows.

    Source:
        Utility modulation of AIM, arXiv 2603.12755: l̃ = l + σ·z.
    """
    if vocab_size < 0:
        raise ValueError(f"vocab_size={vocab_size} is negative; pass the number of token ids")
    if offset < 0:
        raise ValueError(f"offset={offset} is negative; pass the first token id, 0 or more")
    streams = _streams(keys.to(device) if device is not None else keys, seed)
    if vocab_size <= _PAIRS:
        # A few classes: one word each beats whole blocks.
        token_ids = torch.arange(offset, offset + vocab_size, device=streams.device)
        return _normal_at(streams, token_ids).to(dtype)
    first = offset // BLOCK
    stop = -(-(offset + vocab_size) // BLOCK)
    bases = torch.arange(first, stop, device=streams.device).mul_(_PAIRS).add_(1).mul_(_GOLDEN)
    if compiled is None:
        compiled = _compiles_by_default(streams.device.type)
    fill = _fill_compiled if compiled else _fill_eager
    draws = fill(streams, bases).flatten(1)
    start = offset - first * BLOCK
    return draws[:, start : start + vocab_size].to(dtype)


def noisy_rows(
    logits: Float[Tensor, "rows vocab"],
    keys: Int64[Tensor, " noisy"],
    stds: Sequence[float],
    means: Sequence[float],
    seeds: Sequence[int],
    *,
    rows: Sequence[int] | None = None,
    compiled: bool | None = None,
) -> Float[Tensor, "rows vocab"]:
    """Adds keyed Gaussian noise, no std of which is 0: to some rows in place, or to all of a copy.

    Args:
        logits: The logits.
        keys: Key of the prefix of each noisy row.
        stds: Standard deviation for each noisy row.
        means: Mean for each.
        seeds: Seed for each.
        rows: The noisy rows, ascending; None are all.
        compiled: As in `standard_normal`.
    """
    device = logits.device
    noise = standard_normal(
        keys,
        logits.shape[1],
        seed=placed(seeds, torch.int64, device),
        device=device,
        compiled=compiled,
    ).mul_(placed(stds, torch.float32, device)[:, None])
    if any(means):
        noise.add_(placed(means, torch.float32, device)[:, None])
    if rows is not None and len(rows) == len(logits):
        return logits.add_(noise)
    if rows is not None:
        index = placed(rows, torch.int64, device)
        return logits.index_add_(0, index, noise.to(logits.dtype))
    # A float64 row keeps its precision; half precision is widened by the addition.
    total = noise.add(logits) if logits.dtype == torch.float64 else noise.add_(logits)
    return total.to(logits.dtype)


def standard_normal_at(
    keys: Int64[Tensor, " rows"],
    token_ids: Int[Tensor, " tokens"],
    *,
    seed: int | Int[Tensor, " rows"] = 0,
) -> Float[Tensor, "rows tokens"]:
    """Draws z(seed, key, token id) for a few token ids, at the cost of those alone.

    Args:
        keys: One key per row.
        token_ids: The token ids, the same for every row.
        seed: Seed of the draw; one for all rows or one per row.

    Returns:
        float32 draws, equal to those columns of `standard_normal` to rounding.

    Raises:
        ValueError: `seed` has another number of rows than `keys`.
    """
    return _normal_at(_streams(keys, seed), token_ids.to(keys.device, torch.int64))


def _token_hashes(token_ids: Tensor, mask: Tensor | None) -> Int64[Tensor, "rows positions"]:
    if token_ids.dim() != 2 or token_ids.is_floating_point():
        raise ValueError(
            f"token_ids of shape {tuple(token_ids.shape)} and {token_ids.dtype} is not a matrix "
            "of integers; pass token ids as [rows, positions]"
        )
    ids = token_ids.to(torch.int64)
    if mask is None:
        return _hash_tokens(ids, torch.arange(ids.shape[1], device=ids.device))
    if mask.shape != ids.shape:
        raise ValueError(
            f"mask of shape {tuple(mask.shape)} does not fit token_ids of shape "
            f"{tuple(ids.shape)}; pass one mask value per token id"
        )
    kept = (mask != 0).to(ids.device, torch.int64)
    return _hash_tokens(ids, kept.cumsum(dim=1) - 1) * kept


def _hash_tokens(token_ids: Tensor, indices: Tensor) -> Tensor:
    """Hashes (token id, index among the tokens); one-to-one for ids and indices below 2^32."""
    packed = (indices << 32) + token_ids
    # Two rounds with the constant between them: one round maps 0 to 0 and, being weakest on
    # small inputs, would leave sums of hashes of short prefixes related.
    return _mix64(_mix64(packed + _GOLDEN) + _GOLDEN)


def _streams(keys: Tensor, seed: int | Tensor) -> Int64[Tensor, " rows"]:
    """Start of each row's SplitMix64 stream; (seed, key) pairs give unrelated streams."""
    if isinstance(seed, Tensor):
        if seed.shape != keys.shape:
            raise ValueError(
                f"seed of shape {tuple(seed.shape)} does not fit {len(keys)} rows; pass one "
                "integer or one seed per row"
            )
        seeds = seed.to(keys.device, torch.int64)
    else:
        wrapped = (seed + 2**63) % 2**64 - 2**63
        seeds = torch.full((), wrapped, dtype=torch.int64, device=keys.device)
    return _mix64(keys + _mix64(seeds + _GOLDEN))


def _mix64(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, a bijection of the 64-bit integers."""
    x = (x ^ _logical_shift(x, 30)) * _MIX1
    x = (x ^ _logical_shift(x, 27)) * _MIX2
    return x ^ _logical_shift(x, 31)


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _word(states: Tensor) -> Tensor:
    """Mixes states to words of 63 bits, never negative.

    This is `_mix64` with arithmetic shifts: x ^ (x >> n) then is the same for x and ~x, namely the
    logical shift of whichever is not negative. Folding the two costs a bit of state, and spares
    eager PyTorch, which has only arithmetic shifts, the masks.
    """
    x = (states ^ (states >> 30)) * _MIX1
    x = (x ^ (x >> 27)) * _MIX2
    return x ^ (x >> 31)


def _polar(words: Tensor) -> tuple[Tensor, Tensor]:
    """Radius and angle of Box–Muller.

    Counting the radius up from 0 keeps small integers, the far tail, exact in float32. Its
    largest ones round to a uniform of 1.0, where the logarithm is 0, still finite. The angle
    is the whole word, of which float32 keeps the leading bits: independent of the radius.
    """
    counts = (words & _RADIUS_BITS).to(torch.float32)
    uniform = counts * _RADIUS_SCALE + 0.5 * _RADIUS_SCALE
    return (-2.0 * uniform.log()).sqrt(), words.to(torch.float32) * _ANGLE_SCALE


def _normal_at(streams: Tensor, token_ids: Tensor) -> Float[Tensor, "rows tokens"]:
    within = token_ids % BLOCK
    index = torch.div(token_ids, BLOCK, rounding_mode="floor") * _PAIRS + within % _PAIRS
    radius, angle = _polar(_word(streams[:, None] + (index + 1) * _GOLDEN))
    return radius * torch.where(within < _PAIRS, angle.cos(), angle.sin())


def _blockwise_normal(streams: Tensor, bases: Tensor) -> Tensor:
    """Plain form of `_fill_eager`, for the compiler to fuse."""
    # The steps inside a block are spelt out here so that the innermost loop has a known length.
    counters = bases[:, None] + torch.arange(_PAIRS, device=bases.device) * _GOLDEN
    radius, angle = _polar(_word(streams[:, None, None] + counters))
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=2)


@dataclass
class _CompiledFill:
    """`_blockwise_normal` compiled when first called, or the eager path once that has failed."""

    function: Callable[[Tensor, Tensor], Tensor] | None = None
    failed: bool = False

    def __call__(self, streams: Tensor, bases: Tensor) -> Tensor:
        if self.failed or len(streams) == 0:
            return _fill_eager(streams, bases)
        if self.function is None:
            # Dynamic shapes: generation changes the number of rows at every step.
            self.function = torch.compile(_blockwise_normal, dynamic=True)
        try:
            return self.function(streams, bases)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers fail in ways of their own: none may cost a run
            warnings.warn(
                "torch.compile failed for keyed noise and the eager path is used instead; set "
                f"{COMPILE_VARIABLE}=0 to silence this. Cause: {error}",
                RuntimeWarning,
                stacklevel=3,
            )
            self.failed = True
            return _fill_eager(streams, bases)


_fill_compiled = _CompiledFill()


def _compiles_by_default(device_type: str) -> bool:
    asked = os.environ.get(COMPILE_VARIABLE, "")
    if asked in ("0", "1"):
        return asked == "1"
    if asked:
        raise ValueError(f"{COMPILE_VARIABLE}={asked!r} is neither 0 nor 1; set one, or unset it")
    return device_type == "cuda" and importlib.util.find_spec("triton") is not None


def _fill_eager(
    streams: Int64[Tensor, " rows"], bases: Int64[Tensor, " blocks"]
) -> Float[Tensor, "rows blocks 2 pairs"]:
    """`_blockwise_normal` in place, some rows at a time.

    On CPU this halves the time: no pass allocates memory, and work stays in the cache.
    """
    rows, blocks, device = len(streams), len(bases), streams.device
    counters = bases[:, None] + torch.arange(_PAIRS, device=device) * _GOLDEN
    on_cpu = device.type == "cpu"
    budget = _WORDS_PER_THREAD * torch.get_num_threads() if on_cpu else _DEVICE_WORDS
    step = max(1, min(rows, budget // counters.numel()))
    out = torch.empty(rows, blocks, 2, _PAIRS, dtype=torch.float32, device=device)
    state_buffer = torch.empty(step, blocks, _PAIRS, dtype=torch.int64, device=device)
    spare_buffer = torch.empty_like(state_buffer)
    for start in range(0, rows, step):
        chunk = streams[start : start + step, None, None]
        state, spare = state_buffer[: len(chunk)], spare_buffer[: len(chunk)]
        # In this order of operands the addition is twice as fast.
        torch.add(counters, chunk, out=state)
        state.bitwise_xor_(torch.bitwise_right_shift(state, 30, out=spare)).mul_(_MIX1)
        state.bitwise_xor_(torch.bitwise_right_shift(state, 27, out=spare)).mul_(_MIX2)
        state.bitwise_xor_(torch.bitwise_right_shift(state, 31, out=spare))
        _box_muller(state, spare, out[start : start + step])
    return out


def _box_muller(words: Tensor, spare: Tensor, out: Tensor) -> None:
    """Turns words [rows, blocks, pairs] into out [rows, blocks, 2, pairs], reusing both inputs."""
    radius, angle = spare.view(-1).view(torch.float32).view(2, *words.shape)
    half_step = torch.full((), 0.5 * _RADIUS_SCALE, dtype=torch.float32, device=words.device)
    angle.copy_(words).mul_(_ANGLE_SCALE)
    radius.copy_(words.bitwise_and_(_RADIUS_BITS))
    torch.add(half_step, radius, alpha=_RADIUS_SCALE, out=radius)
    radius.log_().mul_(-2.0).sqrt_()
    # The words are spent: their memory holds the cosines and sines.
    wave = words.view(-1).view(torch.float32)[: words.numel()].view(words.shape)
    torch.mul(radius, torch.cos(angle, out=wave), out=out[:, :, 0])
    torch.mul(radius, torch.sin(angle, out=wave), out=out[:, :, 1])
