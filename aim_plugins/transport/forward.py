"""Forward passes of a causal language model over batches of sentences, in one thread or several."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module

from aim_plugins.modulation.hooks import split_site
from aim_plugins.transport.sentences import SentenceBatch


def forward_of(model: Any, sites: Sequence[str]) -> Callable[[SentenceBatch], object]:
    """A function that runs a model over a batch as far as the sites need it.

    The logits of a large vocabulary take a good part of a pass, and no site asks for them unless it
    is the head itself.
    """
    body = model.base_model if isinstance(model, PreTrainedModel) else model
    inside = {id(module) for module in body.modules()}
    if any(id(model.get_submodule(split_site(site)[0])) not in inside for site in sites):
        body = model
    device = _input_device(model)
    options = {}
    if _takes(body, "use_cache"):
        options["use_cache"] = False  # of every batch, it would stay alive to the end

    def forward(batch: SentenceBatch) -> object:
        # Without padding attention needs no mask, and its causal kernel is faster.
        mask = None if bool(batch.mask.all()) else batch.mask.to(device, torch.long)
        return body(batch.token_ids.to(device), attention_mask=mask, **options)

    return forward


def check_shared_weights(model: Any, passes: int) -> None:
    """Refuses several passes at once over weights that come and go with each.

    Raises:
        NotImplementedError: Naming the mend.
    """
    if passes == 1:
        return
    reason = ""
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        reason = "its weights are offloaded and leave a layer when the first pass does"
    elif is_fsdp_managed_module(model) or is_deepspeed_zero3_enabled():
        reason = "its weights are sharded and gathered for one pass at a time"
    if reason:
        raise NotImplementedError(
            f"batch_size: {passes} passes in lockstep are more than this model can make, because "
            f"{reason}; choose a batch_size that holds all sentences, or load the whole model"
        )


class ThreadSettings:
    """Settings of torch that belong to a thread, as they are where this is made."""

    def __init__(self, model: Any) -> None:
        self._devices = {"cpu", _input_device(model).type}
        self._autocast = {
            device: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
            for device in sorted(self._devices)
        }
        self._cache = torch.is_autocast_cache_enabled()
        self._cuda = torch.cuda.current_device() if "cuda" in self._devices else None

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Makes them hold in the current thread, without gradients."""
        with contextlib.ExitStack() as settings:
            settings.enter_context(torch.no_grad())
            if self._cuda is not None:
                settings.enter_context(torch.cuda.device(self._cuda))
            for device, (enabled, dtype) in self._autocast.items():
                if enabled != torch.is_autocast_enabled(device):
                    settings.enter_context(
                        torch.autocast(
                            device, dtype=dtype, enabled=enabled, cache_enabled=self._cache
                        )
                    )
            yield


def _takes(model: Any, argument: str) -> bool:
    """Whether a forward pass takes an argument; a wrapper's hands on all that it is given."""
    parameters = inspect.signature(model.forward).parameters
    hands_on = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return argument in parameters or hands_on


def _input_device(model: Any) -> torch.device:
    """Where token ids go; offloaded weights are on no device while nothing runs."""
    for parameter in model.parameters():
        if parameter.device.type != "meta":
            return parameter.device
    device = getattr(getattr(model, "_hf_hook", None), "execution_device", None)
    return torch.device("cpu" if device is None else device)
