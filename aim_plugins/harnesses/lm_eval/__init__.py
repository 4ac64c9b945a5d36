"""lm-evaluation-harness: the model `aim_hf`, and sweeps of strengths in one pass."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aim_plugins.harnesses.lm_eval.model import AimHFLM

__all__ = ["AimHFLM"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.model"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
