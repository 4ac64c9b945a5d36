"""Temperature sampling whose draws are a function of seed, prefix and token id, as noise is.

`model.generate` draws tokens from one generator for the whole batch, so that its texts depend on
whatever else is in the batch. Here the last logits processor draws instead, keyed by the prefix
(`aim_plugins.modulation.sampling`): texts are the same alone, in any batch and in either engine,
and strengths share their draws as they share their noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from aim_plugins.modulation.sampling import KeyedSamplingProcessor

SAMPLING_OPTIONS: dict[str, Any] = {
    **{"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": None, "top_h": None},
    **{"typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0},
}
"""Options of `generate` that shape the distribution, and what transformers takes where nothing is
given, which greedy decoding accepts without a word."""


def is_sampling(model: Any, generation_kwargs: Mapping[str, Any]) -> bool:
    """Whether `model.generate` draws tokens at random, told to or by the model's own config."""
    return bool(generation_kwargs.get("do_sample", model.generation_config.do_sample))


def beam_count(model: Any, generation_kwargs: Mapping[str, Any]) -> int:
    """Beams of each prompt that `model.generate` keeps, told to or by the model's own config."""
    return generation_kwargs.get("num_beams", model.generation_config.num_beams) or 1


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
        Logits processors that leave one token of scores that are numbers, and the arguments of a
        greedy `generate`.

    Raises:
        ValueError: If several beams sample.
    """
    own = model.generation_config.to_dict()
    if (beams := beam_count(model, generation_kwargs)) > 1:
        raise ValueError(
            f"num_beams={beams} and do_sample=True: beams of one prompt cannot share a keyed draw; "
            "take num_beams=1 or do_sample=False"
        )
    settings = sampling_settings(own, generation_kwargs)
    drawing = KeyedSamplingProcessor(seeds, attention_mask=mask, trusted=True)
    processors = LogitsProcessorList([*warpers(settings), drawing])
    return processors, {**generation_kwargs, **SAMPLING_OPTIONS, "do_sample": False}


def sampling_settings(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, float]:
    """What `generate` samples with, by the model's own generation config and what is given.

    Args:
        own: Entries of the generation config.
        given: Arguments of `generate`.

    Returns:
        The options of `SAMPLING_OPTIONS` that are set, by name.
    """
    settings = {name: given.get(name, own.get(name)) for name in SAMPLING_OPTIONS}
    if "top_k" in given and given["top_k"] is None:
        settings["top_k"] = 0  # to transformers a None that is given means none
    return {name: value for name, value in settings.items() if value is not None}


def warpers(settings: Mapping[str, float]) -> list[LogitsProcessor]:
    """Those that `generate` of transformers makes of its options, in its order.

    Args:
        settings: Options by name, as of `sampling_settings`.

    Raises:
        ValueError: If a value is out of range.
    """
    options = SAMPLING_OPTIONS | dict(settings)
    found: list[LogitsProcessor] = []
    if options["temperature"] != 1.0:
        found.append(TemperatureLogitsWarper(options["temperature"]))
    if options["top_h"] is not None:
        found.append(TopHLogitsWarper(top_h=options["top_h"]))
    if options["top_k"] != 0:
        found.append(TopKLogitsWarper(top_k=options["top_k"]))
    if options["top_p"] < 1.0:
        found.append(TopPLogitsWarper(top_p=options["top_p"]))
    if options["min_p"] is not None:
        found.append(MinPLogitsWarper(min_p=options["min_p"]))
    if options["typical_p"] < 1.0:
        found.append(TypicalLogitsWarper(mass=options["typical_p"]))
    if 0.0 < options["epsilon_cutoff"] < 1.0:
        found.append(EpsilonLogitsWarper(epsilon=options["epsilon_cutoff"]))
    if 0.0 < options["eta_cutoff"] < 1.0:
        found.append(EtaLogitsWarper(epsilon=options["eta_cutoff"]))
    return found
