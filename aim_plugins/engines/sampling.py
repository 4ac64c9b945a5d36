"""Temperature sampling whose draws are a function of seed, prefix and token id, as noise is.

`model.generate` draws tokens from one generator for the whole batch, so that its texts depend on
whatever else is in the batch. Here the last logits processor draws instead, keyed by the prefix
(`aim_plugins.modulation.sampling`): texts are the same alone and in any batch, and strengths share
their draws as they share their noise.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from aim_plugins.modulation.sampling import KeyedSamplingProcessor

_NEUTRAL: dict[str, Any] = {
    **{"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": None, "top_h": None},
    **{"typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0},
}
"""What transformers takes where nothing is given, which greedy decoding accepts without a word."""


def is_sampling(model: Any, generation_kwargs: Mapping[str, Any]) -> bool:
    """Whether `model.generate` draws tokens at random, told to or by the model's own config."""
    return bool(generation_kwargs.get("do_sample", model.generation_config.do_sample))


def keyed_sampling(
    model: Any, generation_kwargs: Mapping[str, Any], seeds: Tensor, mask: Tensor
) -> tuple[LogitsProcessorList, dict[str, Any]]:
    """Replaces the sampling of `model.generate` by a keyed one of the same distribution.

    Args:
        model: A transformers causal language model.
        generation_kwargs: Arguments of its `generate`.
        seeds: Seed of each row's draws.
        mask: Mask of the padded prompts.

    Returns:
        Logits processors that leave one token, and the arguments of a greedy `generate`.

    Raises:
        ValueError: If several beams sample.
    """
    config = copy.deepcopy(model.generation_config)
    config.update(**generation_kwargs)
    if (config.num_beams or 1) > 1:
        raise ValueError(
            f"num_beams={config.num_beams} and do_sample=True: beams of one prompt cannot share a "
            "keyed draw; take num_beams=1 or do_sample=False"
        )
    processors = LogitsProcessorList(
        [*_warpers(config), KeyedSamplingProcessor(seeds, attention_mask=mask)]
    )
    return processors, {**generation_kwargs, **_NEUTRAL, "do_sample": False}


def _warpers(config: Any) -> list[Any]:
    """Those that `generate` of transformers makes of a config, in its order."""
    top_k = _NEUTRAL["top_k"] if config.top_k is None else config.top_k
    found: list[Any] = []
    if config.temperature is not None and config.temperature != 1.0:
        found.append(TemperatureLogitsWarper(config.temperature))
    if getattr(config, "top_h", None) is not None:
        found.append(TopHLogitsWarper(top_h=config.top_h))
    if top_k != 0:
        found.append(TopKLogitsWarper(top_k=top_k))
    if config.top_p is not None and config.top_p < 1.0:
        found.append(TopPLogitsWarper(top_p=config.top_p))
    if config.min_p is not None:
        found.append(MinPLogitsWarper(min_p=config.min_p))
    if config.typical_p is not None and config.typical_p < 1.0:
        found.append(TypicalLogitsWarper(mass=config.typical_p))
    if 0.0 < (config.epsilon_cutoff or 0.0) < 1.0:
        found.append(EpsilonLogitsWarper(epsilon=config.epsilon_cutoff))
    if 0.0 < (config.eta_cutoff or 0.0) < 1.0:
        found.append(EtaLogitsWarper(epsilon=config.eta_cutoff))
    return found
