"""The law of a mean whose documents' differences fall either way with equal chance.

That is what chance alone would make of two models that are equally good. The law is exact where the
differences are multiples of one step, as those of right answers averaged over draws, or few; else
signs are dealt out by chance, from a fixed seed.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

_STEPS = 64
"""Largest denominator that differences are taken for multiples of a fraction with."""
_FEW = 13
"""So many documents that differ have all their signs dealt out."""
_DEALS = (9_999, 90_000)
"""How often signs are dealt out, and how often besides where few deals reach what was seen."""
_RARE = 50
_BLOCK = 1 << 22
"""Signs that are held at once."""
_TAIL = 9.0
"""Standard deviations beyond which a binomial law is left out: 1e-18 of it."""
_SLACK = 1e-9
"""Relative; equal sums may round apart."""


def sign_flip_law(differences: Float[np.ndarray, " documents"], seed: int = 0) -> float:
    """How likely the mean is as far from 0 as this one, or further, if every sign were chance.

    Args:
        differences: One for each document.
        seed: Of the signs, where they are dealt out by chance.

    Source: Fisher, "The Design of Experiments", 1935, section 21; of deals by chance that of the
    differences counts as one of them: Phipson and Smyth, "Permutation p-values should never be
    zero", Statistical Applications in Genetics and Molecular Biology 9, 2010.
    """
    told = np.abs(differences[differences != 0])
    seen = abs(float(differences.sum())) * (1 - _SLACK)
    if not len(told) or seen == 0:
        return 1.0
    steps = _common_steps(told)
    if steps is not None:
        return _lattice_p(*steps, seen)
    return _dealt_p(told, seen, seed)


def _common_steps(
    sizes: Float[np.ndarray, " documents"],
) -> tuple[Int[np.ndarray, " documents"], float] | None:
    """Sizes as multiples of 1 / d, and d; None where no small d makes them whole."""
    for denominator in range(1, _STEPS + 1):
        multiples = sizes * denominator
        whole = np.rint(multiples)
        if np.abs(multiples - whole).max() < 1e-9 * denominator and whole.max() <= 4 * _STEPS:
            return whole.astype(np.int64), float(denominator)
    return None


def _lattice_p(sizes: Int[np.ndarray, " documents"], denominator: float, seen: float) -> float:
    """The exact law: a convolution of a binomial law for each size that differences have."""
    law, lowest = np.ones(1), 0
    for size, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        heads, chances = _binomial(int(count))
        spread = np.zeros(2 * int(size) * (len(chances) - 1) + 1)
        spread[:: 2 * int(size)] = chances
        law = np.convolve(law, spread)
        lowest += int(size) * (2 * heads - int(count))
    sums = lowest + np.arange(len(law))
    return min(1.0, float(law[np.abs(sums) >= seen * denominator].sum()))


def _binomial(count: int) -> tuple[int, Float[np.ndarray, " heads"]]:
    """How often a fair coin shows heads in so many throws: from where on, and how likely each."""
    from scipy.stats import binom

    reach = math.ceil(_TAIL * math.sqrt(count) / 2)
    low, high = max(0, count // 2 - reach), min(count, count // 2 + reach + 1)
    return low, binom.pmf(np.arange(low, high + 1), count, 0.5)


def _dealt_p(sizes: Float[np.ndarray, " documents"], seen: float, seed: int) -> float:
    if len(sizes) <= _FEW:
        numbers = np.arange(1 << len(sizes))[:, None]
        signs = 1 - 2 * (numbers >> np.arange(len(sizes)) & 1)
        return float((np.abs(signs @ sizes) >= seen).mean())
    generator, reached, deals = np.random.default_rng(seed), 0, 0
    for more in _DEALS:
        reached += _deal(sizes, seen, more, generator)
        deals += more
        if reached >= _RARE:
            break
    return (reached + 1) / (deals + 1)


def _deal(
    sizes: Float[np.ndarray, " documents"], seen: float, deals: int, generator: np.random.Generator
) -> int:
    """How many of some deals of signs reach what was seen."""
    reached, total, count = 0, sizes.sum(), len(sizes)
    block = max(1, _BLOCK // count)
    for start in range(0, deals, block):
        rows = min(block, deals - start)
        bits = np.unpackbits(
            np.frombuffer(generator.bytes(rows * -(-count // 8)), dtype=np.uint8).reshape(rows, -1),
            axis=1,
            count=count,
        )
        reached += int((np.abs(total - 2 * (bits @ sizes)) >= seen).sum())
    return reached
