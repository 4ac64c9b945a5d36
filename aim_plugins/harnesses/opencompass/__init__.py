"""OpenCompass: models with noise or transports, and one load for all strengths of a config."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aim_plugins.harnesses.opencompass.models import (
        HuggingFaceAcTChatModel,
        HuggingFaceAcTModel,
        HuggingFaceNoiseChatModel,
        HuggingFaceNoiseModel,
    )

__all__ = [
    "HuggingFaceAcTChatModel",
    "HuggingFaceAcTModel",
    "HuggingFaceNoiseChatModel",
    "HuggingFaceNoiseModel",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.models"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
