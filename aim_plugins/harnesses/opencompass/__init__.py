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
    from aim_plugins.harnesses.opencompass.vllm import (
        VLLMAcTChatModel,
        VLLMAcTModel,
        VLLMNoiseChatModel,
        VLLMNoiseModel,
    )

_HOMES = {
    "HuggingFaceAcTChatModel": "models",
    "HuggingFaceAcTModel": "models",
    "HuggingFaceNoiseChatModel": "models",
    "HuggingFaceNoiseModel": "models",
    "VLLMAcTChatModel": "vllm",
    "VLLMAcTModel": "vllm",
    "VLLMNoiseChatModel": "vllm",
    "VLLMNoiseModel": "vllm",
}

__all__ = [
    "HuggingFaceAcTChatModel",
    "HuggingFaceAcTModel",
    "HuggingFaceNoiseChatModel",
    "HuggingFaceNoiseModel",
    "VLLMAcTChatModel",
    "VLLMAcTModel",
    "VLLMNoiseChatModel",
    "VLLMNoiseModel",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
