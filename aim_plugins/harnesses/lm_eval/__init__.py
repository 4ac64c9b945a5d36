"""lm-evaluation-harness: the models `aim_hf` and `act_hf`, and sweeps of strengths in one run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aim_plugins.harnesses.lm_eval.huggingface import ActHFLM, AimHFLM

__all__ = ["ActHFLM", "AimHFLM"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.huggingface"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
