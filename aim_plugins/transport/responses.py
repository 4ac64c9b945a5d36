"""Responses: the activations of a sentence at one site, pooled over its tokens.

Sentences of a batch are padded to one length; the padding never counts. Pooling in another order
than the sentences', or in other batches, gives the same responses.

Source: arXiv 2410.23054, section 3 (pooling) and appendix D (which one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aim_plugins.transport.vocabulary import check_pooling

Activations = Float[Tensor, "sentences tokens neurons"]
Counted = Bool[Tensor, "sentences tokens"]


@dataclass(frozen=True)
class Responses:
    """Pooled activations of some sentences.

    Attributes:
        values: The responses, those of one sentence next to each other.
        counts: Responses of each sentence: 1, but for the pooling "all" and modules with several
            outputs for a token (attention heads).
    """

    values: Float[Tensor, "responses neurons"]
    counts: Int[Tensor, " sentences"]


def pool(activations: Float[Tensor, ...], mask: Counted, pooling: str) -> Responses:
    """Pools activations over the tokens of each sentence, at least in float32.

    Args:
        activations: A module's output [sentences, tokens, ..., neurons]. Where there are several
            vectors for a token, such as one for each attention head, each counts as a token.
        mask: Which tokens are the sentence's own; each sentence has one.
        pooling: One of `POOLINGS`. "last" takes the last token, "all" makes every token a response
            of its own.

    Raises:
        ValueError: If the pooling is unknown.
    """
    check_pooling(pooling)
    dtype = torch.promote_types(activations.dtype, torch.float32)
    if pooling == "last":
        rows = torch.arange(len(mask), device=activations.device)
        activations = activations[rows, last_tokens(mask).to(activations.device)].unsqueeze(1)
        mask = torch.ones_like(mask[:, :1])
    sentences, tokens, *several, neurons = activations.shape
    heads = torch.Size(several).numel()
    flat = activations.reshape(sentences, -1, neurons).to(dtype)
    counted = mask.repeat_interleave(heads, dim=1)
    there = counted.to(activations.device)
    if pooling in ("all", "last"):
        return Responses(flat[there], counted.sum(dim=1).cpu())
    return Responses(_REDUCTIONS[pooling](flat, there), torch.ones(sentences, dtype=torch.long))


def last_tokens(mask: Counted) -> Int[Tensor, " sentences"]:
    """Positions of the last token of each sentence, on whichever side the padding is."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, positions, -1).amax(dim=1)


def as_tokens(output: Tensor, mask: Counted, site: str) -> Tensor:
    """A module's output with its rows and tokens apart.

    Some modules see the tokens of a batch as the rows of a matrix, such as OPT's feed-forward part.

    Args:
        output: The output, [sentences, tokens, ..., neurons] or [sentences * tokens, neurons].
        mask: Mask of the batch's tokens.
        site: The site's name, for the error.

    Raises:
        ValueError: If it has another shape.
    """
    sentences, tokens = mask.shape
    if output.dim() >= 3 and output.shape[:2] == (sentences, tokens):
        return output
    if output.dim() == 2 and len(output) == sentences * tokens:
        return output.reshape(sentences, tokens, -1)
    raise ValueError(
        f"modules: {site!r} has an output of the shape {tuple(output.shape)}, not [sentences, "
        f"tokens, neurons] with {sentences} sentences of {tokens} tokens: leave it out of the "
        "pattern"
    )


def in_order(
    parts: Sequence[Responses], sentences: Sequence[Int[Tensor, " _"]]
) -> tuple[Float[Tensor, "responses neurons"], Int[Tensor, " responses"]]:
    """Puts the responses of several batches into the order of the sentences.

    Args:
        parts: Responses of each batch.
        sentences: For each batch, the numbers of its sentences.

    Returns:
        The responses, and the sentence of each.
    """
    counts = torch.cat([part.counts for part in parts])
    owners = torch.cat(list(sentences)).repeat_interleave(counts)
    ordered, order = owners.sort(stable=True)
    values = torch.cat([part.values for part in parts])
    return values[order.to(values.device)], ordered


def _mean(activations: Activations, mask: Counted) -> Float[Tensor, "sentences neurons"]:
    kept = activations.masked_fill(~mask[:, :, None], 0.0)  # NaN of padding would survive a product
    return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True)


def _min(activations: Activations, mask: Counted) -> Float[Tensor, "sentences neurons"]:
    return activations.masked_fill(~mask[:, :, None], torch.inf).amin(dim=1)


def _max(activations: Activations, mask: Counted) -> Float[Tensor, "sentences neurons"]:
    return activations.masked_fill(~mask[:, :, None], -torch.inf).amax(dim=1)


def _median(activations: Activations, mask: Counted) -> Float[Tensor, "sentences neurons"]:
    # torch's median of an even number of values is the lower one, as in the reference code; here
    # it is found by rank, so that padding, sorted to the end, changes nothing.
    ranked = activations.masked_fill(~mask[:, :, None], torch.inf).sort(dim=1).values
    middle = (mask.sum(dim=1) - 1) // 2
    values = ranked[torch.arange(len(ranked)), middle]
    broken = (activations.isnan() & mask[:, :, None]).any(dim=1)
    return values.masked_fill(broken, torch.nan)  # sorted to the end like padding, NaN would hide


_REDUCTIONS: dict[str, Callable[[Any, Any], Tensor]] = {
    "mean": _mean,
    "min": _min,
    "max": _max,
    "median": _median,
}
