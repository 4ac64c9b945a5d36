"""Utility modulation as a change: keyed Gaussian noise on every logit.

Source: AIM, arXiv 2603.12755, utility modulation: l̃_j = l_j + n_j, n_j ~ N(mean, std²).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from aim_plugins.core.strengths import Axis
from aim_plugins.modulation.columns import Change, Scratch
from aim_plugins.modulation.noise import NOISE_VERSION, standard_normal
from aim_plugins.modulation.ordering import argmax_probabilities


@dataclass(frozen=True)
class GaussianNoise(Change):
    """Keyed Gaussian noise on the logits.

    Attributes:
        std: Standard deviation in logit units (nats); 0 leaves the logits as they are.
        mean: Mean in logit units.
        seed: Seed of the draw.
    """

    name = "noise"
    axis = Axis("std", "σ", "noise std", "logits", low=0.0)
    acts_on = "logits"
    arguments = {
        "noise_std": "stds of Gaussian noise on the logits, in logit units",
        "noise_mean": "mean of the noise in logit units, default 0",
    }
    draws = True
    # Logits differ by tens: at a hundred times that nothing is left of the model, and float32 keeps
    # three decimals of the sum, where farther out it would lose them.
    request_limit = 1e4

    std: float
    mean: float = 0.0
    seed: int = 0

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> tuple[GaussianNoise, ...]:
        mean = given.get("noise_mean", 0.0)
        try:
            finite = not isinstance(mean, bool) and math.isfinite(float(mean))
        except (TypeError, ValueError):
            finite = False
        if not finite:
            raise ValueError(f"noise_mean={mean!r} must be a finite number: give one such as 0.0")
        stds = cls.axis.parse(given.get("noise_std", 0.0), "noise_std")
        return tuple(cls(std, float(mean)) for std in stds)

    @property
    def strength(self) -> float:  # type: ignore[override]
        """The standard deviation."""
        return self.std

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "version": NOISE_VERSION}

    @property
    def settings(self) -> dict[str, Any]:
        return {"noise_std": self.std, "noise_mean": self.mean}

    @property
    def request(self) -> dict[str, Any]:
        return {"aim_std": self.std, "aim_mean": self.mean, "aim_seed": self.seed}

    def modulate(
        self, logits: Float[Tensor, "rows vocab"], keys: Int64[Tensor, " rows"], scratch: Scratch
    ) -> Float[Tensor, "rows vocab"]:
        noise = scratch.draw(
            self.name,
            self.seed,
            lambda: standard_normal(keys, logits.shape[1], seed=self.seed, device=logits.device),
        )
        # A mean shifts every logit alike, which neither softmax nor argmax can see.
        return torch.add(logits, noise, alpha=self.std, out=scratch.buffer(logits))

    @classmethod
    def modulate_rows(
        cls,
        logits: Float[Tensor, "rows vocab"],
        keys: Int64[Tensor, " rows"],
        changes: Sequence[GaussianNoise],
        *,
        compiled: bool | None = None,
    ) -> Float[Tensor, "rows vocab"]:
        def column(values: list[Any]) -> Tensor:
            return torch.tensor(values, device=logits.device)

        stds, seeds = [one.std for one in changes], [one.seed for one in changes]
        means = [one.mean for one in changes]
        mean = column(means) if any(means) else 0.0
        return _noisy(logits, keys, column(stds), mean, column(seeds), compiled=compiled)

    def argmax_law(
        self, logits: Float[Tensor, "documents classes"]
    ) -> Float[Tensor, "documents classes"]:
        return argmax_probabilities(logits, self.std)


def add_noise(
    logits: Float[Tensor, "rows vocab"],
    keys: Int64[Tensor, " rows"],
    std: Float[Tensor, " rows"],
    mean: float = 0.0,
    seed: int | Int[Tensor, " rows"] = 0,
) -> Float[Tensor, "rows vocab"]:
    """Adds keyed Gaussian noise: logits + mean + std·z(seed, key, token id).

    Args:
        logits: Clean logits.
        keys: Key of the prefix each row continues.
        std: Noise standard deviation of each row, in logit units; a row of std 0 is returned
            bit for bit, also where `mean` is not 0.
        mean: Noise mean, in logit units. It shifts a row's logits alike: it changes no
            probability unless another processor looks at the logits' absolute values.
        seed: Seed of the draw; one for all rows or one per row.

    Returns:
        New logits in the dtype of `logits`, computed in float32 or wider.

    Raises:
        ValueError: `seed` has another number of rows than `keys`.
    """
    noisy = _noisy(logits, keys, std, mean, seed)
    return torch.where(std.to(logits.device)[:, None] > 0, noisy, logits)


def _noisy(
    logits: Tensor,
    keys: Tensor,
    std: Tensor,
    mean: float | Tensor,
    seed: int | Tensor,
    *,
    compiled: bool | None = None,
) -> Tensor:
    noise = standard_normal(
        keys, logits.shape[1], seed=seed, device=logits.device, compiled=compiled
    )
    noise.mul_(std.to(noise)[:, None])
    if isinstance(mean, Tensor):
        noise.add_(mean.to(noise)[:, None])
    elif mean:
        noise.add_(mean)
    # A float64 row keeps its precision; half precision is widened by the addition.
    total = noise.add(logits) if logits.dtype == torch.float64 else noise.add_(logits)
    return total.to(logits.dtype)
