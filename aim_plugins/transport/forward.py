"""Forward passes of a causal language model over batches of sentences, in one thread or several."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedModel

from aim_plugins.modulation.activation_map import ActivationMap
from aim_plugins.modulation.hooks import find_module, split_site
from aim_plugins.transport.responses import last_tokens
from aim_plugins.transport.sentences import SentenceBatch


def forward_of(model: Any, sites: Sequence[str]) -> Callable[[SentenceBatch], object]:
    """A function that runs a model over a batch as far as the sites need it.

    The logits of a large vocabulary take a good part of a pass, and no site asks for them unless it
    is the head itself.
    """
    body = model.base_model if isinstance(model, PreTrainedModel) else model
    inside = {id(module) for module in body.modules()}
    if any(id(find_module(model, split_site(site)[0])) not in inside for site in sites):
        body = model
    device = input_device(model)
    options = {}
    if _takes(body, "use_cache"):
        options["use_cache"] = False  # of every batch, it would stay alive to the end

    def forward(batch: SentenceBatch) -> object:
        # Without padding attention needs no mask, and its causal kernel is faster.
        mask = None if bool(batch.mask.all()) else batch.mask.to(device, torch.long)
        return body(batch.token_ids.to(device), attention_mask=mask, **options)

    return forward


def input_device(model: Any) -> torch.device:
    """Where token ids go; offloaded weights are on no device while nothing runs."""
    for parameter in model.parameters():
        if parameter.device.type != "meta":
            return parameter.device
    device = getattr(getattr(model, "_hf_hook", None), "execution_device", None)
    return torch.device("cpu" if device is None else device)


def transported(
    learned: ActivationMap,
    activations: Tensor,
    mask: Bool[Tensor, "sentences tokens"],
    strength: float,
    positions: str,
) -> Tensor:
    """Transports activations of a batch as `ActivationMaps` does it at inference.

    Args:
        learned: The map.
        activations: A site's output [sentences, tokens, ..., neurons].
        mask: Which tokens are the sentences' own.
        strength: Strength λ.
        positions: Which of them are transported: "all", or the "last" one.
    """
    exact = activations.to(torch.promote_types(activations.dtype, torch.float32))
    weights = torch.tensor(strength, dtype=exact.dtype, device=exact.device)
    if positions == "last":
        chosen = torch.arange(mask.shape[1]) == last_tokens(mask)[:, None]
        spread = chosen.reshape(*chosen.shape, *[1] * (exact.dim() - 2))
        weights = weights * spread.to(exact.device)
    placed = learned.to(exact.device, exact.dtype)
    return placed.added(exact, exact, weights).to(activations.dtype)


def _takes(model: Any, argument: str) -> bool:
    """Whether a forward pass takes an argument; a wrapper's hands on all that it is given."""
    parameters = inspect.signature(model.forward).parameters
    hands_on = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return argument in parameters or hands_on
