"""What a model's cache of keys and values allows: whether rows may be repeated over columns."""

from __future__ import annotations

from typing import Any

from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer


def keeps_positions(model: Any) -> bool:
    """Whether a model keeps offsets of positions by row, so that no other rows can go on.

    Qwen2-VL and others that see do, from the first call of `generate`.
    """
    return any(hasattr(module, "rope_deltas") for module in model.modules())


def repeats(cache: Any, tokens: int) -> bool:
    """Whether a model's cache has rows that can be repeated and selected.

    Args:
        cache: What the model returned.
        tokens: Tokens of each row that it has read; a model need not fill its cache.
    """
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    return (
        type(cache) is DynamicCache
        and all(type(layer) in plain for layer in cache.layers)
        and cache.get_seq_length() == tokens
    )
