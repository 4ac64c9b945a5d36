"""PyTorch's own attention, computed in steps, so that its projections and heads can be changed.

`torch.nn.MultiheadAttention` never calls its output projection as a module, has none before the
heads, and computes all at once where it can: hooks see nothing of what is inside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aim_plugins.modulation.components import HEADS, IN_PROJECTION, OUT_PROJECTION

Part = Callable[[Tensor], Tensor]


@contextlib.contextmanager
def replaced_attention(module: nn.Module, parts: Mapping[str, Part]) -> Iterator[None]:
    """Lets functions change parts of an attention while the block runs.

    Args:
        module: An `nn.MultiheadAttention` that attends to its own input.
        parts: What becomes of the projections before the heads, their biases aside ("in_proj",
            [batch, tokens, 3 · width]), of what the heads give to the output projection ("heads"),
            and of the latter's output, its bias aside ("out_proj", both [batch, tokens, width]).
            They act after those of a block around this one.

    Raises:
        ValueError: If the module is no attention to one input of its own width.
    """
    _check(module)
    assert isinstance(module, nn.MultiheadAttention)
    before = module.__dict__.get("forward")
    forward = _Forward(module, _after(getattr(before, "parts", {}), parts))
    module.forward = forward  # type: ignore[method-assign]
    # A layer around it computes everything at once unless there are hooks.
    handle = module.register_forward_pre_hook(lambda *given: None)
    try:
        yield
    finally:
        handle.remove()
        if before is None:
            del module.forward
        else:
            module.forward = before  # type: ignore[method-assign]


class _Forward:
    """What takes the place of an attention's `forward`."""

    def __init__(self, module: nn.MultiheadAttention, parts: Mapping[str, Part]) -> None:
        self.module, self.parts = module, parts

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        if key is not query or value is not query or query.ndim != 3:
            raise ValueError(
                "components: an attention to another input than its own cannot be taken apart: "
                "choose components of other layers"
            )
        if query.is_nested:
            raise ValueError(
                "components: an attention to nested tensors cannot be taken apart: build the "
                "encoder with enable_nested_tensor=False"
            )
        if is_causal and attn_mask is None:
            raise ValueError("is_causal=True is a hint beside attn_mask: give that one too")
        batch_first = self.module.batch_first
        inputs = query if batch_first else query.transpose(0, 1)
        attended = _attend(self.module, self.parts, inputs, key_padding_mask, attn_mask)
        return (attended if batch_first else attended.transpose(0, 1)), None


def _check(module: nn.Module) -> None:
    if not isinstance(module, nn.MultiheadAttention) or module.in_proj_weight is None:
        raise ValueError(
            f"components: {type(module).__name__} is no attention whose projections share one "
            "weight: choose components of other layers"
        )
    if module.bias_k is not None or module.add_zero_attn:
        raise ValueError(
            "components: an attention with add_bias_kv or add_zero_attn cannot be taken apart: "
            "choose components of other layers"
        )


def _after(first: Mapping[str, Part], second: Mapping[str, Part]) -> dict[str, Part]:
    """Parts of both, of which the second act on what the first give."""
    both: dict[str, Part] = {**first, **second}
    for name in first.keys() & second.keys():
        both[name] = lambda values, one=first[name], other=second[name]: other(one(values))  # type: ignore[misc]
    return both


def _attend(
    module: nn.MultiheadAttention,
    parts: Mapping[str, Part],
    inputs: Tensor,
    padding: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    batch, tokens, width = inputs.shape
    heads = module.num_heads
    projected = _changed(
        F.linear(inputs, module.in_proj_weight), parts.get(IN_PROJECTION), module.in_proj_bias
    )
    query, key, value = (
        one.view(batch, tokens, heads, width // heads).transpose(1, 2)
        for one in projected.chunk(3, -1)
    )
    attended = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=_mask(inputs, heads, padding, mask),
        dropout_p=module.dropout if module.training else 0.0,
    )
    attended = attended.transpose(1, 2).reshape(batch, tokens, width)
    if HEADS in parts:
        attended = parts[HEADS](attended)
    output = module.out_proj
    return _changed(F.linear(attended, output.weight), parts.get(OUT_PROJECTION), output.bias)


def _changed(values: Tensor, part: Part | None, bias: Tensor | None) -> Tensor:
    values = values if part is None else part(values)
    return values if bias is None else values + bias


def _mask(inputs: Tensor, heads: int, padding: Tensor | None, mask: Tensor | None) -> Any:
    """What is added to the scores of keys: PyTorch's two masks together."""
    found = None
    if mask is not None:
        found = _added(mask, inputs.dtype)
        if found.ndim == 3:  # a mask for each row and head
            found = found.view(len(inputs), heads, *found.shape[1:])
    if padding is not None:
        own = _added(padding, inputs.dtype)[:, None, None, :]
        found = own if found is None else found + own
    return found


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf)
