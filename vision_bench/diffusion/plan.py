"""How an image transport is to be fitted, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aim_plugins.core.errors import did_you_mean
from aim_plugins.transport.incremental import check_incremental
from aim_plugins.transport.maps import METHODS, check_support, find_method
from aim_plugins.transport.methods.method import Method
from aim_plugins.transport.plan import check_counts, check_learning_strength, check_sides
from vision_bench.diffusion.layout import check_rows
from vision_bench.diffusion.placement import check_pooling

TIMESTEPS: Mapping[str, str] = {
    "first": "the first denoising step",
    "each": "each denoising step, with maps of its own",
    "pooled": "all denoising steps together",
}
"""At which denoising steps maps are learned."""

_OF_SENTENCES = {
    "caa": "on images its map is that of method='mean'",
    "actadd": "on images its map is that of method='mean' from one prompt a side",
    "pca": "its direction is that of pairs of sentences",
}
"""Methods that need a sentence's last token, and what to say of them."""

_MIXING = ("chars",)
"""Methods whose maps move neurons by what others are."""


@dataclass(frozen=True)
class ImageFitPlan:
    """How to fit: what the user chose, and the method's own support elsewhere.

    Attributes:
        method: Learns the map of a site.
        pooling: How the places of an image become responses: their "mean", or "all" by itself.
        support: Where maps act.
        timesteps: One of `TIMESTEPS`.
        incremental: Which side's images go through the maps learned so far, see
            `aim_plugins.transport.incremental`.
        strength: Strength at which they do.
        rows: Which rows are transported under guidance, see `layout`.
    """

    method: Method
    pooling: str
    support: str
    timesteps: str
    incremental: str
    strength: float
    rows: str

    def strengths(self, n_source: int, n_target: int) -> list[float]:
        """Strength at which images go through the maps learned so far, those of the source first.

        Empty where none does.
        """
        if self.incremental == "atonce":
            return []
        target = self.strength if self.incremental == "causal" else 0.0
        return [self.strength] * n_source + [target] * n_target


def plan_image_fit(
    source: Sequence[str],
    target: Sequence[str],
    *,
    method: str,
    pooling: str,
    support: str | None,
    timesteps: str,
    incremental: str,
    strength: float,
    rows: str,
    batch_size: int,
    num_inference_steps: int | None,
    height: int | None,
    width: int | None,
) -> ImageFitPlan:
    """Checks the arguments of `fit_transport` that need no pipeline.

    Raises:
        ValueError: If an argument is unknown or out of its range, or a side has too few prompts.
        TypeError: If a side is a single text, or holds something else than texts.
    """
    images = [
        name
        for name in METHODS
        if name not in (*_OF_SENTENCES, *_MIXING) and not find_method(name).joined
    ]
    if method in _MIXING:
        raise ValueError(
            f"method={method!r} moves neurons by what others are, which is written for language "
            f"models alone: choose one of {', '.join(images)}"
        )
    if method in METHODS and find_method(method).joined:
        raise ValueError(
            f"method={method!r} learns the maps of all sites with each other, which is written for "
            f"language models alone: choose one of {', '.join(images)}"
        )
    if method in _OF_SENTENCES:
        raise ValueError(
            f"method={method!r} takes the last token of a sentence, which images have not: "
            f"{_OF_SENTENCES[method]}; choose one of {', '.join(images)}"
        )
    chosen = find_method(method)
    check_pooling(pooling)
    if timesteps not in TIMESTEPS:
        raise ValueError(
            f"timesteps={timesteps!r} is unknown; {did_you_mean(timesteps, TIMESTEPS)}"
        )
    check_incremental(incremental)
    check_rows(rows)
    support = chosen.support if support is None else support
    check_support(chosen, support)
    check_learning_strength(strength)
    check_sides(chosen, source, target, "prompt")
    sizes = {"num_inference_steps": num_inference_steps, "height": height, "width": width}
    check_counts(batch_size=batch_size, **sizes)
    return ImageFitPlan(chosen, pooling, support, timesteps, incremental, float(strength), rows)
