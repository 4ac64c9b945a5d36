"""How fast models of transformers read and write, in turn, so that all meet the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from aim_plugins.reengineering.curve import Speed

_ROUNDS = 5
_PROMPTS, _LENGTH, _WRITTEN = 4, 64, 16


@torch.inference_mode()
def measure_speed(models: Sequence[Any]) -> Speed:
    """Tokens a second of reading 4 prompts of 64 tokens, and of writing 16 tokens behind one.

    Args:
        models: Causal models of the same vocabulary, in eval mode.
    """
    vocabulary = models[0].get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(vocabulary, (_PROMPTS, _LENGTH), generator=generator)
    prompts = prompts.to(models[0].device)
    prompt, mask = prompts[:1, :8], torch.ones_like(prompts[:1, :8])

    def read(model: Any) -> object:
        return model(prompts, use_cache=False).logits

    def write(model: Any) -> object:
        return model.generate(
            prompt,
            attention_mask=mask,
            min_new_tokens=_WRITTEN,
            max_new_tokens=_WRITTEN,
            do_sample=False,
            pad_token_id=0,
        )

    return Speed(_rates(models, read, _PROMPTS * _LENGTH), _rates(models, write, _WRITTEN))


def _rates(models: Sequence[Any], work: Callable[[Any], object], tokens: int) -> list[float]:
    seconds: list[list[float]] = [[] for _ in models]
    for model in models:  # what is compiled or allocated once
        work(model)
    for _ in range(_ROUNDS):
        for model, own in zip(models, seconds, strict=True):
            start = time.perf_counter()
            work(model)
            if model.device.type == "cuda":
                torch.cuda.synchronize(model.device)
            own.append(time.perf_counter() - start)
    return [tokens / median(own) for own in seconds]
