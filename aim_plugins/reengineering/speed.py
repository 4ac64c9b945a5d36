"""How fast models of transformers read and write, in turn, so that all meet the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from aim_plugins.reengineering.curve import Rates, Speed

_ROUNDS = 5
_PROMPTS, _LENGTH, _WRITTEN = 4, 64, 16


@torch.inference_mode()
def measure_speed(whole: Any, smaller: Any) -> Speed:
    """Tokens a second of reading 4 prompts of 64 tokens, and of writing 16 tokens behind one.

    Args:
        whole: A causal model, in eval mode.
        smaller: Another one of the same vocabulary.
    """
    vocabulary = whole.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(vocabulary, (_PROMPTS, _LENGTH), generator=generator)
    prompts = prompts.to(whole.device)
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

    models = (whole, smaller)
    return Speed(_rates(models, read, _PROMPTS * _LENGTH), _rates(models, write, _WRITTEN))


def _rates(models: Sequence[Any], work: Callable[[Any], object], tokens: int) -> Rates:
    seconds: list[list[float]] = [[] for _ in models]
    for model in models:  # what is compiled or allocated once
        work(model)
    for place in range(_ROUNDS):
        # Backwards every other time, so that none always follows the same one.
        for model, own in list(zip(models, seconds, strict=True))[:: -1 if place % 2 else 1]:
            start = time.perf_counter()
            work(model)
            if model.device.type == "cuda":
                torch.cuda.synchronize(model.device)
            own.append(time.perf_counter() - start)
    return Rates(*([tokens / one for one in own] for own in seconds))
