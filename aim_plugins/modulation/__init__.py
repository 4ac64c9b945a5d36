"""Modulations: changes of a frozen model at inference, each with a scalar strength.

The names below are loaded when first used, so that exact laws or noise alone do not wait for the
import of transformers, which only the logits processors need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aim_plugins.modulation.activations import ActivationMaps, AffineMap
    from aim_plugins.modulation.arguments import columns_of, read_columns
    from aim_plugins.modulation.changes import Change, register
    from aim_plugins.modulation.columns import Column
    from aim_plugins.modulation.gaussian import GaussianNoise
    from aim_plugins.modulation.logits import (
        GaussianNoiseLogitsProcessor,
        HalfNormalFocusProcessor,
        add_noise,
    )
    from aim_plugins.modulation.noise import (
        NOISE_VERSION,
        extend_keys,
        prefix_keys,
        sequence_keys,
        standard_normal,
        standard_normal_at,
    )
    from aim_plugins.modulation.ordering import (
        argmax_probabilities,
        focus_probabilities,
        greedy_survival,
        label_probability,
        pairwise_order_probability,
    )
    from aim_plugins.modulation.sampling import (
        KeyedSamplingProcessor,
        draw_tokens,
        sampling_seed,
    )

__all__ = [
    "NOISE_VERSION",
    "ActivationMaps",
    "AffineMap",
    "Change",
    "Column",
    "GaussianNoise",
    "GaussianNoiseLogitsProcessor",
    "HalfNormalFocusProcessor",
    "KeyedSamplingProcessor",
    "add_noise",
    "argmax_probabilities",
    "columns_of",
    "draw_tokens",
    "extend_keys",
    "focus_probabilities",
    "greedy_survival",
    "label_probability",
    "pairwise_order_probability",
    "prefix_keys",
    "read_columns",
    "register",
    "sampling_seed",
    "sequence_keys",
    "standard_normal",
    "standard_normal_at",
]

_MODULES = (
    "changes",
    "columns",
    "arguments",
    "noise",
    "gaussian",
    "ordering",
    "activations",
    "logits",
    "sampling",
)


def __getattr__(name: str) -> object:
    if name in __all__:
        for module in _MODULES:
            found = getattr(importlib.import_module(f"{__name__}.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
