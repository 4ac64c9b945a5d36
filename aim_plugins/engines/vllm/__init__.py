"""vLLM: every column of a table in one continuous batch.

- `processor`: the logits processor that changes logits and draws tokens by keys, each request at
  its own strengths;
- `plugin`: what an installed aim-plugins adds to every vLLM, so that nothing is silently ignored;
- `transports`: which transports an engine has, and what its requests may ask of them;
- `loading`: transports that a running server loads and unloads;
- `conditions`: which conditions it has, and how requests ask for them;
- `probes`: how they are decided, ahead of a request;
- `worker_states`: states of prompts, which they are decided by, inside vLLM's workers;
- `worker_maps`: their maps on activations inside vLLM's workers, each request at its own strengths;
- `worker`: scoring of prompts under all columns, inside vLLM's workers;
- `watching`: what workers see of the requests whose answers get receipts;
- `receipts`: what is made of it: in this process by `runs`, of a server's answers by `served`;
- `responses`: where clients of a server find their receipts;
- `engine`: `VLLMEngine`, which brings these together for the harnesses.

Only these modules import vLLM, and only when they are asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aim_plugins.engines.vllm.arguments import llm_arguments
    from aim_plugins.engines.vllm.engine import VLLMEngine
    from aim_plugins.engines.vllm.processor import ChangesVLLMProcessor

_HOMES = {
    "ChangesVLLMProcessor": "processor",
    "VLLMEngine": "engine",
    "llm_arguments": "arguments",
}

__all__ = ["ChangesVLLMProcessor", "VLLMEngine", "llm_arguments"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
