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

    Raises:
        ValueError: If the module is no attention to one input of its own width.
    """
    if not isinstance(module, nn.MultiheadAttention) or module.in_proj_weight is None:
        raise ValueError(
            f"components: {type(module).__name__} is no attention whose projections share one "
            "weight: choose components of other layers"
        )

    def forward(
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
        inputs = query if module.batch_first else query.transpose(0, 1)
        attended = _attend(module, parts, inputs, key_padding_mask, attn_mask)
        return (attended if module.batch_first else attended.transpose(0, 1)), None

    module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.forward


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
        query, key, value, attn_mask=_mask(inputs, heads, padding, mask)
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
