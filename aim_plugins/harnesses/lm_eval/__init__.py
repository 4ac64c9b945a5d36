"""lm-evaluation-harness: the models `aim_hf` and `act_hf`, and sweeps of strengths in one run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aim_plugins.harnesses.lm_eval.huggingface import AimHFLM
    from aim_plugins.harnesses.lm_eval.transport import ActHFLM

__all__ = ["ActHFLM", "AimHFLM"]

_MODULES = {"ActHFLM": "transport", "AimHFLM": "huggingface"}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
