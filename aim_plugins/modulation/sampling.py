"""Keyed sampling: the drawn token is a pure function of (seed, token prefix, logits).

Of independent exponential variables E_i, the smallest E_i / p_i belongs to token i with probability
p_i; as logits, argmax(l_i - ln E_i) samples from softmax(l) (the Gumbel-max trick). Here
E_i = (z² + z'²) / 2 of two keyed normal draws for token i, so a text depends neither on its batch
nor on how often others were drawn, and distributions that hardly differ mostly draw alike.

Source: Gumbel, "Statistical theory of extreme values", 1954; Maddison, Tarlow and Minka, "A*
sampling", NeurIPS 2014.
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from aim_plugins.modulation.logits import (
    KeyedLogitsProcessor,
    PromptMask,
    Seed,
    validate_seeds,
)
from aim_plugins.modulation.noise import standard_normal
from aim_plugins.modulation.placement import placed

SAMPLING_VERSION = 1
"""Version of the map (seed, prefix, logits) -> token; enters the fingerprints of results."""

_SECOND = 0x5851F42D4C957F2D
"""Added to a seed for the second of two normal draws."""


def sampling_seed(seed: int, occurrence: int = 0) -> int:
    """A seed of sampling, unrelated to the noise of the same seed.

    Args:
        seed: Seed of the draw.
        occurrence: How often the same prompt was sampled before with this seed.

    Returns:
        A signed 64-bit integer.
    """
    digest = hashlib.blake2b(f"sampling {seed} {occurrence}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def draw_tokens(
    keys: Int64[Tensor, " rows"],
    scores: Float[Tensor, "rows vocab"],
    seed: Int64[Tensor, " rows"],
    *,
    compiled: bool | None = None,
) -> Int64[Tensor, " rows"]:
    """Draws a token for each row from the softmax of its scores.

    Args:
        keys: Key of the prefix each row continues.
        scores: Logits after temperature, top-k and the like; those at -inf are never drawn.
        seed: Seed of each row's draw.
        compiled: As in `standard_normal`.

    Returns:
        Token ids.
    """

    def normal(seed: Tensor) -> Tensor:
        return standard_normal(
            keys, scores.shape[1], seed=seed, device=scores.device, compiled=compiled
        )

    second = normal(seed + _SECOND)
    exponential = normal(seed).square_().addcmul_(second, second).mul_(0.5)
    # The smallest normal number, where both draws round to 0.
    exponential.clamp_min_(torch.finfo(torch.float32).tiny)
    return (scores - exponential.log_()).argmax(dim=1)


class KeyedSamplingProcessor(KeyedLogitsProcessor):
    """Draws the next token and leaves no other; greedy decoding then takes it.

    Last in the list of processors, after temperature, top-k and the like.

    Args:
        seed: Seed of the draws: one, or one per prompt.
        attention_mask: As in `GaussianNoiseLogitsProcessor`.
        trusted: As in `KeyedLogitsProcessor`.

    Raises:
        ValueError: As in `GaussianNoiseLogitsProcessor`.
    """

    def __init__(
        self, seed: Seed = 0, *, attention_mask: PromptMask | None = None, trusted: bool = False
    ) -> None:
        super().__init__(validate_seeds(seed), attention_mask, name="seed", trusted=trusted)

    def _modulate(self, keys: Tensor, scores: Tensor, settings: list[int]) -> Tensor:
        drawn = draw_tokens(keys, scores, placed(settings, torch.int64, scores.device))
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn[:, None], 0.0)
