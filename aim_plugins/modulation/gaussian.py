"""Utility modulation as a change: keyed Gaussian noise on every logit.

Source: AIM, arXiv 2603.12755, utility modulation: l̃_j = l_j + n_j, n_j ~ N(mean, std²).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aim_plugins.core.strengths import Axis, validate_strength
from aim_plugins.modulation.changes import Change, Scratch


@dataclass(frozen=True)
class GaussianNoise(Change):
    """Keyed Gaussian noise on the logits.

    The module is read wherever arguments are, so torch is imported only where noise is added.

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
    certain = True
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
        from aim_plugins.modulation.noise import NOISE_VERSION

        return {**super().identity, "version": NOISE_VERSION}

    @property
    def settings(self) -> dict[str, Any]:
        return {"noise_std": self.std, "noise_mean": self.mean}

    @classmethod
    def request_names(cls) -> tuple[str, ...]:
        return (*super().request_names(), "aim_mean")

    @property
    def request(self) -> dict[str, Any]:
        return {**super().request, "aim_mean": self.mean}

    @classmethod
    def of_request(cls, given: Mapping[str, Any]) -> GaussianNoise | None:
        std, mean = cls.request_names()
        if std not in given and mean not in given:
            return None
        limit = cls.request_limit
        return cls(
            cls.axis.check(given.get(std, 0.0), std, limit=limit),
            validate_strength(given.get(mean, 0.0), name=mean, low=-math.inf, limit=limit),
        )

    def modulate(self, logits: Any, keys: Any, scratch: Scratch) -> Any:
        import torch

        from aim_plugins.modulation.noise import standard_normal

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
        logits: Any,
        keys: Any,
        changes: Sequence[GaussianNoise],
        *,
        rows: Sequence[int] | None = None,
        compiled: bool | None = None,
    ) -> Any:
        from aim_plugins.modulation.noise import noisy_rows

        return noisy_rows(
            logits,
            keys,
            [change.std for change in changes],
            [change.mean for change in changes],
            [change.seed for change in changes],
            rows=rows,
            compiled=compiled,
        )

    def argmax_law(self, logits: Any) -> Any:
        from aim_plugins.modulation.ordering import argmax_probabilities

        return argmax_probabilities(logits, self.std)
